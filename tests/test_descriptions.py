"""Quality of descriptions before training: each figure against one worked out by hand or by a slow loop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from fgvr.analysis.descriptions import distinctiveness, information, mutual_information, quality
from fgvr.analysis.table import table
from fgvr.records import Record


def value(found: Sequence[Record], metric: str, **more: str) -> Record:
    (one,) = (r for r in found if r["metric"] == metric and all(r.get(k) == v for k, v in more.items()))
    return one


ROWS = [
    {"id": "1", "category": "Kite", "description": "A red bird.", "attributes": {"bill": "Unknown", "leg": "red"}},
    {"id": "2", "category": "Kite", "description": "a red bird", "attributes": {"bill": "hooked", "leg": "red"}},
    {"id": "3", "category": "Barn Owl", "description": "The barn-owl flies.", "attributes": {"bill": "n/a"}},
    {"id": "4", "category": "Owl", "aliases": ["Strix"], "description": "A Strix here", "attributes": {}},
    {"id": "5", "category": "Crow", "description": " "},
    {"id": "6", "category": "Crow"},
]


def test_shares_and_length() -> None:
    found = list(quality(ROWS))
    assert {(r["metric"], r["value"], r["n"]) for r in found if "attribute" not in r} == {
        ("unknown", 0.4, 5), ("empty", 0.2, 5), ("duplicate", 0.4, 5), ("leaking", 0.4, 5), ("length", 12 / 5, 5)
    }  # fmt: skip
    assert all(set(r) >= {"kind", "metric", "value", "low", "high", "n"} and r["kind"] == "descriptions" for r in found)
    assert value(found, "unknown")["low"] < 0.4 < value(found, "unknown")["high"]
    assert list(quality([{"id": "1"}])) == []


def test_mutual_information_equals_the_entropies() -> None:
    first, second = list("aabbccddab"), list("xxyyxyxyzz")

    def entropy(values: Sequence[object]) -> float:
        shares = [sum(v == w for w in values) / len(values) for v in set(values)]
        return -sum(p * math.log2(p) for p in shares)

    wanted = entropy(first) + entropy(second) - entropy(list(zip(first, second, strict=True)))
    assert mutual_information(first, second) == pytest.approx(wanted) and wanted > 0.5
    assert mutual_information("abab", "xxyy") == pytest.approx(0) and mutual_information(
        "aabb", "xxyy"
    ) == pytest.approx(1)


def test_the_telling_attribute_comes_first_and_noise_tells_nothing() -> None:
    rows = [
        {
            "category": str(n % 4),
            "attributes": {"constant": "a", "unique": f"u{n}", "telling": str(n % 4), "half": str(n % 2)},
        }
        for n in range(80)
    ]
    found = {r["attribute"]: r["value"] for r in information(rows)}
    assert list(found)[:2] == ["telling", "half"]
    assert 1.8 < found["telling"] <= 2 and 0.9 < found["half"] <= 1
    assert found["unique"] == 0 == found["constant"]
    assert list(information(rows[::-1])) == list(information(rows)), "the order of the records does not matter"


class Letters:
    """Embeds a text as its counts of the letters a to z."""

    def __init__(self) -> None:
        self.about = {"name": "letters"}
        self.calls: list[int] = []

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        self.calls.append(len(texts))
        counts = torch.tensor([[text.count(chr(97 + k)) + 1e-3 for k in range(26)] for text in texts])
        return counts / counts.norm(dim=1, keepdim=True)


def triples(told: Sequence[str], each: int = 12) -> list[Record]:
    return [
        {"id": f"{n}", "category": f"c{n % len(told)}", "description": told[n % len(told)] + "xyz"[n % 3]}
        for n in range(each * len(told))
    ]


def test_distinctiveness() -> None:
    encoder = Letters()
    found = list(distinctiveness(triples(["aab", "bbc", "ccd", "dda"]), encoder))  # type: ignore[arg-type]
    assert value(found, "distinctiveness")["value"] == 1.0 and value(found, "distinctiveness")["n"] == 24
    same = list(distinctiveness(triples(["a"] * 4), encoder))  # type: ignore[arg-type]
    assert value(same, "distinctiveness")["value"] < 0.6
    assert (
        value(found, "inter-class distance", of="descriptions")["value"]
        > value(same, "inter-class distance", of="descriptions")["value"]
    )
    assert (
        value(same, "inter-class distance", of="names")["value"]
        == value(found, "inter-class distance", of="names")["value"]
    )
    assert max(encoder.calls) == 48
    whole = list(quality(triples(["aab", "bbc"]), encoder, seed=1))  # type: ignore[arg-type]
    assert value(whole, "distinctiveness")["value"] == 1.0


@pytest.mark.parametrize("rows", [triples(["a"]), triples(["a", "b"], 3)])
def test_too_few_for_a_probe(rows: list[Record]) -> None:
    """The other figures are there all the same."""
    found = list(quality(rows, Letters()))  # type: ignore[arg-type]
    assert (value(found, "distinctiveness")["value"], value(found, "distinctiveness")["n"]) == (None, 0)
    assert value(found, "length")["n"] == len(rows)
    assert any(line.split()[-3:] == ["too", "few", "0"] for line in table(found))
