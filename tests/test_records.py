"""fgvr.records: what a stage asks of a record, and in which words; fgvr.rng: draws that belong to a record."""

from __future__ import annotations

import pytest

from fgvr import records, rng
from fgvr.cli.group import COMMANDS
from fgvr.errors import RecordError


def fault(record: dict, *required: str, stage: str = "") -> str:
    with pytest.raises(RecordError) as error:
        records.check(record, required, stage)
    return str(error.value)


def test_missing_field_names_its_maker() -> None:
    assert fault({}, "description") == "record has no 'description'; run `fgvr summarise` first"
    assert fault({"negatives": None}, "negatives") == "record has no 'negatives'; run `fgvr mine-negatives` first"
    assert fault({}, "attributes", stage="annotate") == "record has no 'attributes'; run `fgvr annotate` first"
    assert fault({}, "weight") == "record has no 'weight'; add it"


@pytest.mark.parametrize(("record", "words"), [
    ({"description": " ", "category": "Kite"}, "record has no text in 'description'; run `fgvr summarise` again"),
    ({"description": "red", "category": ""}, "record has no text in 'category'"),
    ({"negatives": [{"category": "Owl", "description": "grey"}, 3]}, "negative 2 has no text in 'description'"),
    ({"negatives": [{"category": None, "description": "x"}]}, "negative 1 has no text in 'category'; run `fgvr mine-"),
    ({"negatives": [{"category": "Owl"}]}, "negative 1 has no text in 'description'"),
])  # fmt: skip
def test_a_triple_without_text(record: dict, words: str) -> None:
    with pytest.raises(RecordError) as error:
        records.check_triple({"description": "red", "category": "Kite", **record}, ("description", "category"))
    assert str(error.value).startswith(words)
    records.check_triple({"category": "Kite", "negatives": None}, ("category",))


def test_wrong_type_is_named() -> None:
    assert fault({"image": 5}, "image") == "'image' must be text, got 5; correct the record"
    assert fault({"attributes": []}, "attributes") == "'attributes' must be an object, got []; correct the record"
    assert fault({"answer_index": True}, "answer_index").startswith("'answer_index' must be a whole number, got True")
    assert fault({"image": ""}, "image") == "'image' is empty; correct the record"
    assert len(fault({"options": "x" * 10_000}, "options")) < 120


def test_only_what_is_asked_for_is_checked() -> None:
    records.check({"image": 5, "description": "red"}, ("description",))
    records.check({"weight": 5}, ("weight",))
    records.check({"prediction": None}, ("prediction",))
    assert "run `fgvr eval` first" in fault({}, "prediction")


def test_every_maker_is_a_command() -> None:
    assert {field.made_by.partition(" --")[0] for field in records.FIELDS.values()} <= set(COMMANDS)


def test_draws_belong_to_seed_record_and_purpose() -> None:
    def draw(*key: object) -> float:
        return rng.for_record(*key).random()  # type: ignore[arg-type]

    assert draw(0, "train/a", "options") == draw(0, "train/a", "options")
    keys = [(0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y"), (0, "x", "a"), (10, "a", "x"), (1, "0a", "x")]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert rng.for_record(0, "train/a", "options").randrange(10**6) == 831197  # on every machine and Python


def test_draws_are_even() -> None:
    draws = [rng.for_record(0, f"id{n}", "options").randrange(4) for n in range(4000)]
    assert all(880 < draws.count(k) < 1120 for k in range(4))
