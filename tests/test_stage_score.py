"""score: what is counted, compared, and shown."""

from __future__ import annotations

import pytest

from fgvr import metrics
from fgvr.analysis.table import table
from fgvr.errors import FgvrError, RecordError
from fgvr.analysis.statements import tells
from fgvr.stages.score import Scored, known, score


def taken(rows: list[dict], by: str | None = None) -> Scored:
    run = Scored(by)
    assert list(run.take(rows)) == []
    return run


def figures(by: str | None = None, /, **runs: list[dict]) -> list[dict]:
    return list(score({name: taken(rows, by) for name, rows in runs.items()}, by))


def prediction(n: int, correct: bool | None, kind: str = "mcq", prediction: str | None = "x", **more: object) -> dict:
    return {"id": f"{n}/{kind}", "kind": kind, "prediction": prediction, "correct": correct, **more}


def by_name(records: list[dict]) -> dict[str, dict]:
    def group(record: dict) -> str:
        return record.get("category", record.get("attribute", ""))

    return {f"{r.get('run', '')}|{r['kind']}|{r['metric']}|{group(r)}": r for r in records}


def test_predictions() -> None:
    rows = [prediction(n, n < 6, category="a" if n < 8 else "b") for n in range(10)]
    rows += [prediction(10, False, prediction=None, category="b"), prediction(11, None, category="c")]
    rows += [prediction(n, n == 0, "open", category="a") for n in range(4)]
    found = by_name(figures(run=rows))
    low, high = metrics.wilson(6, 11)
    right = {"kind": "mcq", "metric": "accuracy", "value": 6 / 11, "low": low, "high": high, "n": 11}
    assert found["|mcq|accuracy|"] == right
    assert found["|mcq|mean-per-class accuracy|"]["value"] == (6 / 8 + 0 / 3) / 2
    assert found["|mcq|mean-per-class accuracy|"]["n"] == 2
    assert found["|mcq|failure rate|"]["value"] == 1 / 12
    assert found["|open|exact match|"]["value"] == 0.25
    assert "|open|accuracy|" not in found
    grouped = by_name(figures("category", run=rows))
    assert grouped["|mcq|accuracy|a"]["value"] == 6 / 8 and grouped["|mcq|accuracy|b"]["n"] == 3


def test_what_is_not_known_is_not_counted() -> None:
    """Questions without an answer give a failure rate alone; predictions without a category no mean over categories."""
    assert [r["metric"] for r in figures(run=[prediction(0, None), prediction(1, None)])] == ["failure rate"]
    assert [r["metric"] for r in figures(run=[prediction(0, True)])] == ["accuracy", "failure rate"]
    assert figures(run=[]) == []


def test_extractions() -> None:
    truth = {"bill shape": "hooked", "leg colour": "dark blue"}
    said = "The bill shape of the bird is hooked and the leg colour is red."
    right = {"bill shape": "Hooked.", "leg colour": "Dark-blue", "tail": "long"}
    rows = [
        {"id": "1", "attributes": right, "attributes_true": truth, "description": said},
        {"id": "2", "attributes": {"bill shape": "flat"}, "attributes_true": truth, "description": "A bird."},
        {"id": "3", "attributes": {"bill shape": "flat"}, "attributes_true": {}},
    ]
    found = by_name(figures(run=rows))
    whole = found["|attributes|attribute accuracy|"]
    assert (whole["value"], whole["n"], whole["low"], whole["high"]) == (0.5, 2, 0.0, 1.0)
    assert found["|attributes|attribute accuracy|bill shape"]["value"] == 0.5
    assert found["|description|description accuracy|"]["value"] == 0.25
    assert not any("tail" in key for key in found)


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("The bill colour is red.", "red", True),
        ("Bill-colour: dark red", "Dark Red", True),
        ("The bill colour is reddish.", "red", False),
        ("The leg colour is red and the bill colour is blue.", "red", False),
        ("A red bill.", "red", False),
        ("The bill colour is colour.", "bill", False),
    ],
)
def test_tells(text: str, value: str, expected: bool) -> None:
    assert tells(text, "bill colour", value) is expected


def test_runs_are_compared_pair_by_pair() -> None:
    before = [prediction(n, n % 10 == 0) for n in range(100)]
    after = [prediction(n, n % 10 < 7) for n in range(90)] + [prediction(200, True)]
    found = figures(before=before, after=after)
    assert [r["run"] for r in found] == ["before"] * 2 + ["after"] * 3
    (difference,) = [r for r in found if "against" in r]
    assert difference["metric"] == "accuracy difference" and difference["against"] == "before"
    assert difference["n"] == 90, "only what both answered"
    assert difference["value"] == pytest.approx(0.6)
    assert difference["low"] < 0.6 < difference["high"]
    assert difference["p"] == metrics.mcnemar(0, 54)
    assert "run" not in figures(after=after)[0]


def test_metrics_come_through() -> None:
    ready = {"kind": "probe", "metric": "accuracy", "value": 0.5, "low": None, "high": None, "n": 3, "pool": "last"}
    assert figures(run=[{"id": "made", **ready}]) == [ready]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "nothing to score"),
        ({"attributes": {"a": "b"}}, "nothing to score"),
        ({"prediction": "x", "correct": True}, "no 'kind'"),
        ({"prediction": "x", "correct": "yes", "kind": "mcq"}, "'correct' must be true or false"),
        ({"correct": True, "kind": "mcq"}, "no 'prediction'"),
        ({"attributes_true": [], "attributes": {}}, "'attributes_true' must be an object"),
        ({"attributes_true": {}, "attributes": []}, "'attributes' must be an object"),
        ({"metric": "accuracy", "kind": "mcq"}, "no 'value'"),
    ],
)
def test_what_is_refused(record: dict, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        known({"id": "1", **record})


def test_by_needs_its_field() -> None:
    assert known(prediction(0, True, superclass="bird"), "superclass")
    with pytest.raises(RecordError, match="no 'superclass'"):
        known(prediction(0, True), "superclass")


def test_a_run_with_an_id_twice() -> None:
    with pytest.raises(FgvrError, match="run 'a': a mcq question comes twice"):
        figures(a=[prediction(0, True)] * 2)


def test_table() -> None:
    before = [prediction(n, n % 4 == 0, category="a") for n in range(100)]
    after = [prediction(n, n % 4 != 0, category="a") for n in range(100)]
    lines = table(figures("category", before=before, after=after))
    assert lines[0].split() == ["before", "after", "after", "-", "before", "n"]
    assert lines[1].split()[:8] == ["mcq", "accuracy", "0.250", "[0.175,", "0.343]", "0.750", "[0.657,", "0.825]"]
    assert "+0.500 [" in lines[1] and lines[1].split()[-1] == "100"
    assert lines[4].startswith("mcq  accuracy, a")
    assert len({len(line) for line in lines}) == 1
    single = table([{"kind": "probe", "metric": "distance", "value": 1.5, "low": None, "high": None, "n": 3}])
    assert [line.split() for line in single] == [["value", "n"], ["probe", "distance", "1.500", "3"]]
