"""JSONL in and out: reading records with their faults as values, batching that keeps order, shards, the codec.

A stream is an iterable of items; an item is a record (dict) or a `Bad`, which stands where the record would have stood.
So one bad record neither kills a stream nor moves its neighbours, and the caller decides what becomes of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fgvr import records
from fgvr.errors import RecordError, Unanswered, reason
from fgvr.records import Record
from fgvr.source import Source


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used, in its place in the stream.

    Args:
        where: "file:line" for a fault of the input, the record's id for a fault that a stage found.
        error: one line: "<what>; <what to do>".
        record: the record, when the line could be read.
        line: the line, when it could not.
        later: nothing is wrong with the record; it may be used another time (fgvr.errors.Unanswered).
    """

    where: str
    error: str
    record: Record | None = None
    line: str | None = None
    later: bool = False

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
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19


def decode(text: str) -> Any:
    """JSON text to a value. Raises ValueError for torn text, NaN, Infinity and numbers too large for a float."""
    import orjson

    value = orjson.loads(text)
    if _LONG_NUMBER in text.encode().translate(_DIGITS):
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


def read(
    source: Source | str, *, required: Sequence[str] = (), stage: str = "", unique: bool = True,
    check: Callable[[Record], object] | None = None,
) -> Iterator[Item]:  # fmt: skip
    """The records of a JSONL input; what cannot be used comes as a Bad in its place. Blank lines are ignored.

    Args:
        source: an input, or its path ("-" for stdin).
        required: fields each record must have (records.check).
        stage: the command that makes them, where it is not the usual one.
        unique: refuse an id that came before, and give a record without id one made from its content, so that resume,
            shards and random draws have something to hold on to. False for side inputs such as attribute records.
        check: raises RecordError for what else is wrong with a record.
    """
    opened = Source(source) if isinstance(source, str) else source
    seen: dict[str, int] = {}
    try:
        for number, item in _parsed(opened):
            if isinstance(item, Bad):
                yield item
                continue
            try:
                records.check(item, required, stage)
                if check is not None:
                    check(item)
                record = _identified(item, seen, number) if unique else item
            except RecordError as error:
                yield Bad(f"{opened.label}:{number}", str(error), record=item)
            else:
                yield record
    finally:
        if opened is not source:
            opened.close()


def _parsed(source: Source) -> Iterator[tuple[int, Item]]:
    """(line number, record or Bad) of each line that is not blank; counts them in `source.records`."""
    import jsonlines

    number = source.records = 0

    def counted() -> Iterator[bytes]:
        nonlocal number
        for line in source.lines():
            number += 1
            yield line

    reader = jsonlines.Reader(counted(), loads=decode)  # type: ignore[arg-type]  # jsonlines hands over str only
    while True:
        try:
            item: Any = reader.read(type=dict, skip_empty=True)
        except EOFError:
            return
        except jsonlines.InvalidLineError as error:
            text = error.line.decode("utf-8", "replace") if isinstance(error.line, bytes) else error.line
            item = Bad(f"{source.label}:{number}", _fault(error, text), line=text)
        source.records += 1
        yield number, item


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
    where = str(record.get("id", "record without id"))
    return Bad(where, str(error), record=record, later=isinstance(error, Unanswered))


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
