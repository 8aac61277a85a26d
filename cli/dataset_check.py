"""`fgvr dataset --check` and `--list`."""

from __future__ import annotations

import click

from fgvr.cli.options import InputFile, image_root, settings, stage_io, verbose
from fgvr.datasets.settings import Check
from fgvr.job import Job


@click.command("check")
@stage_io(source=False)
@click.argument("files", nargs=-1, required=True, type=InputFile(), metavar="FILE…")
@image_root
@settings(Check)
def check(job: Job, files: tuple[str, ...], image_root: str, settings: Check) -> None:
    """Find what files of image records share: images, ids, names. The training images first.

    Writes one record a finding {kind, leak, first, second}: id (one id twice), image (one path in two files), content
    (equal bytes), near (perceptual hashes that differ in --near bits at most), name (equal file names in different
    folders) and category (two spellings). The first three are leaks between files, the others warnings. A last line on
    stderr counts them; status 1 when there are more leaks than --allow. Buffers.

    \b
    Example:
      fgvr dataset --check --image-root /data train.jsonl test.jsonl | jq 'select(.leak)'
    """
    from fgvr.datasets.leaks import findings, summary
    from fgvr.errors import FgvrError
    from fgvr.stream import Bad

    loaded = [(path, job.load(path, required=("id", "image"))) for path in files]
    found = list(findings(loaded, image_root, settings.near, settings.strict, settings.workers, job.progress))
    with job.run() as run:
        run.write(found)
    good = [finding for finding in found if not isinstance(finding, Bad)]
    leaks = sum(finding["leak"] for finding in good)
    if leaks > settings.allow:
        raise FgvrError(f"{summary(good)}; take them out of one file, or --allow {leaks}")
    job.say(f"{sum(len(records) for _, records in loaded)} images checked: {summary(good)}")


@click.command("list")
@verbose
def list_() -> None:
    """List the published data sets: sizes, splits, where to get them, terms.

    \b
    Example:
      fgvr dataset --list
    """
    from fgvr.datasets import DATASETS, open_dataset

    rows = [("name", "data set", "categories", "images", "download", "terms", "where")]
    for name in DATASETS:
        spec = open_dataset(name)
        images = ", ".join(f"{split} {count:,}" for split, count in spec.splits.items())
        size, offered = " / ".join(f"{count:,}" for count in spec.sizes), "yes" if spec.archives else "no"
        rows.append((name, spec.title, size, images, offered, spec.terms, spec.source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


COMMANDS = (check, list_)
