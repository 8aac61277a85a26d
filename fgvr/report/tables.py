"""Tables of a report: rows of texts and figures, and their forms for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgvr.analysis.table import DIFFERENCE, PLAIN, aligned
from fgvr.errors import FgvrError, reason
from fgvr.records import Record


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval or its standard deviation over seeds; `signed`: a difference, with McNemar's p."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    signed: bool = False
    sd: float | None = None

    @classmethod
    def of(cls, record: Record) -> Figure:
        """Of a metrics record."""
        between = record.get("low"), record.get("high"), record.get("p")
        return cls(record["value"], *between, "against" in record, record.get("sd"))

    @property
    def span(self) -> str:
        """ "[0.1, 0.2]", "± 0.1", or nothing."""
        if self.sd is not None:
            return f"± {self.sd:.3f}"
        return "" if self.low is None or self.high is None else f"[{self._text(self.low)}, {self._text(self.high)}]"

    @property
    def main(self) -> str:
        return self._text(self.value)

    def _text(self, value: float) -> str:
        return f"{value:{'+' if self.signed else ''}.3f}"

    def __str__(self) -> str:
        p = "" if self.p is None else f"p {self.p:.2g}"
        return " ".join(part for part in (self.main, self.span, p) if part)


Cell = str | int | Figure | None


@dataclass(frozen=True)
class Table:
    """A table with a caption.

    Args:
        key: a word, what files of it are called.
        heads: so many columns, from the left, name the row.
        note: a line on what it holds and where that comes from.
    """

    key: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    heads: int = 1
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers."""
        return [any(isinstance(row[i], (int, Figure)) for row in self.rows) for i in range(len(self.columns))]


def markdown(table: Table) -> str:
    """GitHub's form."""
    marks = ["---:" if numeric else "---" for numeric in table.numeric]
    lines = [table.columns, marks, *([_plain(cell).replace("|", "\\|") for cell in row] for row in table.rows)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{table.caption}**\n\n{body}\n" if table.caption else f"{body}\n"


def plain(table: Table) -> str:
    """For a terminal: columns padded to their widest cell."""
    lines = aligned([table.columns, *([_plain(cell) for cell in row] for row in table.rows)])
    return "".join(f"{line.rstrip()}\n" for line in lines)


def comma_separated(table: Table) -> str:
    """CSV with a header; a figure with an interval takes three columns: X, X low, X high; with p also X p, over seeds
    X sd."""
    parts = [[part for part in ("low", "high", "p", "sd") if _any(table, i, part)] for i in range(len(table.columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([n for i, name in enumerate(table.columns) for n in (name, *(f"{name} {p}" for p in parts[i]))])
    for row in table.rows:
        writer.writerow([text for i, cell in enumerate(row) for text in _spread(cell, parts[i])])
    return out.getvalue()


def latex(table: Table) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    shape = "".join("r" if numeric else "l" for numeric in table.numeric)
    lines = [" & ".join(_tex(_plain(cell)) for cell in row) + r" \\" for row in table.rows]
    head = " & ".join(map(_tex, table.columns)) + r" \\"
    begin = rf"\begin{{table}}{chr(10)}\centering{chr(10)}\caption{{{_tex(table.caption)}}}"
    body = "\n".join([rf"\begin{{tabular}}{{{shape}}}", r"\toprule", head, r"\midrule", *lines, r"\bottomrule"])
    return f"{begin}\n\\label{{tab:{table.key}}}\n{body}\n\\end{{tabular}}\n\\end{{table}}\n"


def save(tables: Sequence[Table], folder: Path) -> None:
    """Every table as KEY.csv, KEY.md and KEY.tex. Raises FgvrError when the folder cannot be written."""
    forms = {"csv": comma_separated, "md": markdown, "tex": latex}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names: list[str] = []
        for table in tables:
            names.append(unused(table.key, names))
            for ending, form in forms.items():
                (folder / f"{names[-1]}.{ending}").write_text(form(table), encoding="utf-8")
    except OSError as error:
        raise FgvrError(f"cannot write --tables {folder}: {reason(error)}; name another folder") from error


def unused(name: str, names: Sequence[str]) -> str:
    """A file name, of letters and digits, that is not one of `names` yet: runs and kinds are called as users please."""
    plain = "".join(c if c.isalnum() else "-" for c in name)[:80]
    return next(found for n in range(len(names) + 1) if (found := f"{plain}-{n + 1}" if n else plain) not in names)


def figures(key: str, caption: str, records: Sequence[Record], note: str = "", only: str = "value") -> Table:
    """Metrics records: a row a metric, a column a run or a difference of runs, and n. only: a single run's name."""
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    counts: dict[tuple[str, str], dict[str, None]] = {}
    columns: dict[str, None] = {}
    for record in sorted(records, key=lambda record: "against" in record):
        metric, against = record["metric"], record.get("against")
        name = str(record.get("run", only))
        column = name if against is None else f"{name} − {against}"
        more = (f"{word(record[field])}" for field in record if field not in PLAIN)
        row = record["kind"], ", ".join([metric if against is None else metric.removesuffix(DIFFERENCE), *more])
        columns[column] = None
        rows.setdefault(row, {})[column] = "too few" if record["value"] is None else Figure.of(record)
        if against is None and record.get("n") is not None:
            counts.setdefault(row, {})[str(record["n"])] = None
    body: list[list[Cell]] = []
    for row, cells in rows.items():
        n = list(counts.get(row, ()))
        body.append([*row, *(cells.get(column) for column in columns), int(n[0]) if len(n) == 1 else "/".join(n)])
    return Table(key, caption, ["of", "metric", *columns, "n"], body, heads=2, note=note)


def by_run(table: Table, wanted: Sequence[str], beside: str = "") -> Table:
    """A table of `figures` turned: a row a run, a column for each wanted figure ("mcq accuracy").

    Args:
        beside: CSV with a header; its first column names runs, the others are added.
    Raises:
        FgvrError: there is no such figure, or a line of the CSV is not as long as its header.
    """
    rows = {f"{row[0]} {row[1]}": row for row in table.rows}
    for name in wanted:
        if name not in rows:
            raise FgvrError(f"--columns: there is no figure {name!r}; there are {', '.join(rows)}")
    head, *lines = [line for line in csv.reader(io.StringIO(beside)) if line] or [[""]]
    if uneven := [line for line in lines if len(line) != len(head)]:
        raise FgvrError(f"--beside: {len(uneven[0])} fields for {uneven[0][0]!r}, {len(head)} in the header")
    known = {line[0]: line[1:] for line in lines}
    body: list[list[Cell]] = []
    for place, run in enumerate(table.columns[2:-1], 2):
        body.append([run, *(rows[name][place] for name in wanted), *known.get(run, [""] * len(head[1:]))])
    return Table(table.key, table.caption, ["run", *wanted, *head[1:]], body, note=table.note)


def word(value: Any) -> str:
    """A name as people write it: Black_footed_Albatross -> Black footed Albatross."""
    return str(value).replace("_", " ")


def _any(table: Table, column: int, part: str) -> bool:
    return any(isinstance(row[column], Figure) and getattr(row[column], part) is not None for row in table.rows)


def _spread(cell: Cell, parts: Sequence[str]) -> list[Any]:
    if isinstance(cell, Figure):
        return [cell.value, *(getattr(cell, part) for part in parts)]
    return [cell, *("" for _ in parts)]


def _plain(cell: Cell) -> str:
    return "" if cell is None else str(cell)


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$"}
_TEX["\\"] = r"\textbackslash{}"


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)
