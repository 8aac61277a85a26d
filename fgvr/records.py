"""The record kinds and their checks: which fields there are, what they hold and which stage makes them.

A stage asks for the fields that it uses and for no others; unknown fields are copied. Field names are the papers'
words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fgvr.errors import RecordError

Record = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Args:
        kind: the Python types that it may have.
        word: how a person calls such a value.
        made_by: the command that writes it; "" when only the user can.
    """

    kind: type | tuple[type, ...]
    word: str
    made_by: str = ""


TEXT, NUMBER, MAP, LIST = (str, "text"), ((int, float), "a number"), (dict, "an object"), (list, "a list")
FIELDS: dict[str, Field] = {
    "id": Field(*TEXT, "dataset"),
    "image": Field(*TEXT, "dataset"),
    "category": Field(*TEXT, "dataset"),
    "superclass": Field(*TEXT, "dataset"),
    "split": Field(*TEXT, "dataset"),
    "labels": Field(*MAP, "dataset"),
    "attributes_true": Field(*MAP, "dataset"),
    "attribute": Field(*TEXT, "discover-attrs"),
    "attributes": Field(*MAP, "extract-attrs"),
    "description": Field(*TEXT, "summarise"),
    "negatives": Field(*LIST, "mine-negatives"),
    "category_similarity": Field(*NUMBER, "mine-negatives --of names"),
    "category_rank": Field(int, "a whole number", "mine-negatives --of names"),
    "kind": Field(*TEXT, "questions"),
    "question": Field(*TEXT, "questions"),
    "options": Field(*LIST, "questions"),
    "answer": Field(*TEXT, "questions"),
    "answer_index": Field(int, "a whole number", "questions"),
    "raw": Field(*TEXT, "eval"),
    "prediction": Field(*TEXT, "eval"),
    "correct": Field(bool, "true or false", "eval"),
    "scores": Field(*LIST, "eval"),
    "metric": Field(*TEXT, "score"),
    "value": Field(*NUMBER, "score"),
}
BY_HAND = "none"  # in place of the stage that makes a field
# Fields whose null says something (docs/records.md); for any other field null is as good as missing.
NULLABLE = {"prediction", "correct", "answer_index", "options"}


def check(record: Record, required: Sequence[str], stage: str = "") -> None:
    """Refuse a record that lacks a field or has a field of the wrong type.

    Args:
        required: the fields that the stage uses.
        stage: the command that makes the missing field, where the table above would name another one; or BY_HAND.
    Raises:
        RecordError: "record has no 'description'; run `fgvr summarise` first".
    """
    for name in required:
        field = FIELDS.get(name)
        value = record.get(name)
        if value is None and not (name in record and name in NULLABLE):
            maker = stage or (field.made_by if field else "")
            advice = f"run `fgvr {maker}` first" if maker and maker != BY_HAND else "add it"
            raise RecordError(f"record has no {name!r}; {advice}")
        if value is not None and field and not _is(value, field.kind):
            raise RecordError(f"{name!r} must be {field.word}, got {_short(value)}; correct the record")
        if value == "" and name in ("id", "image"):
            raise RecordError(f"{name!r} is empty; correct the record")


def image_of(record: Record) -> str | None:
    """The image of a question; None of one without, which says so: `modality` is "text". Raises RecordError."""
    if record.get("modality") == "text":
        return None
    if record.get("image") is None:
        raise RecordError("record has no 'image'; add it, or \"modality\": \"text\" where there is none to see")
    check(record, ("image",))
    return str(record["image"])


def texts(record: Record, name: str) -> list[str]:
    """A field that may be missing and else is a list of texts, such as `aliases`. Raises RecordError."""
    found = record.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise RecordError(f"{name!r} must be a list of texts; correct the record")
    return found


def check_triple(record: Record, fields: Sequence[str]) -> None:
    """Refuse a triple, or one of its negatives, in which a field holds no text. Raises RecordError."""
    for number, one in enumerate((record, *(record.get("negatives") or ()))):
        which = f"negative {number}" if number else "record"
        for name in fields:
            text = one.get(name) if isinstance(one, dict) else None
            if not isinstance(text, str) or not text.strip():
                maker = "mine-negatives" if number else FIELDS[name].made_by
                raise RecordError(f"{which} has no text in {name!r}; run `fgvr {maker}` again, or leave it out")


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):  # bool is an int to isinstance
        return kind is bool
    return isinstance(value, kind)


def _short(value: Any, width: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"
