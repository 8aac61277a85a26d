"""Predictions of other tools as prediction records: FOCI, VLMEvalKit, lmms-eval, FINER.

The shape of a file (JSON lines, one JSON document, a table) and its tool are found out from its name and beginning;
fgvr.analysis.tools turns rows into records.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from fgvr import records
from fgvr.analysis import tools
from fgvr.errors import FgvrError, RecordError
from fgvr.records import Record
from fgvr.source import Source
from fgvr.stream import Bad, Item
from fgvr.stream import read as read_stream

FORMATS = ("fgvr", "foci", "vlmevalkit", "lmms-eval", "finer")
KNOWN = "score reads fgvr predictions, FOCI results, VLMEvalKit tables, lmms-eval samples and FINER's output"
NOTHING = "nothing to score: no `correct`, no `attributes` or `description`; run `fgvr eval` first"
SCORED = ("metric", "prediction", "correct", "attributes", "description", "required")  # a record has one of them
Say = Callable[[str], None]


def read(
    source: Source, form: str | None = None, parser: str | None = None, say: Say = lambda line: None
) -> Iterator[Item]:
    """The records of a file, each with an id that did not come before.

    Args:
        form: one of FORMATS; None: found out from the name and the beginning.
        parser: read the replies of choices anew with this strategy of fgvr.answers.
        say: told where a file's own figures differ from its predictions.
    Raises:
        FgvrError: the file is empty or of no known kind.
    """
    lines = source.lines()
    blank = 0
    for head in lines:
        if head.strip():
            break
        blank += 1
    else:
        raise FgvrError(f"{source.label}: the file is empty; {KNOWN}")
    form, shape = _detect(source.name, head, form)
    at: list[int] = []  # the line that is being read, where there are lines of JSON
    lines = chain([head], lines)
    if shape == "lines":
        if form in ("foci", "vlmevalkit"):
            raise FgvrError(f"{source.label}: not a {form} file; leave out --format")
        items: Iterable[Item] = _jsonl(source.label, lines, blank, at)
        if form == "lmms-eval":
            items = _converted(source.label, items, parser, say, tools.lmms_eval)
        elif parser is not None:
            items = (item if isinstance(item, Bad) else tools.reread(item, parser) for item in items)
    elif shape == "text":
        items = _some(source.label, tools.finer(lines))
    else:
        rows, form, own = _document(source.label, b"".join(lines), shape, form)
        convert = {"foci": tools.foci, "vlmevalkit": tools.vlmevalkit, "lmms-eval": tools.lmms_eval}.get(form, _own)
        items = _converted(source.label, _plain(source.label, rows), parser, say, convert, own)
    yield from _unique(source, items, at)


def _detect(name: str, head: bytes, form: str | None) -> tuple[str | None, str]:
    """(format or None, shape): shape is lines (of JSON), json (one document), csv, tsv, xlsx or text."""
    suffix = re.sub(r"\.(gz|zst)$", "", name.lower()).rpartition(".")[2]
    if head.startswith(b"PK\x03\x04"):
        return form or "vlmevalkit", "xlsx"
    if suffix in ("csv", "tsv"):
        return form or "vlmevalkit", suffix
    if form == "finer" or (form is None and re.match(rb"\d+ \| ", head)):
        return "finer", "text"
    start = head.strip()
    if start[:1] == b"[" or (start[:1] == b"{" and start[-1:] in b"{[,"):
        return form, "json"
    if start[:1] == b"{":
        first = _loads(start)
        if isinstance(first, dict):
            if isinstance(first.get("predictions"), list) or isinstance(first.get("logs"), list):
                return form, "json"
            if form is None and ("filtered_resps" in first or "doc_id" in first):
                return "lmms-eval", "lines"
        return form or "fgvr", "lines"
    if form == "vlmevalkit" or (form is None and b"prediction" in head and (b"," in head or b"\t" in head)):
        return form or "vlmevalkit", "tsv" if b"\t" in head else "csv"
    return form or "fgvr", "lines"


def _loads(text: bytes) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except ValueError:
        return None


# --- shapes -----------------------------------------------------------------------------------------------------------


class _Line:
    """One line as the input of fgvr.stream.read, which says what is wrong with it."""

    records: int | None = 0

    def __init__(self, label: str, line: bytes) -> None:
        self.label, self.line = label, line

    def lines(self) -> Iterator[bytes]:
        return iter([self.line])


def _jsonl(label: str, lines: Iterable[bytes], blank: int, at: list[int]) -> Iterator[Item]:
    """What fgvr.stream.read gives, faster: score reads millions of records and uses few of their fields."""
    import orjson

    loads = orjson.loads
    for number, line in enumerate(lines, blank + 1):
        at[:] = [number]
        try:
            record = loads(line)
        except ValueError:
            record = None
        if type(record) is dict:
            yield record
        elif line.strip():
            (item,) = read_stream(_Line(label, line))  # type: ignore[arg-type]  # it has what a Source has
            yield dataclasses.replace(item, where=f"{label}:{number}") if isinstance(item, Bad) else item


def _document(label: str, data: bytes, shape: str, form: str | None) -> tuple[list[Any], str, Record]:
    """(rows, format, the file's own metrics) of a file that is read whole."""
    if shape == "xlsx":
        return _xlsx(label, data), "vlmevalkit", {}
    if shape in ("csv", "tsv"):
        csv.field_size_limit(1 << 30)
        return _csv(label, data.decode("utf-8-sig", "replace"), "\t" if shape == "tsv" else ","), "vlmevalkit", {}
    import orjson

    try:
        found = orjson.loads(data)
    except ValueError as error:
        raise FgvrError(f"{label}: not valid JSON ({error}); is the file whole?") from error
    rows: Any = found
    own: Record = {}
    if isinstance(found, dict):
        rows = found.get("predictions", found.get("logs"))
        own = found["metrics"] if isinstance(found.get("metrics"), dict) else {}
    if not isinstance(rows, list):
        raise FgvrError(f"{label}: {_listed(found) or f'a JSON document without predictions; {KNOWN}'}")
    if not rows:
        raise FgvrError(f"{label}: no predictions in it; name the right --format: {KNOWN}")
    return rows, form or _form(label, rows[0]), own


def _listed(found: Any) -> str:
    """What to say where a file of options is taken for one of predictions; "" of any other."""
    rows = next(iter(found.values()), None) if isinstance(found, dict) else None
    options = isinstance(rows, list) and rows and isinstance(rows[0], dict) and "groundtruth" in rows[0]
    return "options of questions, no predictions; make questions by `fgvr questions --options`" if options else ""


def _form(label: str, row: Any) -> str:
    """The format that a row's fields speak for."""
    names = set(row) if isinstance(row, dict) else set()
    signs = {"lmms-eval": {"doc_id", "target"}, "fgvr": {"kind", "prediction"}, "foci": {"predicted", "correct"}}
    signs |= {"vlmevalkit": {"prediction", "answer"}}
    for form, wanted in signs.items():
        if wanted <= names:
            return form
    if {"prediction4", "target"} <= names:
        return "foci"
    raise FgvrError(f"{label}: rows of an unknown kind (fields {', '.join(sorted(names)) or 'none'}); {KNOWN}")


def _xlsx(label: str, data: bytes) -> list[Record]:
    try:
        import openpyxl
    except ImportError:
        raise FgvrError(f"{label}: no library for xlsx; run `pip install 'fgvr[tables]'`, or save it as csv") from None
    try:
        sheet = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True).worksheets[0]
        rows = iter(sheet.iter_rows(values_only=True))
        names = [str(name) for name in next(rows, ())]
        return [dict(zip(names, row, strict=False)) for row in rows if any(cell is not None for cell in row)]
    except Exception as error:  # openpyxl raises whatever zip, XML and its own code raise
        raise FgvrError(f"{label}: not a readable xlsx file ({error}); save it again, or as csv") from error


def _csv(label: str, text: str, delimiter: str) -> list[Any]:
    try:
        rows: list[Any] = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise FgvrError(f"{label}: not a readable table ({error}); {KNOWN}") from error
    if not rows:
        raise FgvrError(f"{label}: no predictions in it; name the right --format: {KNOWN}")
    return rows


def _plain(label: str, rows: list[Any]) -> Iterator[Item]:
    for number, row in enumerate(rows, 1):
        yield row if isinstance(row, dict) else Bad(f"{label}: row {number}", "not an object; correct the row")


def _some(label: str, items: Iterable[Item]) -> Iterator[Item]:
    some = False
    for item in items:
        some = True
        yield item
    if not some:
        raise FgvrError(f"{label}: no line `index | prediction | gold` in it; name the right --format: {KNOWN}")


def _own(record: Record, parser: str | None) -> list[Record]:
    return [record if parser is None else tools.reread(record, parser)]


def _converted(
    label: str,
    items: Iterable[Item],
    parser: str | None,
    say: Say,
    convert: Callable[[Record, str | None], list[Record]],
    own: Record | None = None,
) -> Iterator[Item]:
    """Rows through a tool's converter; then what the file says of itself that its predictions do not."""
    right = marked = differ = 0
    times: dict[str, int] = {}
    for number, item in enumerate(items, 1):
        if isinstance(item, Bad):
            yield item
            continue
        try:
            made = convert(item, parser)
        except RecordError as error:
            yield Bad(f"{label}: row {number}", str(error), record=item)
            continue
        for record in made:
            if convert is tools.foci:  # an image may have several questions
                count = times[record["id"]] = times.get(record["id"], 0) + 1
                record["id"] = f"{record['image']}{f'#{count}' if count > 1 else ''}/{record['kind']}"
            right, marked = right + bool(record.get("correct")), marked + 1
            verdict = record.pop("verdict", None)
            differ += verdict is not None and verdict != record["correct"]
            yield record
    said = (own or {}).get("accuracy")
    if isinstance(said, (int, float)) and parser is None and marked and abs(said - right / marked) > 1e-9:
        say(f"{label}: its own accuracy is {said:.6f}, its predictions give {right / marked:.6f}")
    if differ:
        say(f"{label}: {differ} of {marked} verdicts are not the file's own, which may rest on a judge or a guess")


def _unique(source: Source, items: Iterable[Item], at: list[int]) -> Iterator[Item]:
    """Gives records without an id one, refuses an id that came before, counts. at: see `read`."""

    def fault(error: str, record: Record) -> Bad:
        return Bad(f"{source.label}:{at[0]}" if at else f"{source.label}: record {count}", error, record=record)

    seen: set[int] = set()  # of hashes: a million ids as texts would be 100 MB
    count = 0
    for item in items:
        count += 1
        if isinstance(item, Bad):
            yield item
            continue
        key = item.get("id")
        if type(key) is not str or not key:
            if "id" not in item and not any(name in item for name in SCORED):
                yield fault(_listed(item) or NOTHING, item)
                continue
            try:
                item, key = _identified(item)
            except RecordError as error:
                yield fault(str(error), item)
                continue
        mark = hash(key)
        if mark in seen:
            yield fault(f"id {key!r} came before; make ids unique", item)
            continue
        seen.add(mark)
        yield item
    source.records = count


def _identified(record: Record) -> tuple[Record, str]:
    import orjson

    if "id" in record:
        records.check(record, ("id",))
    key = hashlib.sha256(orjson.dumps(record, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
    return {"id": key, **record}, key
