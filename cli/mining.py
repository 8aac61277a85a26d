"""What `fgvr mine-negatives` opens, and what it writes beside its records."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from fgvr.errors import UsageError
from fgvr.job import Job
from fgvr.names import Aliases
from fgvr.records import BY_HAND, Record, texts
from fgvr.settings import Mine
from fgvr.stages.mine import Report, Source
from fgvr.stream import Bad, Item

if TYPE_CHECKING:
    from pathlib import Path

FILE = "features:"
SHOWN = 60  # anchors on a page
EVERY_S = 60.0


def alike(job: Job, path: str | None) -> Aliases:
    """The names that --aliases says to be one category's."""
    def check(record: Record) -> list[str]:
        return texts(record, "aliases")

    found = job.load(path, required=("category",), stage=BY_HAND, check=check) if path is not None else []
    return Aliases([record["category"], *texts(record, "aliases")] for record in found)


def opened(
    job: Job, encoder: str, root: str, features: str | None, device: str, settings: Mine
) -> tuple[Source, list[dict[str, Any]]]:
    """The source of features and what the run record says of it."""
    from fgvr.stages.mine import FromFile, FromModel

    if encoder.startswith(FILE):
        from fgvr.features import load

        names = encoder.removeprefix(FILE)
        by_text = settings.by != "image" or settings.of == "names"
        if by_text or settings.hash_distance is not None or features is not None:
            raise UsageError("features:FILE has no texts or images; drop --by, --of, --hash-distance, --features")
        for name in names.split(","):
            job.attach(name)
        job.settings["encoder"] = FILE + ",".join(os.path.basename(name) for name in names.split(","))
        return FromFile(load(names), names), []
    from fgvr.features import Pace
    from fgvr.models import open_encoder
    from fgvr.models.encoders import parts

    if features is not None and os.path.exists(features) and not os.path.isdir(features):
        raise UsageError(f"--features {features} is a file; name a folder")
    model = open_encoder(encoder, device=device)
    apart = parts(model, settings.dtype)
    hashes = settings.hash_distance is not None
    source = FromModel(
        model, apart, root, cache=features, hashes=hashes, batch=settings.batch_size, threads=settings.threads,
        pace=Pace(_minutely(job)),
    )  # fmt: skip
    return source, [model.about]


def _minutely(job: Job) -> Any:
    """Say the pace once a minute."""
    import time

    last = time.monotonic()

    def show(count: int, words: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            job.say(f"{count} images encoded, {words}")

    return show


class Extras:
    """Groups, preview page and summary of one run.

    Raises:
        UsageError: a file cannot be written there, or groups are asked of a shard.
    """

    def __init__(self, job: Job, root: str | Path, groups: str | None, preview: str | None, settings: Mine) -> None:
        self.job, self.root, self.groups, self.preview, self.size = job, root, groups, preview, settings.group_size
        self.report = Report(paths={} if preview else None)
        self._mined: list[Record] = []
        self._shown: list[tuple[str, Record]] = []
        if settings.of == "names" and (groups or preview):
            raise UsageError("--of names finds no images; leave out --groups and --preview")
        for option, path in (("--groups", groups), ("--preview", preview)):
            if path is None:
                continue
            if not os.path.isdir(os.path.dirname(os.path.realpath(path))) or os.path.isdir(path):
                raise UsageError(f"{option} {path}: no file can be written there; name one in a folder that is there")
            if path in (job.output, job.source):
                raise UsageError(f"{option} {path} is also input or output; name another file")
        if groups and job.shard:
            raise UsageError("--groups needs all anchors; leave out --shard")

    def wanted(self, record: Record) -> bool:
        """Whether a record is of this shard."""
        return self.job.shard is None or self.job.shard.has(record["id"])

    def seen(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; keeps of them what groups and page need."""
        for item in items:
            if not isinstance(item, Bad):
                if self.groups:
                    names = [{"category": negative["category"]} for negative in item["negatives"]]
                    self._mined.append({"category": item["category"], "negatives": names})
                if self.preview:
                    self._shown.append((sha256(item["id"].encode("utf-8", "surrogatepass")).hexdigest(), item))
                    if len(self._shown) > 50 * SHOWN:
                        self._shown = heapq.nsmallest(SHOWN, self._shown, key=lambda pair: pair[0])
            yield item

    def write(self, complete: bool, settings: Mine) -> None:
        """Write the files, and the summary on stderr if there is something to tell."""
        if complete:
            if self.groups or self.preview:
                self.job.say("nothing was mined again; --groups and --preview need a run without --resume")
            return
        if words := self.report.words(settings):
            self.job.say(words)
        if self.groups:
            from fgvr.groups import confusable
            from fgvr.stream import encode

            records = confusable(self._mined, self.size)
            _save(self.groups, b"".join(encode(record) + b"\n" for record in records))
        if self.preview:
            from fgvr.analysis.preview import page

            shown = [record for _, record in heapq.nsmallest(SHOWN, self._shown, key=lambda pair: pair[0])]
            assert self.report.paths is not None
            _save(self.preview, page(shown, self.report, self.root).encode("utf-8", "replace"))


def _save(path: str, data: bytes) -> None:
    """The file is whole or as it was; a link stays a link, and a device or pipe is written to."""
    from fgvr.output import Plain, unwritable

    final = os.path.realpath(path)
    if os.path.exists(final) and not os.path.isfile(final):
        out = Plain(path)
        out.write(data)
        out.close()
        return
    partial = f"{final}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
        os.replace(partial, final)
    except OSError as error:
        raise unwritable(path, error, resume=False) from error
