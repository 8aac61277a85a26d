"""One run of one stage: what it reads, where its records go, what becomes of bad ones, how it goes on after a kill."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fgvr import provenance, signals, stream
from fgvr.errors import FgvrError, RecordError, Stopped, TryAgain, Unanswered
from fgvr.faults import ErrorFile
from fgvr.output import Atomic, AtomicFile, AtomicFolder, Plain
from fgvr.records import Record
from fgvr.source import Source
from fgvr.stream import Bad, Item

if TYPE_CHECKING:
    from fgvr.job import Job


class Run:
    """An open job.

    Attributes:
        complete: --resume found nothing left to do: `read` gives nothing and `write` consumes nothing, so only stages
            that compute outside of these need to look.
        resumed: --resume found something to go on with.
    """

    def __init__(
        self,
        job: Job,
        models: list[dict[str, Any]],
        prompts: list[str],
        recompute: bool,
        images: str | Path | None,
    ) -> None:
        self.job, self.recompute, self.images = job, recompute, images
        self.source = Source(job.source) if job.source is not None else None
        self.complete = self.resumed = False
        self.written = self.skipped = 0
        self.passed: int | None = None  # records that were used, where a command reads all its files by itself
        self.summary: dict[str, Any] = {}  # what a stage counted; joins the finished run's record
        self._models, self._prompts = models, prompts
        self._begun: provenance.RunRecord | None = None
        self._done: deque[str] = deque()  # keys that an earlier run wrote and this one has not met yet
        self._again: set[str] = set()  # keys that it met and this one computes once more, see `read`
        self._same_input = False  # the earlier run read the same bytes: what it left out, it set aside
        self._paths: set[str] = set()

    # -- opening and closing --

    def __enter__(self) -> Run:
        self.target = self.job.target()
        if isinstance(self.target, Plain):
            self._errors = ErrorFile(self.job.errors, fresh=True)
            return self
        try:
            self.target.open()
            self._begin(self.target)
        except OSError as error:
            self.target.close()
            raise self.target.failed(error) from error
        except BaseException:
            self.target.close()
            raise
        return self

    def _begin(self, target: AtomicFile | AtomicFolder) -> None:
        """Take up what an interrupted run left, or begin anew."""
        job = self.job
        if job.resume and target.final.exists() and self.source and self.source.known_digest() is None:
            self.source.spool()
        run = self.record()
        going_on = job.resume and target.size > 0
        if job.resume and not going_on and target.complete(run):
            self.complete = True
            self._errors = ErrorFile(None, fresh=False)
            return
        if going_on:
            self._same_input = _same(target, run)
        else:
            target.clear()
        provenance.save(target.record, run)
        for record in target.keep():
            self._done.append(_key(record))
            self._note(record)
        self.written = len(self._done)
        self.resumed = going_on
        self._errors = ErrorFile(job.errors, fresh=not going_on)
        self.skipped = self._errors.count

    def record(self) -> provenance.RunRecord:
        """The run record as far as it is known when the run begins; also for the metadata of a safetensors file."""
        if self._begun is not None:
            return self._begun
        beside = self.job.output
        inputs: list[dict[str, Any]] = []
        for source in self._sources():
            name = source.label if source.name == "-" else provenance.portable(source.name, beside)
            inputs.append({"name": name, "sha256": source.known_digest(), "records": None})
        for folder in self.job.folders:
            digest = provenance.sha256_folder(folder)
            inputs.append({"name": provenance.portable(folder, beside), "sha256": digest, "records": None})
        self._begun = provenance.run_record(
            self.job.command, self.job.settings, inputs, self._models, self._prompts
        )
        return self._begun

    def _sources(self) -> list[Source]:
        return [*([self.source] if self.source else []), *self.job.inputs]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and not self.complete:
                self._finish()
            elif isinstance(error, (Stopped, TryAgain)) and isinstance(self.target, Atomic) and not error.note:
                error.note = self.target.left
        except OSError as failure:
            if not isinstance(self.target, Atomic):
                raise
            raise self.target.failed(failure) from failure
        finally:
            self._errors.close()
            self.target.close()
            for source in self._sources():
                source.close()

    def _finish(self) -> None:
        if self._done and not self.recompute:
            raise self._strange(self._done[0])
        if isinstance(self.target, (AtomicFile, AtomicFolder)):
            self.target.commit(self._final_record(), self.written, self.skipped)
        if self.skipped:
            used = self.written if self.passed is None else self.passed
            seen = self.source.records if self.source else used + self.skipped
            see = f"; see {self.job.errors}" if self.job.errors else ""
            self.job.say(f"{self.skipped} of {seen} records skipped{see}")

    def _final_record(self) -> provenance.RunRecord:
        """The run record with what only the finished run knows: hashes of pipes, counts, the images."""
        record = self.record()
        inputs = [dict(entry) for entry in record["inputs"]]
        for entry, source in zip(inputs, self._sources(), strict=False):
            digest = source.digest()
            if entry["sha256"] not in (None, digest):
                raise FgvrError(f"{source.label} changed while it was read; run again")
            entry.update(sha256=digest, records=source.records)
        final = {**record, "inputs": inputs, **({"summary": self.summary} if self.summary else {})}
        if self.images is not None:
            digest, files = provenance.sha256_tree(self.images, self._paths)
            final["images"] = {"root": provenance.portable(str(self.images), None), "files": files, "sha256": digest}
        return final

    # -- records --

    @property
    def folder(self) -> Path:
        """Where a command with `stage_io(to_folder=True)` writes. What lies in its `checkpoints` never reaches DIR."""
        assert isinstance(self.target, AtomicFolder)
        return self.target.partial

    def read(
        self, required: Sequence[str] = (), *, stage: str = "", unique: bool = True, batch: int = 1
    ) -> Iterator[Item]:
        """The input's items that this run has to work on (see stream.read).

        Args:
            batch: records a call of a model whose results depend, in their last digits, on what else is in the batch.
                A resumed run then computes the whole batch again in which the earlier one was stopped.
        """
        if self.complete or self.source is None:
            return
        items = stream.read(self.source, required=required, stage=stage, unique=unique)
        yield from items if self.recompute else self._undone(self._sharded(items), batch)

    def checked(self, items: Iterable[Item]) -> Iterator[Record]:
        """The records of a stream whose results are no records (training): Bad items are treated as `write` does."""
        for item in items:
            if isinstance(item, Bad):
                self._set_aside(item)
            else:
                yield item

    def _sharded(self, items: Iterable[Item]) -> Iterator[Item]:
        shard = self.job.shard
        return (item for item in items if shard is None or shard.has(_item_key(item)))

    def _undone(self, items: Iterable[Item], batch: int) -> Iterator[Item]:
        """Leave out what the interrupted run wrote; its records must be the beginning of this input."""
        left: list[Record] | None = []  # of the batch at hand; None once there is work
        aside: list[Record] = []  # of these, what the earlier run set aside and no --errors file tells of
        for item in items:
            if isinstance(item, Bad):
                yield item
                continue
            key = _key(item)
            if self._done and key == self._done[0]:
                self._again.add(self._done.popleft())
            elif key not in self._errors.ids:
                if not self._done:
                    yield from left or ()
                    left, aside = None, []
                    yield item
                elif self.job.on_error == "skip" and self._same_input:
                    aside.append(item)
                    self._again.add(key)  # should it be usable now, its place has gone
                else:
                    raise self._strange(key)
            if left is not None:
                left.append(item)
                if len(left) == batch:
                    yield from map(_set_aside_before, aside)
                    left, aside = [], []
                    self._again.clear()
        yield from map(_set_aside_before, aside)

    def _strange(self, key: str) -> FgvrError:
        shown = self.target.shown
        return FgvrError(f"{shown} does not fit this input at record {key!r}; start again without --resume")

    def write_text(self, text: str) -> None:
        """Write what is no stream of records: a table, a page."""
        assert not isinstance(self.target, AtomicFolder), "a command that writes a folder writes below run.folder"
        self.target.write(text.encode())

    def write(self, items: Iterable[Item]) -> None:
        """Write a stage's records as they come; stop at the first Bad, or set it aside (--on-error skip)."""
        if self.complete:
            return
        assert not isinstance(self.target, AtomicFolder), "a command that writes a folder writes below run.folder"
        for item in self._sharded(self.job.progress(items)) if self.recompute else self.job.progress(items):
            signals.check()
            if isinstance(item, Bad):
                self._set_aside(item)
                continue
            try:
                line = stream.encode(item)
            except ValueError as error:
                self._set_aside(stream.bad(item, f"cannot write the record: {error}; correct its values"))
                continue
            if self.recompute and self._done:
                if self._done.popleft() != _key(item):
                    raise self._strange(_key(item))
                continue
            if self._again and _key(item) in self._again:
                continue
            self.target.write(line + b"\n")
            self.written += 1
            self._note(item)
        if self._done and self.recompute:
            raise self._strange(self._done[0])

    def _note(self, record: Record) -> None:
        if self.images is not None:
            self._paths.add(record["image"])

    def _set_aside(self, item: Bad) -> None:
        if self.job.on_error == "fail":
            raise (Unanswered if item.later else RecordError)(str(item))
        if self._errors.add(item):
            self.skipped += 1
            if self.job.errors is None:
                self.job.say(str(item))
        if self.job.max_errors is not None and self.skipped > self.job.max_errors:
            raise FgvrError(f"{item}; this is bad record {self.skipped}, --max-errors allows {self.job.max_errors}")


def _set_aside_before(record: Record) -> Bad:
    return stream.bad(record, "was set aside before the run was stopped; run it again by itself")


def _same(target: Atomic, new: provenance.RunRecord) -> bool:
    """Whether the input is known to be the same. Raises FgvrError for a run that would compute something else."""
    old = provenance.load(target.record)
    if old is None:
        raise FgvrError(f"{target.shown} has no run record to compare with; start again without --resume")
    if found := provenance.difference(old, new):
        raise FgvrError(f"{target.shown}: {found}; go back to the old value, or start again without --resume")
    return all(entry.get("sha256") for run in (old, new) for entry in run["inputs"])


def _key(record: Record) -> str:
    """What a record is told apart by: its id, or all of it."""
    key = record.get("id")
    return key if isinstance(key, str) else stream.encode(record).decode()


def _item_key(item: Item) -> str:
    return item.key if isinstance(item, Bad) else _key(item)
