"""What extractions and descriptions say of attributes whose true values are known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from fgvr.analysis import intervals
from fgvr.analysis.intervals import figure
from fgvr.answers import normalise
from fgvr.records import Record


def answers(record: Record, name: str, value: str) -> bool:
    """Whether the record's attribute has this value, but for spelling."""
    return normalise(str(record["attributes"].get(name, ""))) == normalise(value)


def told(record: Record, name: str, value: str) -> bool:
    """Whether its description tells so."""
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


def statements(
    records: Sequence[Record], field: str, metric: str, holds: Callable[[Record, str, str], bool], each: bool = False
) -> Iterator[Record]:
    """Mean over records of the share of attributes_true that holds, its interval by a bootstrap over records (the
    statements of one image are not independent); with `each` also for every attribute, one statement a record."""
    import numpy as np

    shares: list[float] = []
    columns: dict[str, list[bool]] = {}
    for record in records:
        truth = record.get("attributes_true")
        if field not in record or not truth:
            continue
        held = {name: holds(record, name, str(value)) for name, value in truth.items()}
        shares.append(sum(held.values()) / len(held))
        for name, right in held.items():
            columns.setdefault(name, []).append(right)
    if not shares:
        return
    yield figure(field, metric, intervals.mean(np.array(shares), None))
    if each:
        for name, held_by in columns.items():
            yield {**figure(field, metric, intervals.share(np.array(held_by), None)), "attribute": name}
