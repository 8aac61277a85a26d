"""Files and folders that are whole or as they were: written as X.partial under a lock, synced, then renamed to X."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fgvr import provenance, signals
from fgvr.errors import NO_ROOM, FgvrError, Stopped, TryAgain, reason
from fgvr.source import zstd_open
from fgvr.stream import decode

PARTIAL = ".partial"
PACKED = (".gz", ".zst")


def unwritable(shown: str, error: OSError, resume: bool = True) -> FgvrError:
    """What to tell a person about a write that failed."""
    room = "make room, then run again" + (" with --resume" if resume else "")
    advice = room if error.errno in NO_ROOM else "check the path and its permissions"
    return FgvrError(f"cannot write {shown}: {reason(error)}; {advice}")


class Plain:
    """Records to stdout, or to a device or named pipe, which nothing can be renamed over.

    Args:
        path: None for stdout.
    Raises:
        Stopped: by SIGPIPE, from `write`, when the reader went away.
    """

    def __init__(self, path: str | None = None) -> None:
        self.shown = path or "<stdout>"
        self.own = path is not None
        if path is None and sys.stdout is None:
            raise FgvrError("stdout is closed; give -o FILE")
        try:
            self.file: IO[bytes] = open(path, "wb") if path else sys.stdout.buffer  # noqa: SIM115  # closed by close()
        except OSError as error:
            raise unwritable(self.shown, error, resume=False) from error

    def write(self, line: bytes) -> None:
        try:
            self.file.write(line)
            self.file.flush()
        except BrokenPipeError:
            raise Stopped(signal.SIGPIPE) from None
        except OSError as error:
            raise unwritable(self.shown, error, resume=False) from error

    def close(self) -> None:
        if self.own:
            with contextlib.suppress(OSError):  # every line was flushed, or its fault reported
                self.file.close()


def lock(path: Path, folder: bool = False) -> int:
    """Open a file or folder, made when missing, under an exclusive lock that dies with the process.

    Returns:
        the descriptor that holds the lock.
    Raises:
        TryAgain: another run holds it.
    """
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        fd = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(fd)
                raise TryAgain(f"{path.name} is being written by another run; wait for it, then use --resume") from None
            # a file system without locks (some parallel ones have none): go on without
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        os.close(fd)  # the other run finished in between, and renamed what we opened


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Atomic:
    """What AtomicFile and AtomicFolder share: X, X.partial and the run record that tells how X.partial was begun."""

    def __init__(self, path: str) -> None:
        self.final = Path(os.path.realpath(path))  # a link stays a link
        self.partial = Path(f"{self.final}{PARTIAL}")
        self.record = provenance.sidecar(self.partial)
        self.shown = f"{os.path.normpath(path)}{PARTIAL}"
        self.size = 0  # of what is worth keeping; 0 when there is nothing

    def measure(self) -> int:
        """Bring `size` up to date."""
        return self.size

    def failed(self, error: OSError) -> FgvrError:
        return unwritable(self.shown, error)

    @property
    def left(self) -> str:
        """What a stopped run leaves, for a person."""
        return f"{self.shown} keeps what is done, run again with --resume" if self.measure() else ""

    def complete(self, run: provenance.RunRecord) -> bool:
        """Whether X is there, whole, from an equal run on equal inputs. Touches it then, for make compares times."""
        record = provenance.load(provenance.sidecar(self.final))
        if record is None or not self.final.exists() or provenance.difference(record, run) is not None:
            return False
        if any(entry["sha256"] is None for entry in run["inputs"]):
            return False
        if record.get("output", {}).get("sha256") != provenance.digest_of(self.final):
            return False
        os.utime(self.final)
        os.utime(provenance.sidecar(self.final))
        return True


class AtomicFile(Atomic):
    """FILE by way of FILE.partial, which is always plain JSONL; a FILE.gz or FILE.zst is packed when it is whole."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.file: Any = None

    def open(self) -> None:
        self.file = os.fdopen(lock(self.partial), "r+b")
        self.size = os.fstat(self.file.fileno()).st_size

    def clear(self) -> None:
        """Forget what an earlier run left."""
        self.file.seek(0)
        self.file.truncate()
        self.size = 0

    def keep(self) -> Iterator[dict[str, Any]]:
        """The records that are there; at their end a torn last line is dropped, and writing goes on."""
        self.file.seek(0)
        end = 0
        for line in self.file:
            record = _record(line)
            if record is None:
                break
            end += len(line)
            yield record
        self.file.seek(end)
        self.file.truncate()
        self.size = end

    def write(self, line: bytes) -> None:
        try:
            self.file.write(line)
            self.file.flush()
        except OSError as error:
            raise self.failed(error) from error
        self.size += len(line)

    def commit(self, run: provenance.RunRecord, count: int, skipped: int) -> None:
        """Make FILE out of FILE.partial, its run record first: a crash in between shows as a hash that does not fit."""
        self.file.flush()
        ready = self._packed()
        if self.final.exists():
            os.chmod(ready, self.final.stat().st_mode & 0o7777)
        sync(ready)
        output = {"name": self.final.name, "sha256": provenance.sha256_file(ready), "records": count}
        if skipped:
            output["skipped"] = skipped
        with signals.deferred():
            provenance.save(provenance.sidecar(self.final), {**run, "output": output})
            os.replace(ready, self.final)
            if ready != self.partial:
                self.partial.unlink()
            self.record.unlink(missing_ok=True)
            sync(self.final.parent)

    def _packed(self) -> Path:
        import gzip

        suffix = self.final.suffix
        if suffix not in PACKED:
            return self.partial
        ready = Path(f"{self.partial}{suffix}")
        self.file.seek(0)
        try:
            with open(ready, "wb") as raw:
                # no name and no time inside, so that equal records give equal bytes
                gz = gzip.GzipFile("", "wb", 6, raw, mtime=0) if suffix == ".gz" else None
                with gz or zstd_open(raw, "wb", str(self.final)) as packed:
                    shutil.copyfileobj(self.file, packed, 1 << 20)
        except BaseException:
            ready.unlink(missing_ok=True)
            raise
        return ready

    def close(self) -> None:
        """Let go of the lock; an empty FILE.partial is of no use to anyone."""
        if self.file is None:
            return
        if not self.size and self.partial.exists():
            self.partial.unlink()
            self.record.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the fault that made it unwritable was reported already
            self.file.close()


class AtomicFolder(Atomic):
    """DIR by way of DIR.partial; a `checkpoints` folder inside serves --resume only and does not reach DIR."""

    fd = -1

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.old = self.final.with_name(f".{self.final.name}.old")

    def open(self) -> None:
        if self.old.exists() and not self.final.exists():
            os.replace(self.old, self.final)  # a crash between the two renames of commit
        if self.final.exists() and any(self.final.iterdir()) and not provenance.sidecar(self.final).exists():
            raise FgvrError(f"-o {self.final}: there is a folder that fgvr did not write (no "
                            f"{provenance.sidecar(self.final).name} beside it); name another one")  # fmt: skip
        self.fd = lock(self.partial, folder=True)
        self.measure()

    def measure(self) -> int:
        self.size = sum(path.is_file() for path in self.partial.rglob("*"))
        return self.size

    def clear(self) -> None:
        """Forget what an earlier run left."""
        for path in self.partial.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.size = 0

    def keep(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def commit(self, run: provenance.RunRecord, count: int, skipped: int) -> None:
        """Make DIR out of DIR.partial. A DIR that is there is moved aside for the moment between two renames."""
        shutil.rmtree(self.partial / "checkpoints", ignore_errors=True)
        for path in (*self.partial.rglob("*"), self.partial):
            sync(path)
        digest = provenance.sha256_folder(self.partial)
        output: dict[str, Any] = {"name": self.final.name, "sha256": digest, "records": None}
        if skipped:
            output["skipped"] = skipped
        with signals.deferred():
            provenance.save(provenance.sidecar(self.final), {**run, "output": output})
            shutil.rmtree(self.old, ignore_errors=True)
            if self.final.exists():
                os.replace(self.final, self.old)
            os.replace(self.partial, self.final)
            shutil.rmtree(self.old, ignore_errors=True)
            self.record.unlink(missing_ok=True)
            sync(self.final.parent)

    def close(self) -> None:
        """Let go of the lock; what holds no file is of no use to anyone."""
        if self.fd < 0:
            return
        if self.partial.exists() and not self.measure():
            shutil.rmtree(self.partial)
            self.record.unlink(missing_ok=True)
        os.close(self.fd)


def _record(line: bytes) -> dict[str, Any] | None:
    """A whole line's record; None for a torn one."""
    try:
        value = decode(line.decode()) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
