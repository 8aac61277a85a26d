"""A paper's table with a run's figures beside the published ones, as Markdown that also reads as text.

A published table is a record, or several of one number for its parts: table, caption, source, scale (100 for percent),
columns, rows [[label, value or null, ...], ...] and `ours`: which metrics records make further rows, each {of: fields
that a record must have, row: what the row is called, placed: runs called COLUMN/NAME alone, else: what makes it when
it is not there}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fgvr.analysis.table import PLAIN
from fgvr.errors import FgvrError
from fgvr.records import Record

FIELDS = ("table", "caption", "source", "scale", "columns", "rows", "ours")
MINE = "this run"


def in_table(parts: Sequence[Record], figures: Sequence[Record], column: str) -> str:
    """The parts of a table, one after the other.

    Args:
        figures: metrics records; a run that is called COLUMN/NAME stands in that column.
        column: where the others stand; a new one where the paper has none of this name.
    Raises:
        FgvrError: a part is not made as above.
    """
    try:
        return "\n".join(_part(part, figures, column) for part in parts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FgvrError(f"a published table is not made as it should be ({error!r}); correct its record") from error


def _part(part: Record, figures: Sequence[Record], column: str) -> str:
    rows = {str(label): dict(zip(part["columns"], map(_published, cells), strict=True))
            for label, *cells in part["rows"]}  # fmt: skip
    lacking: dict[str, list[str]] = {}
    for wanted in part["ours"]:
        mine = [figure for figure in figures if _is(figure, wanted["of"])]
        mine = [figure for figure in mine if not wanted.get("placed") or "/" in figure.get("run", "")]
        for figure in mine:
            place, _, run = figure.get("run", "").rpartition("/")
            names = [MINE, "" if "run" in wanted["of"] else run, wanted.get("row", "")]
            cells = rows.setdefault(": ".join(filter(None, names)), {})
            cells[place or column] = _own(figure, part["scale"])
        if not mine and "else" in wanted:
            lacking.setdefault(wanted["else"], []).append(wanted.get("row", MINE))
    columns = dict.fromkeys([*part["columns"], *(name for cells in rows.values() for name in cells)])
    body = [[label, *(cells.get(name, "") for name in columns)] for label, cells in rows.items()]
    notes = [part["note"]] if "note" in part else []
    notes += [f"No figure here of {', '.join(rows)}: {advice}." for advice, rows in lacking.items()]
    text = f"**Table {part['table']}. {part['caption']}** ({part['source']})\n\n{_markdown([['', *columns], *body])}"
    return text + "".join(f"\n{note}\n" for note in notes)


def _is(figure: Record, wanted: Record) -> bool:
    """Whether a record has these fields, and no others that tell what it is of."""
    more = {name for name in figure if name not in PLAIN} - set(wanted)
    return "against" not in figure and not more and all(figure.get(name) == value for name, value in wanted.items())


def _published(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _own(figure: Record, scale: float) -> str:
    if figure["value"] is None:
        return "too few"
    parts = [figure.get(name) for name in ("value", "low", "high", "sd")]
    value, low, high, sd = ("" if x is None else f"{x * scale:.{2 if scale > 1 else 3}f}" for x in parts)
    return f"{value} ± {sd}" if sd else f"{value} [{low}, {high}]" if low and high else value


def _markdown(rows: Sequence[Sequence[Any]]) -> str:
    """GitHub's form, columns padded; all but the first to the right."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(cells[0]))]
    marks = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
             for row in cells]  # fmt: skip
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], marks, *lines[1:]))
