"""The tables of a report and what its charts draw, from predictions.

Every share has Wilson's 95 % interval. Names are compared as `fgvr score` does (fgvr.answers.normalise).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgvr.answers import normalise
from fgvr.metrics import wilson
from fgvr.records import Record
from fgvr.report.gather import Material, Run
from fgvr.report.tables import Cell, Figure, Table, figures, word
from fgvr.stages.score import score

KINDS = ("open", "mcq", "yesno", "label", "caption")
PAIRS = 100  # rows of the table of confused pairs, for each run and kind
UNSHOWN = {"step", "lr", "tokens", "texts"}  # of training logs; counts in hundreds would flatten the losses
OTHER, NONE = "(another name)", "(no answer read)"


class Categories:
    """The categories of all predictions: how each is written, its coarse group and its super-category."""

    def __init__(self, material: Material) -> None:
        self.names: dict[str, str] = {}  # normal form -> first spelling
        self.coarse: dict[str, str] = {}
        self.broad: dict[str, str] = {}
        for run in material.runs.values():
            for record in run.predictions:
                self._add(record)
        self.form = "coarse group" if self.coarse else "last word of the name"
        if not self.coarse:
            self._by_last_word()

    def _add(self, record: Record) -> None:
        name = own(record)
        if name is None:
            return
        key = key_of(name)
        self.names.setdefault(key, word(name))
        labels = record.get("labels")
        coarse = labels.get("coarse") if isinstance(labels, dict) else None
        coarse = coarse[0] if isinstance(coarse, list) and coarse else coarse
        if isinstance(coarse, str):
            self.coarse.setdefault(key, word(coarse))
        if isinstance(record.get("superclass"), str):
            self.broad.setdefault(key, word(record["superclass"]))

    def _by_last_word(self) -> None:
        """Groups for names without labels, "Herring Gull" -> "Gull", where most names share theirs with another."""
        last = {key: name.split()[-1] for key, name in self.names.items() if len(name.split()) > 1}
        counts = Counter(last.values())
        if 2 * sum(count for count in counts.values() if count > 1) >= len(self.names) > 2 and len(counts) > 1:
            self.coarse = last

    @property
    def ordered(self) -> list[str]:
        """The keys, group by group."""
        return sorted(self.names, key=lambda key: (self.broad.get(key, ""), self.coarse.get(key, ""), self.names[key]))


def own(record: Record) -> str | None:
    """The category that a prediction is about."""
    name = record.get("category") or record.get("answer")
    return name if isinstance(name, str) else None


def kinds(material: Material) -> list[str]:
    """The kinds of question that can be right or wrong, in the usual order."""
    there = {r["kind"] for run in material.runs.values() for r in run.predictions if r.get("correct") is not None}
    return sorted(there - {"caption"}, key=lambda kind: KINDS.index(kind) if kind in KINDS else len(KINDS))


def of_kind(run: Run, kind: str) -> list[Record]:
    return [r for r in run.predictions if r["kind"] == kind and r.get("correct") is not None]


# --- what score finds -------------------------------------------------------------------------------------------------


def summary(material: Material, say: Callable[[str], None]) -> tuple[list[Table], list[Record]]:
    """The tables of what `fgvr score` finds, and its records of predictions."""
    runs = {name: run.scored for name, run in material.runs.items()}
    found = list(score(runs, say=say))
    asked = {kind for run in runs.values() for kind in run.predictions}
    mine = [record for record in found if record["kind"] in asked]
    plain = [r for r in mine if not set(r) & {"level", "position"}]
    files = {run.name: ", ".join(Path(file).name for file in run.files) for run in material.runs.values()}
    source = "; ".join(f"{name}: {names}" for name, names in files.items())
    first = f"95 % intervals, as fgvr score finds them (docs/evaluation.md). {source}."
    chosen = [
        ("summary", "Summary", plain, first),
        ("levels", "Open answers by granularity", [r for r in mine if "level" in r], "FINER's scores."),
        ("positions", "Positions of options", [r for r in mine if "position" in r], "Shares of choices."),
        ("probe", "Probes and alignment", [r for r in found if r["kind"] not in asked], "From fgvr probe."),
    ]
    made = [figures(*one, only=next(iter(runs))) for one in chosen]
    return [table for table in made if table.rows], mine


def described(material: Material) -> list[Table]:
    """What `fgvr score` says of attributes and descriptions."""
    from fgvr.stages.score import Scored

    known = {}
    for folder, records in material.described.items():
        scored = Scored()
        if not list(scored.take(r for r in records if "attributes" in r or "description" in r)) and scored.extractions:
            known[folder] = scored
    if not known:
        return []
    found = [record for record in score(known) if "against" not in record]
    each = [record for record in found if "attribute" in record]
    rest = [record for record in found if "attribute" not in record]
    only = next(iter(known))
    made = [
        figures("attributes", "Attributes and descriptions", rest, "Of the training images' records.", only),
        figures("attribute", "Attribute by attribute", each, "Accuracy, or bits told of the category.", only),
    ]
    return [table for table in made if table.rows]


# --- by category, group and granularity -------------------------------------------------------------------------------


def by(
    material: Material, kind: str, key: str, caption: str, of: Callable[[Record], str | None],
    more: Mapping[str, Mapping[str, str]] = {},
) -> Table | None:  # fmt: skip
    """Accuracy for each value of `of`; of several runs also the last one's difference to each, on shared questions.

    Args:
        more: further columns that name the row: column -> {value: text}.
    """
    runs = [run for run in material.runs.values() if of_kind(run, kind)]
    told = {run.name: _grouped(of_kind(run, kind), of) for run in runs}
    values = sorted({value for groups in told.values() for value in groups})
    if len(values) < 2 or not runs:
        return None
    *others, last = (run.name for run in runs)
    rows: list[list[Cell]] = []
    for value in values:
        row: list[Cell] = [value, *(texts.get(value, "") for texts in more.values())]
        row.append(max(len(told[run.name].get(value, ())) for run in runs))
        row += [share(told[run.name].get(value, {}).values()) for run in runs]
        row += [_gain(told[name].get(value, {}), told[last].get(value, {})) for name in others]
        rows.append(row)
    columns = [key, *more, "n", *(run.name for run in runs), *(f"{last} − {name}" for name in others)]
    note = "95 % Wilson intervals; a difference is over the questions that both runs answered." if others else ""
    return Table(f"{kind}-{key.replace(' ', '-')}", caption, columns, rows, note=note or "95 % Wilson intervals.")


def _grouped(records: Iterable[Record], of: Callable[[Record], str | None]) -> dict[str, dict[str, bool]]:
    """value -> {question: right}."""
    found: dict[str, dict[str, bool]] = {}
    for record in records:
        value = of(record)
        if value is not None:
            found.setdefault(value, {})[record["id"]] = bool(record["correct"])
    return found


def share(right: Iterable[bool]) -> Figure | None:
    marks = list(right)
    return Figure(sum(marks) / len(marks), *wilson(sum(marks), len(marks))) if marks else None


def _gain(before: Mapping[str, bool], after: Mapping[str, bool]) -> Figure | None:
    both = before.keys() & after.keys()
    return Figure(sum(after[i] - before[i] for i in both) / len(both), signed=True) if both else None


def by_category(material: Material, known: Categories) -> list[Table]:
    """For each kind of question: by super-category, coarse group and category."""
    found: list[Table | None] = []
    for kind in kinds(material):

        def name_of(record: Record, names: Mapping[str, str] = known.names) -> str | None:
            return names.get(key_of(own(record)))

        def of(table: Mapping[str, str]) -> Callable[[Record], str | None]:
            return lambda record: table.get(key_of(own(record)))

        groups = {known.names[key]: group for key, group in known.coarse.items()}
        found.append(granularity(material, kind, known))
        found.append(by(material, kind, "super-category", f"{kind}: accuracy by super-category", of(known.broad)))
        found.append(by(material, kind, "group", f"{kind}: accuracy by {known.form}", of(known.coarse)))
        more = {"group": groups} if groups else {}
        found.append(by(material, kind, "category", f"{kind}: accuracy by category", name_of, more))
    return [table for table in found if table is not None]


def granularity(material: Material, kind: str, known: Categories) -> Table | None:
    """How many answers name the right category, one of its coarse group, one of its super-category."""
    levels = [("category", {key: key for key in known.names})]
    levels += [(known.form, known.coarse)] if known.coarse else []
    levels += [("super-category", known.broad)] if len(set(known.broad.values())) > 1 else []
    runs = [run for run in material.runs.values() if of_kind(run, kind)]
    if len(levels) < 2 or not runs:
        return None
    rows: list[list[Cell]] = []
    for level, table in levels:
        marks = [[_right_at(record, table) for record in of_kind(run, kind)] for run in runs]
        rows.append([level, *(share(found) for found in marks)])
    note = "An answer is right at a level when it names a category of the same group."
    caption = f"{kind}: accuracy by granularity"
    return Table(f"{kind}-granularity", caption, ["level", *(run.name for run in runs)], rows, note=note)


def _right_at(record: Record, group: Mapping[str, str]) -> bool:
    if record["correct"]:
        return True
    said, gold = group.get(key_of(record.get("prediction"))), group.get(key_of(own(record)))
    return said is not None and said == gold


def key_of(name: Any) -> str:
    """What equal names have in common; "" of no name."""
    return (normalise(name) or name) if isinstance(name, str) else ""


# --- confusion --------------------------------------------------------------------------------------------------------


def confusion(material: Material, known: Categories) -> tuple[Table | None, list[dict[str, Any]]]:
    """The most confused pairs, and for each run and kind the cells [right, given, count, ...] as places in `ordered`;
    after the last category stand another name and no answer."""
    place = {key: i for i, key in enumerate(known.ordered)}
    rows: list[list[Cell]] = []
    charts = []
    for run in reversed(material.runs.values()):  # the last one is what the others are compared with
        for kind in (kind for kind in kinds(material) if kind != "yesno"):
            cells: Counter[tuple[int, int]] = Counter()
            for record in of_kind(run, kind):
                gold = place.get(key_of(own(record)))
                if gold is not None:
                    cells[gold, gold if record["correct"] else _said(record, place)] += 1
            if not cells:
                continue
            flat = [n for (i, j), count in sorted(cells.items()) for n in (i, j, count)]
            charts.append({"run": run.name, "kind": kind, "cells": flat})
            rows += _pairs(run.name, kind, cells, known)
    note = f"At most {PAIRS} pairs of a run and kind. The share is of the right category's questions."
    columns = ["run", "kind", "right", "given", "times", "share"]
    table = Table("confused", "Most confused pairs", columns, rows, heads=4, note=note) if rows else None
    return table, charts


def _said(record: Record, place: Mapping[str, int]) -> int:
    prediction = record.get("prediction")
    return len(place) + 1 if prediction is None else place.get(key_of(prediction), len(place))


def _pairs(run: str, kind: str, cells: Mapping[tuple[int, int], int], known: Categories) -> list[list[Cell]]:
    total: Counter[int] = Counter()
    for (gold, _), count in cells.items():
        total[gold] += count
    names = [*(known.names[key] for key in known.ordered), OTHER, NONE]
    wrong = sorted(((-count, i, j) for (i, j), count in cells.items() if i != j))[:PAIRS]
    return [
        [run, kind, names[i], names[j], -count, Figure(-count / total[i], *wilson(-count, total[i]))]
        for count, i, j in wrong
    ]


def curves(material: Material) -> tuple[list[Table], list[dict[str, Any]]]:
    """Training curves: a log's losses by step; in the table its first and last values."""
    charts, rows = [], []
    for name, steps in material.curves.items():
        series: dict[str, tuple[list[Any], list[Any]]] = {}
        for n, step in enumerate(steps):
            for metric, value in step.items():
                if metric not in UNSHOWN and isinstance(value, (int, float)) and not isinstance(value, bool):
                    xs, ys = series.setdefault(metric, ([], []))
                    xs.append(step.get("step", n + 1))
                    ys.append(value)
        charts.append({"name": name, "series": [{"name": m, "x": xs, "y": ys} for m, (xs, ys) in series.items()]})
        for metric, (xs, ys) in series.items():
            ends = [Figure(ys[0]), Figure(min(ys)), Figure(ys[-1])]
            rows.append([name, metric, xs[-1], *ends])
    columns = ["training", "figure", "steps", "first", "least", "last"]
    note = "From log.jsonl of the adapters' folders."
    return ([Table("training", "Training", columns, rows, heads=2, note=note)] if rows else []), charts


def sorted_shares(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """What the chart of categories draws, from the tables by category: each run's accuracies in rising order."""
    charts = []
    for table in tables:
        if not table.key.endswith("-category") or table.key.endswith("super-category"):
            continue
        start = table.columns.index("n") + 1
        for i, name in enumerate(table.columns[start:], start):
            points = [(c.value, c.low, c.high, str(row[0])) for row in table.rows if isinstance(c := row[i], Figure)]
            if points and not name.startswith("−") and " − " not in name:
                points.sort(key=lambda point: (point[0], point[3]))
                charts.append({"kind": table.key.partition("-")[0], "run": name, "points": points})
    return charts
