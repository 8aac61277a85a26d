"""Metrics records as a table for people: a row a metric, a column a run."""

from __future__ import annotations

from collections.abc import Sequence

from fgvr.records import Record

PLAIN = {"id", "run", "against", "kind", "metric", "value", "low", "high", "n", "p", "k", "settings"}
DIFFERENCE = " difference"  # "accuracy difference" stands in the row of "accuracy"


def table(records: Sequence[Record]) -> list[str]:
    """Lines: kind, metric, then for each run the value with its 95 % interval, and n."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    counts: dict[tuple[str, str], list[str]] = {}
    columns: dict[str, None] = {}
    shown = [record for record in records if record["metric"] != "confusion"]  # a matrix is no row of figures
    for record in sorted(shown, key=lambda record: "against" in record):  # differences last, as their columns are
        row, column = _row(record), _column(record)
        columns[column] = None
        rows.setdefault(row, {})[column] = _cell(record)
        if "against" not in record and record.get("n") is not None:
            counts.setdefault(row, []).append(str(record["n"]))
    head = ["", "", *columns, "n"]
    body = [
        [*row, *(cells.get(column, "") for column in columns), "/".join(dict.fromkeys(counts.get(row, [])))]
        for row, cells in rows.items()
    ]
    return aligned([head, *body])


def _row(record: Record) -> tuple[str, str]:
    metric = record["metric"]
    if "against" in record:
        metric = metric.removesuffix(DIFFERENCE)
    return record["kind"], ", ".join([metric, *(str(value) for name, value in record.items() if name not in PLAIN)])


def _column(record: Record) -> str:
    run = str(record.get("run", "value"))
    return f"{run} - {record['against']}" if "against" in record else run


def _cell(record: Record) -> str:
    if record["value"] is None:
        return "too few"
    sign = "+" if "against" in record else ""
    text = f"{record['value']:{sign}.3f}"
    if record.get("low") is not None and record.get("high") is not None:
        text += f" [{record['low']:{sign}.3f}, {record['high']:{sign}.3f}]"
    return f"{text} p {record['p']:.2g}" if record.get("p") is not None else text


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to their widest cell, the last one to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join([*cells[:-1], row[-1].rjust(widths[-1])]) for cells, row in zip(padded, rows, strict=True)]
