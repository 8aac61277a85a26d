"""What a command line says about input, output and faults, checked before anything heavy is opened.

    with job.run(models=[model.about]) as run:
        run.write(stage(run.read(required=("image",)), model, ...))
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgvr import stream
from fgvr.errors import FgvrError, UsageError
from fgvr.output import PARTIAL, AtomicFile, AtomicFolder, Plain
from fgvr.provenance import sidecar
from fgvr.records import Record
from fgvr.run import Run
from fgvr.source import Source, packer
from fgvr.stream import Bad, Item, Shard


@dataclass
class Job:
    """What the command line says about input, output and faults.

    Args:
        command: its name, "mine-negatives".
        record: where the command keeps a model's replies; known here only to keep it apart from the other files.
        settings: what decides the result; goes into the run record and is compared on --resume.
        source: the FILE operand, "-" for stdin, None for a stage that reads no records.
        output: the -o operand, None for stdout.
        to_folder: -o names a folder.
        folders: input folders (adapters); hashed into the run record.
        say: prints a line for people.
        progress: wraps an iterable of items to show how far it is.
    """

    command: str
    settings: dict[str, Any] = field(default_factory=dict)
    source: str | None = "-"
    output: str | None = None
    to_folder: bool = False
    resume: bool = False
    on_error: str = "fail"
    errors: str | None = None
    max_errors: int | None = None
    record: str | None = None
    shard: Shard | None = None
    folders: Sequence[str] = ()
    say: Callable[[str], None] = lambda line: None
    progress: Callable[[Iterable[Item]], Iterable[Item]] = lambda items: items
    inputs: list[Source] = field(default_factory=list)

    def check(self) -> None:
        """Raise UsageError for what makes no sense, before anything heavy is opened."""
        if self.resume and self.output is None:
            raise UsageError("--resume needs -o FILE; give -o")
        if self.on_error == "fail" and (self.errors is not None or self.max_errors is not None):
            raise UsageError("--errors and --max-errors need --on-error skip; add it")
        self._check_output()
        if self.errors is not None:
            _in_folder("--errors", self.errors)
        for option, path in (("--errors", self.errors), ("--record", self.record)):
            if path is not None and os.path.realpath(path) in self._written():
                raise UsageError(f"{option} {path} is also the output; name another file")
        if self.errors and self.record and os.path.realpath(self.errors) == os.path.realpath(self.record):
            raise UsageError(f"--errors {self.errors} is also the --record file; name another file")
        self._spare(self.source)
        for name in (self.source, self.output):
            packer(name or "")

    def _check_output(self) -> None:
        out = self.output
        if out is None:
            if self.to_folder:
                raise UsageError("-o must name a folder; stdout cannot be one")
            return
        _in_folder("-o", out)
        if os.path.isdir(out) != self.to_folder and os.path.exists(out):
            is_, need = ("file", "folder") if self.to_folder else ("folder", "file")
            raise UsageError(f"-o {out} is a {is_}; name a {need}")
        if self.resume and self._device():
            raise UsageError(f"-o {out} is no regular file; --resume needs one")

    def _spare(self, name: str | None) -> None:
        """Refuse to write over an input, even where the shell redirected it."""
        info = Source(name).stat() if name is not None else None
        if info is None or not stat.S_ISREG(info.st_mode):
            return
        for option, path in (*(("-o", path) for path in self._written()), ("--errors", self.errors)):
            if path is not None and os.path.exists(path) and os.path.samestat(info, os.stat(path)):
                shown = self.output if option == "-o" else path
                raise UsageError(f"{option} {shown} would overwrite the input; name another file")

    def spare_folders(self, names: Iterable[str]) -> None:
        """Refuse to replace by -o DIR a folder that is used, or that holds one.

        Args:
            names: parameters, of which some are folders or models in folders ("hf:folder").
        """
        out = os.path.realpath(self.output or "")
        for name in names if self.to_folder else ():
            path = name if os.path.isdir(name) else name.rpartition(":")[2]
            if os.path.isdir(path) and f"{os.path.realpath(path)}/".startswith(f"{out}/"):
                raise UsageError(f"-o {self.output} would replace {path}, which is used here; name another folder")

    def _written(self) -> list[str]:
        """The files that -o FILE or -o DIR writes, the one that holds what is done until it is whole among them."""
        if self.output is None:
            return []
        final = os.path.realpath(self.output)
        if self._device():
            return [final]
        return [final, final + PARTIAL, *(str(sidecar(path)) for path in (final, final + PARTIAL))]

    def _device(self) -> bool:
        out = self.output or os.curdir
        return os.path.exists(out) and not os.path.isfile(out) and not os.path.isdir(out)

    def target(self) -> Plain | AtomicFile | AtomicFolder:
        """Where records go."""
        if self.output is None or self._device():
            return Plain(self.output)
        return AtomicFolder(self.output) if self.to_folder else AtomicFile(self.output)

    def attach(self, path: str) -> Source:
        """Enter a file that the command reads by itself into the run record."""
        source = Source(path)
        source.records = None
        self._spare(path)
        packer(path)
        self.inputs.append(source)
        return source

    def load(
        self, path: str, required: Sequence[str] = (), *, stage: str = "", unique: bool = False,
        check: Callable[[Record], object] | None = None,
    ) -> list[Record]:  # fmt: skip
        """All records of a side input (`--attrs FILE`), which enters the run record. Its first bad line is an error.

        Args:
            required, stage, unique, check: as of stream.read.
        """
        found: list[Record] = []
        source = self.attach(path)
        source.known_digest()  # now: once it is being read, only its end knows
        for item in stream.read(source, required=required, stage=stage, unique=unique, check=check):
            if isinstance(item, Bad):
                raise FgvrError(str(item))
            found.append(item)
        source.digest()
        return found

    def text(self, path: str) -> str:
        """The text of a side input (`--prompt FILE`), which enters the run record."""
        source = self.attach(path)
        data = b"".join(source.lines())
        source.digest()
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise FgvrError(f"{path}: not UTF-8 (byte {error.start + 1}); convert the file to UTF-8") from error

    def run(
        self,
        *,
        models: Sequence[dict[str, Any]] = (),
        prompts: Sequence[str] = (),
        recompute: bool = False,
        images: str | Path | None = None,
    ) -> Run:
        """Open the output; to be used as a context manager, after the models are open.

        Args:
            models: each model's `about`.
            prompts: the prompt templates that shape the result.
            recompute: the stage's output ids are not its input ids (or it needs the whole stream): --resume computes
                again and skips what is there, --shard takes output records. Otherwise both work on input records.
            images: the folder below which the written records' images lie, to be hashed into the run record.
        """
        return Run(self, list(models), list(prompts), recompute or self.source is None, images)


def _in_folder(option: str, path: str) -> None:
    folder = os.path.dirname(os.path.realpath(path))  # of what a link points to
    if not os.path.isdir(folder):
        shown = folder if os.path.islink(path) else os.path.dirname(path)
        raise UsageError(f"{option} {path}: there is no folder {shown}; make it first")
