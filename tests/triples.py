"""Mined triples, for the tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fgvr.datasets import toy
from fgvr.datasets.settings import Toy
from fgvr.records import Record

KEYS = ("id", "category", "description")


def mined(records: Sequence[Record], most: int = 3) -> list[Record]:
    """The triples with 1 to `most` negatives each, of other categories."""
    found = []
    for number, record in enumerate(records):
        others = [r for r in records if r["category"] != record["category"]]
        chosen = dict.fromkeys((number + 4 * k) % len(others) for k in range(1 + number % most))
        found.append({**record, "negatives": [{key: others[n][key] for key in KEYS} for n in chosen]})
    return found


def drawn(root: Path) -> list[Record]:
    """18 mined triples of six species; their images lie below root/images."""
    records = list(toy.records(root / "images", "train", Toy(species=6, train=3)))
    return mined([{**record, "description": toy.caption(record["attributes_true"])} for record in records])
