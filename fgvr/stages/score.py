"""predictions, extractions -> metrics records.

A metrics record is {kind, metric, value, low, high, n}: shares in [0, 1] with a 95 % interval (null where there is
none) over n things. Predictions are scored by their `kind`: a share of right answers, its mean over categories, and
the share of replies that could not be read. Records with `attributes_true` are scored by their `attributes` and
their `description`. Metrics records, such as probe's, come through as they are, so that one table can hold them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from fgvr import metrics
from fgvr.answers import normalise
from fgvr.errors import FgvrError, RecordError
from fgvr.records import Record, check

NEEDED = {
    "metric": ("kind", "metric", "value"),
    "prediction": ("kind", "prediction", "correct"),
    "extraction": ("attributes_true",),
}
RIGHT = {"open": "exact match"}  # what a share of right answers is called, where it is not "accuracy"


def score(runs: Mapping[str, Sequence[Record]], by: str | None = None) -> Iterator[Record]:
    """The metrics of one or several runs; of several, also the paired difference of the last to each other one.

    Args:
        runs: records that `known` let through, by the name of their run; it enters the metrics records (`run`) when
            there are several.
        by: a field ("category", "superclass"): the shares of right answers also for each of its values.
    Raises:
        FgvrError: an id comes twice in a run.
    """
    *others, last = runs
    for name, records in runs.items():
        twice = [key for key, count in Counter(r["id"] for r in records if "id" in r).items() if count > 1]
        if twice:
            raise FgvrError(f"run {name!r}: id {twice[0]!r} comes twice; give each file once")
        for found in _run(records, by):
            yield {"run": name, **found} if others else found
    for name in others:
        for found in _differences(runs[name], runs[last]):
            yield {"run": last, "against": name, **found}


def known(record: Record, by: str | None = None) -> Record:
    """The record, when it can be scored; a metrics record without the id that reading it gave it.

    Raises:
        RecordError: there is nothing to score, or a field is of the wrong type.
    """
    kind = _sort(record)
    check(record, NEEDED[kind])
    if kind == "prediction" and by is not None:
        check(record, (by,))
    if kind == "extraction":
        check(record, [name for name in ("attributes", "description") if name in record])
    return {name: value for name, value in record.items() if name != "id"} if kind == "metric" else record


def _sort(record: Record) -> str:
    if "metric" in record:
        return "metric"
    if "prediction" in record or "correct" in record:
        return "prediction"
    if "attributes_true" in record and ("attributes" in record or "description" in record):
        return "extraction"
    raise RecordError("nothing to score: no `correct`, no `attributes_true` beside `attributes`; run `fgvr eval` first")


def _run(records: Sequence[Record], by: str | None) -> Iterator[Record]:
    sorts: dict[str, list[Record]] = {"prediction": [], "extraction": [], "metric": []}
    for record in records:
        sorts[_sort(record)].append(record)
    for kind in dict.fromkeys(record["kind"] for record in sorts["prediction"]):
        yield from _predictions(kind, [record for record in sorts["prediction"] if record["kind"] == kind], by)
    yield from _statements(sorts["extraction"], "attributes", "attribute accuracy", _answers, each=True)
    yield from _statements(sorts["extraction"], "description", "description accuracy", _told)
    yield from sorts["metric"]


# --- predictions ------------------------------------------------------------------------------------------------------


def _predictions(kind: str, records: Sequence[Record], by: str | None) -> Iterator[Record]:
    """Of one kind of question; a question whose answer is not known counts for the failure rate alone."""
    name = RIGHT.get(kind, "accuracy")
    marked = [record for record in records if record["correct"] is not None]
    right = [record["correct"] for record in marked]
    if marked:
        yield _share(kind, name, right)
    if marked and all(isinstance(record.get("category"), str) for record in marked):
        categories = [record["category"] for record in marked]
        mean = metrics.mean_per_class(categories, right)
        yield _metric(kind, f"mean-per-class {name}", mean, None, None, len(set(categories)))
    yield _share(kind, "failure rate", [record["prediction"] is None for record in records])
    if by is not None:
        groups = [record[by] for record in marked]
        for group in dict.fromkeys(groups):
            members = [ok for other, ok in zip(groups, right, strict=True) if other == group]
            yield {**_share(kind, name, members), by: group}


def _differences(first: Sequence[Record], second: Sequence[Record]) -> Iterator[Record]:
    """By how much the second run is better on the questions that both answered, with the p of McNemar's test."""
    before = {(r["kind"], r.get("id")): r["correct"] for r in first if _is_marked(r)}
    kinds: dict[str, list[tuple[bool, bool]]] = {}
    for record in second:
        key = (record.get("kind"), record.get("id"))
        if _is_marked(record) and record.get("id") is not None and key in before:
            kinds.setdefault(record["kind"], []).append((before[key], record["correct"]))
    for kind, pairs in kinds.items():
        old, new = [a for a, _ in pairs], [b for _, b in pairs]
        found = metrics.bootstrap_difference(old, new)
        p = metrics.mcnemar(old, new)
        yield {**_metric(kind, f"{RIGHT.get(kind, 'accuracy')} difference", *found, len(pairs)), "p": p}


def _is_marked(record: Record) -> bool:
    return isinstance(record.get("correct"), bool) and "kind" in record


# --- extractions ------------------------------------------------------------------------------------------------------


def _answers(record: Record, name: str, value: str) -> bool:
    return normalise(str(record["attributes"].get(name, ""))) == normalise(value)


def _told(record: Record, name: str, value: str) -> bool:
    return tells(record["description"], name, value)


def tells(description: str, name: str, value: str) -> bool:
    """Whether some clause of a description names the attribute and holds all words of the value.

    Clauses end at full stops, semicolons, commas and "and" ("The bill shape of the bird is hooked and the bill
    colour is grey."). It is a literal measure: "a red crown" does not tell a "crown colour" of "red".
    """
    wanted, words = normalise(name), set(normalise(value).split())
    for clause in re.split(r"[.;,!?\n]|\band\b", description):
        said = f" {normalise(clause)} "
        if f" {wanted} " in said and words <= set(said.replace(f" {wanted} ", " ", 1).split()):
            return True
    return False


def _statements(
    records: Sequence[Record], field: str, metric: str, holds: Callable[[Record, str, str], bool], each: bool = False
) -> Iterator[Record]:
    """Mean over records of the share of attributes_true that holds, its interval by a bootstrap over records (the
    statements of one image are not independent); with `each` also for every attribute, one statement a record."""
    shares: list[float] = []
    columns: dict[str, list[bool]] = {}
    for record in records:
        truth = record["attributes_true"]
        if field not in record or not truth:
            continue
        held = {name: holds(record, name, str(value)) for name, value in truth.items()}
        shares.append(sum(held.values()) / len(held))
        for name, right in held.items():
            columns.setdefault(name, []).append(right)
    if not shares:
        return
    mean, low, high = metrics.bootstrap_difference([0.0] * len(shares), shares)
    several = len(shares) > 1  # one record says nothing about the spread
    yield _metric(field, metric, mean, low if several else None, high if several else None, len(shares))
    if each:
        for name, held_by in columns.items():
            yield {**_share(field, metric, held_by), "attribute": name}


# --- records ----------------------------------------------------------------------------------------------------------


def _share(kind: str, metric: str, right: Sequence[bool]) -> Record:
    low, high = metrics.wilson(sum(right), len(right))
    return _metric(kind, metric, metrics.accuracy(right), low, high, len(right))


def _metric(kind: str, metric: str, value: float, low: float | None, high: float | None, n: int) -> Record:
    return {"kind": kind, "metric": metric, "value": value, "low": low, "high": high, "n": n}
