"""`fgvr dataset NAME`: one command for each published data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from fgvr.cli.options import How, InputFile, settings, stage_io
from fgvr.datasets import open_dataset
from fgvr.datasets.settings import Published
from fgvr.datasets.spec import Spec
from fgvr.errors import FgvrError
from fgvr.job import Job

labels_option = click.option(
    "--labels", type=InputFile(), metavar="FILE",
    help="CSV or JSONL with category and coarse, superordinate or fine: labels to add or replace.",
)  # fmt: skip


def published(name: str) -> click.Command:
    """The command of one data set."""
    spec = open_dataset(name)
    train = next(iter(spec.splits))

    def read(job: Job, root: str, **given: Any) -> None:
        _read(spec, job, Path(root), **given)

    command: Any = settings(Published)(read)
    levels = click.option(
        "--level", type=click.Choice(spec.levels), default="".join(spec.levels[:1]), show_default=True,
        help="What to tell apart.",
    )  # fmt: skip
    for option in (
        click.option("--download", is_flag=True, cls=How, help="First fetch, check and unpack what is missing."),
        *([levels] if spec.levels else []),
        labels_option,
        click.option("--split", required=True, type=click.Choice(list(spec.splits)), help="Official split."),
        click.option("--root", type=click.Path(file_okay=False), required=True, metavar="DIR",
                     help="Its folder, or the one that its archives were unpacked in."),
    ):  # fmt: skip
        command = option(command)
    command = stage_io(command, source=False)
    return click.command(name, help=_help(name, spec, train), short_help=spec.title)(command)


def _help(name: str, spec: Spec, train: str) -> str:
    counts = ", ".join(f"{split} {count:,}" for split, count in spec.splits.items())
    number = " / ".join(f"{count:,}" for count in spec.sizes)
    expects = ", ".join(spec.expects).replace("|", " or ")
    return (
        f"Read {spec.title}: {number} categories ({counts} images).\n\n"
        f"Expects below --root, as the archives unpack: {expects}. Official counts are checked. Records come in the "
        f"order of the list files, with labels and, where benchmarks spell names otherwise, aliases.\n\n"
        f"\b\nExample:\n  fgvr dataset {name} --root DIR --split {train} > {train}.jsonl"
    )


def _read(
    spec: Spec,
    job: Job,
    root: Path,
    split: str,
    labels: str | None,
    download: bool,
    settings: Published,
    level: str = "",
) -> None:
    from fgvr.datasets.published import open_split, records

    given = read_labels(job, labels)
    if download:
        from fgvr.datasets.download import fetch

        root.mkdir(parents=True, exist_ok=True)
        fetch(spec, root, split, job.say, _bar)
    if not root.is_dir():
        raise FgvrError(f"cannot read {str(root)!r}: no such folder; check --root, or give --download")
    opened = open_split(spec, root, split, level, settings.allow_partial)
    if given:
        given.check(spec.title, [n for c in opened.index.categories.values() for n in (c.name, *c.aliases)])
    with job.run(images=root) as run:
        items = records(opened, settings.verify)
        run.write(given.put(items) if given else items)
    if opened.left_out:
        job.say(f"{opened.left_out} of {opened.left_out + len(opened.images)} listed images are not there, left out")


def read_labels(job: Job, path: str | None) -> Any:
    """The content of --labels, None without it."""
    from fgvr.datasets.table import Labels

    return Labels(job.attach(path)) if path else None


def _bar(chunks: Iterable[bytes], total: int | None, have: int) -> Iterator[bytes]:
    """A bar over bytes, on a terminal."""
    import sys

    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    with tqdm(total=total, initial=have, unit="B", unit_scale=True, leave=False, disable=hidden) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))
