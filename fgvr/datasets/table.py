"""Tables: a CSV, TSV or JSONL file that names images and categories, and the one that gives categories their labels."""

from __future__ import annotations

import csv
import difflib
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgvr import images
from fgvr.answers import normalise
from fgvr.datasets.settings import Table
from fgvr.errors import FgvrError, RecordError
from fgvr.source import Source
from fgvr.stream import Bad, Item, decode

GRAINS = ("superordinate", "coarse", "fine")
Row = tuple[str, dict[str, Any]]
Say = Callable[[str], None]


def rows(source: Source) -> Iterator[Row]:
    """("file:line", row) of a .csv or .tsv file (also packed), of JSONL by any other name.

    Raises:
        FgvrError: a line that is neither.
    """
    source.known_digest()
    suffix = os.path.splitext(source.name.removesuffix(".gz").removesuffix(".zst"))[1].lower()
    number = 0

    def text() -> Iterator[str]:
        nonlocal number
        for line in source.lines():
            number += 1
            yield line.decode("utf-8-sig")

    try:
        if suffix in (".csv", ".tsv"):
            table = csv.DictReader(text(), delimiter="\t" if suffix == ".tsv" else ",", strict=True)
            for row in table:
                _whole(row, table.fieldnames or ())
                yield f"{source.label}:{number}", row
        else:
            for line in text():
                if line.strip():
                    row = decode(line)
                    if not isinstance(row, dict):
                        raise ValueError("no JSON object")
                    yield f"{source.label}:{number}", row
    except (csv.Error, ValueError) as error:
        kind = "CSV" if suffix in (".csv", ".tsv") else "JSONL"
        raise FgvrError(f"{source.label}:{number}: not UTF-8 {kind} ({error}); correct it") from error
    finally:
        source.digest()


def _whole(row: dict[Any, Any], header: Sequence[str]) -> None:
    """A comma that is not quoted, or a column named twice, would silently tell another category."""
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise ValueError(f"column {twice[0]!r} comes twice")
    if any(row.pop(None, ())) or None in row.values():
        raise ValueError(f"more or fewer cells than the {len(header)} of the header")


def records(
    source: Source, root: Path, split: str, superclass: str, settings: Table, say: Say = lambda line: None
) -> Iterator[Item]:
    """rows of a split -> image records, in the order of the table; a row that cannot be one comes as a Bad.

    Categories that differ only in case or in how Unicode composes their letters are one, spelt as the first row of the
    table spells it, whatever its split, and composed (NFC); `say` is told of them in the end.

    Raises:
        FgvrError: a column is missing, or no row is of the split.
    """
    wanted = [settings.image_column, settings.category_column, settings.split_column, settings.id_column]
    grains = {grain: getattr(settings, f"{grain}_column") for grain in GRAINS}
    seen: set[str] = set()
    parts: set[str] = set()
    spelt = _Spellings()
    for where, row in rows(source):
        if missing := [name for name in (*wanted, *grains.values()) if name and name not in row]:
            there = ", ".join(str(name) for name in row)
            raise FgvrError(f"{where}: no column {missing[0]!r} (there: {there}); see --help for naming columns")
        row[settings.category_column] = spelt(row[settings.category_column])
        if settings.split_column:
            parts.add(str(row[settings.split_column]))
            if row[settings.split_column] != split:
                continue
        try:
            record = _record(row, split, superclass, settings)
        except RecordError as error:
            yield Bad(where, str(error), record=row)
            continue
        try:
            if record["id"] in seen:
                raise RecordError(f"has the id {record['id']!r} of an earlier row; remove one")
            seen.add(record["id"])
            image = record["image"]
            images.open_image(root, image) if settings.verify else images.locate(root, image)
        except RecordError as error:
            yield Bad(where, str(error), record=record)
        else:
            if any(grains.values()):
                record["labels"] = _labels(row, grains, record)
            yield record
    if spelt.others:
        say(f"{source.label}: {spelt}")
    if not seen:
        found = f" (there: {', '.join(sorted(parts)) or 'no rows'})" if settings.split_column else ""
        raise FgvrError(f"{source.label}: no row of split {split!r}{found}; check --split and --split-column")


def _record(row: dict[str, Any], split: str, superclass: str, settings: Table) -> dict[str, Any]:
    values = {}
    for name, column in (("image", settings.image_column), ("category", settings.category_column)):
        value = row[column]
        if not isinstance(value, str) or not value.strip():
            raise RecordError(f"column {column!r} holds {value!r}; it must be text")
        values[name] = value.strip()
    image = values["image"].replace("\\", "/").removeprefix("./")
    own = row[settings.id_column] if settings.id_column else os.path.splitext(image)[0]
    if isinstance(own, bool) or not isinstance(own, str | int) or own == "":
        raise RecordError(f"column {settings.id_column!r} holds {own!r}; it must be text or a whole number")
    record = {"id": str(own), "image": image, "category": values["category"]}
    return {**record, "superclass": superclass, "split": split}


class _Spellings:
    """Names as they were first spelt; `others`: spellings that came later, with the first one of each."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self.others: dict[str, str] = {}

    def __call__(self, name: Any) -> Any:
        """The first spelling of a name, composed; what is no text as it is."""
        if not isinstance(name, str):
            return name
        name = name.strip()
        composed = unicodedata.normalize("NFC", name)
        first = self.first.setdefault(unicodedata.normalize("NFC", composed.casefold()), name)
        if first != name:
            self.others[name] = first
        return unicodedata.normalize("NFC", first)

    def __str__(self) -> str:
        other, first = next(iter(self.others.items()))
        composed = [unicodedata.normalize("NFC", name) for name in (other, first)]
        alike = composed[0] == composed[1]
        shown = [ascii(other), ascii(first)] if alike else [repr(name) for name in composed]
        more = f", and {len(self.others) - 1} more" if len(self.others) > 1 else ""
        return (f"category {shown[0]} differs from {shown[1]} only in {'Unicode form' if alike else 'case'} and became "
                f"that one{more}; if two are meant, name them apart")  # fmt: skip


def _labels(row: dict[str, Any], grains: dict[str, str | None], record: dict[str, Any]) -> dict[str, Any]:
    found = {grain: _several(row[column]) if column else [] for grain, column in grains.items()}
    wide = (found["superordinate"] or [record["superclass"]])[0]
    return {"superordinate": wide, "coarse": found["coarse"], "fine": found["fine"] or [record["category"]]}


def _several(cell: Any) -> list[str]:
    """A cell's labels: a list, or text separated by ";"."""
    parts = cell if isinstance(cell, list) else str(cell or "").split(";")
    return [str(part).strip() for part in parts if str(part).strip()]


# --- --labels ---------------------------------------------------------------------------------------------------------


class Labels:
    """What a --labels file says: columns `category` and any of `superordinate`, `coarse`, `fine`.

    Args:
        source: CSV, TSV or JSONL; a cell may hold several labels, separated by ";", or a list.
    Raises:
        FgvrError: a column is missing, or a category comes twice.
    """

    def __init__(self, source: Source) -> None:
        self.name = source.label
        self.by_name: dict[str, dict[str, list[str]]] = {}
        for where, row in rows(source):
            given = {grain: _several(row[grain]) for grain in GRAINS if grain in row}
            if "category" not in row or not given:
                raise FgvrError(f"{where}: expected columns category and coarse, superordinate or fine; name them so")
            key = normalise(str(row["category"]))
            if key in self.by_name:
                raise FgvrError(f"{where}: category {row['category']!r} comes twice; remove one")
            self.by_name[key] = given

    def check(self, title: str, names: Sequence[str]) -> None:
        """Raise FgvrError for a category that a data set with these names and aliases does not have."""
        known = {normalise(name): name for name in names}
        for name in self.by_name:
            if name not in known:
                hint = _hint(name, known) or "; correct it"
                raise FgvrError(f"{self.name}: {name!r} is no category of {title}{hint}")

    def put(self, items: Iterable[Item], say: Say = lambda line: None) -> Iterator[Item]:
        """image -> image with these labels, which replace those that it had; what no image is of is said in the end.

        Raises:
            FgvrError: none fits.
        """
        used: set[str] = set()
        plain: dict[str, str] = {}  # categories without labels
        for item in items:
            if not isinstance(item, Bad):
                names = (item["category"], *item.get("aliases", ()))
                name = next((n for n in map(normalise, names) if n in self.by_name), None)
                if name is None:
                    plain.setdefault(normalise(item["category"]), item["category"])
                else:
                    used.add(name)
                    item = {**item, "labels": self._merged(item, self.by_name[name])}
            yield item
        if not used:
            raise FgvrError(f"{self.name}: names no category of these images; check its column category")
        if idle := [name for name in self.by_name if name not in used]:
            say(f"{self.name}: {len(idle)} of {len(self.by_name)} names are no category of these images, the first is "
                f"{idle[0]!r}{_hint(idle[0], plain)}")  # fmt: skip

    @staticmethod
    def _merged(record: dict[str, Any], given: dict[str, list[str]]) -> dict[str, Any]:
        old = record.get("labels") or {}
        wide = given.get("superordinate") or [old.get("superordinate") or record["superclass"]]
        coarse = given.get("coarse") or old.get("coarse") or []
        return {
            "superordinate": wide[0],
            "coarse": coarse,
            "fine": given.get("fine") or old.get("fine") or [record["category"]],
        }


def _hint(name: str, known: Mapping[str, str]) -> str:
    """What a name that is not known may have meant, "" where nothing is near."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {known[close[0]]!r}?" if close else ""
