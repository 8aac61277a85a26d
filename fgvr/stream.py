"""JSONL in and out: reading records with their faults as values, batching that keeps order, shards, the codec.

A stream is an iterable of items; an item is a record (dict) or a `Bad`, which stands where the record would have stood.
So one bad record neither kills a stream nor moves its neighbours, and the caller decides what becomes of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any

from fgvr import records, signals
from fgvr.errors import FgvrError, RecordError, reason
from fgvr.records import Record

CHUNK = 1 << 16


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used, in its place in the stream.

    Args:
        where: "file:line" for a fault of the input, the record's id for a fault that a stage found.
        error: one line: "<what>; <what to do>".
        record: the record, when the line could be read.
        line: the line, when it could not.
    """

    where: str
    error: str
    record: Record | None = None
    line: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.error}"

    @property
    def key(self) -> str:
        """What stands for the record where records are told apart (shards): its id, or its text."""
        if self.record is not None and isinstance(self.record.get("id"), str):
            return self.record["id"]
        return self.line if self.line is not None else json.dumps(self.record, sort_keys=True)


Item = Record | Bad
# 64 bits hold 19 digits; longer whole numbers would silently become floats in orjson
_LONG_NUMBER = re.compile(r"\d{19}")


def decode(text: str) -> Any:
    """JSON text to a value. Raises ValueError for torn text, NaN, Infinity and numbers too large for a float."""
    import orjson

    value = orjson.loads(text)
    if _LONG_NUMBER.search(text):
        value = json.loads(text)
    return value


def encode(record: Record) -> bytes:
    """A record to compact UTF-8 JSON without the line end, keys in their order.

    Raises:
        ValueError: NaN or Infinity somewhere in the record, or text that is not Unicode.
    """
    import orjson

    try:
        line = orjson.dumps(record)
    except TypeError as error:
        if "64-bit" not in str(error):
            raise ValueError(str(error)) from error
        return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    if b"null" in line and not _finite(record):  # orjson writes NaN as null
        raise ValueError("NaN or Infinity is not JSON")
    return line


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(_finite(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return all(_finite(v) for v in value)
    return True


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
        self.records = 0
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
        while self._raw.read(CHUNK):
            pass
        return self._raw.hash.hexdigest()


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
        raise FgvrError(f"{name}: no zstd library; run `pip install zstandard`, or use .gz") from None
    return zstandard


def zstd_open(file: Any, mode: str, name: str) -> AbstractContextManager[Any]:
    """An open binary file through zstd, to read ("rb") or write ("wb"). Raises as `packer` does."""
    zstandard = packer(name)
    if mode == "rb":
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return zstandard.ZstdCompressor().stream_writer(file, closefd=False)


def read(
    source: Source | str, *, required: Sequence[str] = (), stage: str = "", unique: bool = True
) -> Iterator[Item]:
    """The records of a JSONL input; what cannot be used comes as a Bad in its place. Blank lines are ignored.

    Args:
        source: an input, or its path ("-" for stdin).
        required: fields each record must have (records.check).
        stage: the command that makes them, where it is not the usual one.
        unique: refuse an id that came before, and give a record without id one made from its content, so that resume,
            shards and random draws have something to hold on to. False for side inputs such as attribute records.
    """
    import jsonlines

    source = Source(source) if isinstance(source, str) else source
    seen: dict[str, int] = {}
    number = 0

    def counted() -> Iterator[bytes]:
        nonlocal number
        for line in source.lines():
            number += 1
            yield line

    reader = jsonlines.Reader(counted(), loads=decode)  # type: ignore[arg-type]  # jsonlines hands over str only
    while True:
        try:
            record: Any = reader.read(type=dict, skip_empty=True)
        except EOFError:
            return
        except jsonlines.InvalidLineError as error:
            source.records += 1
            text = error.line.decode("utf-8", "replace") if isinstance(error.line, bytes) else error.line
            yield Bad(f"{source.label}:{number}", _fault(error, text), line=text)
            continue
        source.records += 1
        try:
            records.check(record, required, stage)
            if unique:
                record = _identified(record, seen, number)
        except RecordError as error:
            yield Bad(f"{source.label}:{number}", str(error), record=record)
            continue
        yield record


def _identified(record: Record, seen: dict[str, int], number: int) -> Record:
    """The record with an id that did not come before."""
    if "id" not in record:
        content = json.dumps(record, sort_keys=True, ensure_ascii=False).encode()
        record = {"id": hashlib.sha256(content).hexdigest()[:16], **record}
    records.check(record, ("id",))
    first = seen.setdefault(record["id"], number)
    if first != number:
        raise RecordError(f"id {record['id']!r} came before, on line {first}; make ids unique")
    return record


def _fault(error: Exception, text: str) -> str:
    """What is wrong with a line, as `<what>; <what to do>`."""
    cause = error.__cause__
    if isinstance(cause, UnicodeDecodeError):
        return f"not UTF-8 (byte {cause.start + 1} of the line); convert the file to UTF-8"
    at = getattr(cause, "pos", len(text))
    if re.match(r"-?(NaN|I|nfinity)", text[at:]) or text[at - 1 : at + 1] == "-I" or "infinity" in str(cause):
        return "NaN or Infinity is not JSON; write null or leave the field out"
    if isinstance(cause, json.JSONDecodeError):
        return f"not valid JSON ({cause.msg}, column {cause.colno}); is the line torn?"
    if isinstance(cause, ValueError):
        return f"not valid JSON ({reason(cause)}); correct the line"
    return "not a JSON object; a record is {...}, one a line"


def ordered(items: Iterable[Item], batch: int, work: Callable[[list[Record]], Sequence[Item]]) -> Iterator[Item]:
    """Run `work` on batches of records; the results come out in the order of the input, Bad items in their place.

    Args:
        batch: records a call, >= 1. It changes speed, never the result.
        work: takes up to `batch` records, returns one item for each. When it raises RecordError for a batch, the
            records are tried one by one, so that only the bad one becomes a Bad.
    """
    waiting: list[Item] = []
    good = 0
    for item in items:
        waiting.append(item)
        good += not isinstance(item, Bad)
        if good == batch or not good or len(waiting) >= 16 * batch:
            yield from _finish(waiting, work)
            waiting, good = [], 0
    yield from _finish(waiting, work)


def _finish(waiting: list[Item], work: Callable[[list[Record]], Sequence[Item]]) -> Iterator[Item]:
    asked = [item for item in waiting if not isinstance(item, Bad)]
    answers = iter(_attempt(asked, work))
    for item in waiting:
        yield item if isinstance(item, Bad) else next(answers)


def _attempt(asked: list[Record], work: Callable[[list[Record]], Sequence[Item]]) -> Sequence[Item]:
    if not asked:
        return []
    try:
        results = work(asked)
    except RecordError as error:
        if len(asked) == 1:
            return [bad(asked[0], error)]
        return [result for record in asked for result in _attempt([record], work)]
    if len(results) != len(asked):
        raise ValueError(f"a batch of {len(asked)} records gave {len(results)} results")
    return results


def each(items: Iterable[Item], fn: Callable[[Record], Record | list[Record]]) -> Iterator[Item]:
    """Run `fn` on every record; a list stands for several records or none. A RecordError becomes a Bad in its place."""
    for item in items:
        if isinstance(item, Bad):
            yield item
            continue
        try:
            result = fn(item)
        except RecordError as error:
            yield bad(item, error)
            continue
        if isinstance(result, list):
            yield from result
        else:
            yield result


def bad(record: Record, error: Exception | str) -> Bad:
    """The Bad that stands for a record a stage could not use."""
    return Bad(str(record.get("id", "record without id")), str(error), record=record)


@dataclass(frozen=True)
class Shard:
    """Every N-th record by a hash of its id: shard `number` of `count`, 1 <= number <= count."""

    number: int
    count: int

    def has(self, key: str) -> bool:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
