"""Figures of several seeds as one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from fgvr.records import Record
from fgvr.stream import encode

OWN = ("value", "low", "high", "n", "p")  # of one seed's record; what is left names the figure


def over_seeds(records: Iterable[Record]) -> list[Record]:
    """Metrics records in which runs called NAME@SEED are one run NAME: the mean over its seeds as `value`, the standard
    deviation (n - 1; null of one seed) as `sd`, and how many `seeds`; without the seeds' own intervals.

    Records of other runs stay as they are; differences between runs of which one has a seed are left out. `n` is null
    where it changes from seed to seed.
    """
    found: list[Record] = []
    seeds: dict[bytes, tuple[Record, list[Record]]] = {}
    for record in records:
        name, seed, _ = str(record.get("run", "")).partition("@")
        if "against" in record and (seed or "@" in record["against"]):
            continue
        if not seed:
            found.append(record)
            continue
        named = {field: value for field, value in {**record, "run": name}.items() if field not in OWN}
        key = encode(named)
        if key not in seeds:
            seeds[key] = named, []
            found.append(named)
        seeds[key][1].append(record)
    for named, some in seeds.values():
        named.update(_together(some))
    return found


def _together(some: list[Record]) -> Record:
    values = [record["value"] for record in some if record["value"] is not None]
    counts = {record.get("n") for record in some}
    return {
        "value": statistics.fmean(values) if values else None,
        "low": None,
        "high": None,
        "n": counts.pop() if len(counts) == 1 else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": len(values),
    }
