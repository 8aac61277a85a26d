"""One JSONL input: a file, a packed file or stdin, its bytes hashed as they are read."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

from fgvr import signals
from fgvr.errors import FgvrError, reason

CHUNK = 1 << 16


class _Hashing(io.RawIOBase):
    """A raw reader that hashes what passes."""

    def __init__(self, inner: IO[bytes]) -> None:
        self.inner = inner
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.inner.read(len(buffer))
        count = len(data) if data else 0
        buffer[:count] = data or b""
        self.hash.update(buffer[:count])
        return count


class Source:
    """One JSONL input, its bytes hashed as they are read.

    Args:
        name: a path, or "-" for stdin. `.gz` and `.zst` are unpacked; the hash is of the bytes as stored.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.label = "<stdin>" if name == "-" else name
        self.records: int | None = 0  # None: it holds something else
        self._raw: _Hashing | None = None
        self._spooled: IO[bytes] | None = None
        self._known: str | None = None

    def _open(self) -> IO[bytes]:
        if self._spooled is not None:
            return self._spooled
        if self.name != "-":
            try:
                return open(self.name, "rb", buffering=0)
            except OSError as error:
                raise FgvrError(f"cannot read {self.name}: {reason(error)}; check the path") from error
        if sys.stdin is None:
            raise FgvrError("stdin is closed; name an input file")
        return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)

    def stat(self) -> os.stat_result | None:
        """Of the file behind the input, also behind a redirected stdin; None when there is none."""
        try:
            return os.fstat(sys.stdin.fileno()) if self.name == "-" else os.stat(self.name)
        except (OSError, ValueError, AttributeError):
            return None

    def known_digest(self) -> str | None:
        """SHA-256 of the whole input before it is read; None for a pipe, which can be read only once."""
        if self._spooled is None:
            info = self.stat()
            if info is None or not stat.S_ISREG(info.st_mode):
                return None
        if self._known is not None or self._raw is not None:
            return self._known  # being read already
        file = self._open()
        at = file.tell()
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK * 16):
            digest.update(chunk)
        file.seek(at)
        if file is not self._spooled and self.name != "-":
            file.close()
        self._known = digest.hexdigest()
        return self._known

    def spool(self) -> None:
        """Keep a pipe's content in a temporary file, so that it can be hashed and then read."""
        import tempfile

        spooled: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # lives as long as this object
        file = self._open()
        while chunk := file.read(CHUNK):
            spooled.write(chunk)
        spooled.seek(0)
        self._spooled = spooled

    def lines(self) -> Iterator[bytes]:
        """The lines, unpacked. Raises FgvrError for a damaged packed file, naming the line it breaks off at."""
        self._raw = _Hashing(self._open())
        stream: Any = io.BufferedReader(self._raw, CHUNK)
        if self.name.endswith(".gz"):
            import gzip

            stream = gzip.GzipFile(fileobj=stream)
        elif self.name.endswith(".zst"):
            stream = zstd_open(stream, "rb", self.name)
        number = 0
        try:
            for line in stream:
                number += 1
                signals.check()
                yield line
        except (EOFError, OSError, ValueError) as error:
            raise FgvrError(f"{self.label}:{number + 1}: cannot read on: {reason(error)}; replace the file") from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise FgvrError(f"{self.label}:{number + 1}: cannot read on: {reason(error)}; replace the file") from error

    def digest(self) -> str:
        """SHA-256 of all bytes of the input; reads what is left of it."""
        if self._raw is None:
            self._raw = _Hashing(self._open())
        if not self._raw.inner.closed:
            while self._raw.read(CHUNK):
                pass
            self.close()
        return self._raw.hash.hexdigest()

    def close(self) -> None:
        """Close the file, unless it is stdin."""
        if self._spooled is not None:
            self._spooled.close()
        elif self._raw is not None and self.name != "-":
            self._raw.inner.close()


def packer(name: str) -> Any:
    """The library that a file's suffix asks for beyond the standard library's: zstandard for .zst, else None.

    Raises:
        FgvrError: it is not installed; names the command that installs it.
    """
    if not name.endswith(".zst"):
        return None
    try:
        import zstandard
    except ImportError:
        raise FgvrError(f"{name}: no zstd library; run `pip install 'fgvr[zstd]'`, or use .gz") from None
    return zstandard


class _Unzstd(io.RawIOBase):
    """A raw reader of zstd frames. The library's own takes a file that is cut short for a whole one."""

    def __init__(self, inner: Any, library: Any) -> None:
        self.inner, self.library = inner, library
        self.frame: Any = None
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            data = self.inner.read(CHUNK)
            if not data and self.frame is not None:
                raise EOFError("compressed file ended before the end-of-frame marker")
            if not data:
                return 0
            self.ready = memoryview(self._unpack(data))
        count = min(len(buffer), len(self.ready))
        buffer[:count] = self.ready[:count]
        self.ready = self.ready[count:]
        return count

    def _unpack(self, data: bytes) -> bytes:
        out = []
        while data:
            self.frame = self.frame or self.library.ZstdDecompressor().decompressobj()
            out.append(self.frame.decompress(data))
            data = self.frame.unused_data
            if self.frame.eof:
                self.frame = None
        return b"".join(out)


def zstd_open(file: Any, mode: str, name: str) -> AbstractContextManager[Any]:
    """An open binary file through zstd, to read ("rb") or write ("wb"). Raises as `packer` does."""
    library = packer(name)
    if mode == "rb":
        return io.BufferedReader(_Unzstd(file, library), CHUNK)
    return library.ZstdCompressor().stream_writer(file, closefd=False)
