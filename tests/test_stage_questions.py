"""questions: what is built, what decides it, what is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from fgvr.settings import Questions
from fgvr.stages.questions import questions
from fgvr.stream import Bad

NAMES = ["Red Kite", "Black Kite", "Barn Owl", "Tawny Owl", "Little Owl", "Merlin"]


def record(n: int, category: str, negatives: list[str] | None = None, **more: object) -> dict:
    made = {"id": f"r{n}", "image": f"{n}.png", "category": category, "superclass": "bird", "split": "test", **more}
    if negatives is not None:
        made["negatives"] = [{"category": name, "similarity": 0.5} for name in negatives]
    return made


def plain() -> list[dict]:
    return [record(n, NAMES[n % 6], description="d", attributes={"a": "b"}, note=7) for n in range(60)]


def test_both_kinds_of_each_record() -> None:
    built = list(questions(plain(), ["open", "mcq"], distractors="random"))
    assert [q["id"] for q in built[:3]] == ["r0/open", "r0/mcq", "r1/open"]
    open_, mcq = built[:2]
    assert open_ == {
        "id": "r0/open",
        "image": "0.png",
        "kind": "open",
        "question": "What is the name of the bird in this image?",
        "options": None,
        "answer": "Red Kite",
        "answer_index": None,
        "category": "Red Kite",
        "superclass": "bird",
        "split": "test",
        "note": 7,
    }
    assert list(mcq) == list(open_)
    for question in built[1::2]:
        assert len(set(question["options"])) == 4
        assert question["options"][question["answer_index"]] == question["answer"] == question["category"]


def test_kinds_and_text() -> None:
    (only,) = questions(plain()[:1], ["open"], "Which one?")
    assert only["question"] == "Which one?"
    bare = {"id": "a", "image": "a.png", "category": "x"}
    assert next(questions([bare], ["open"], "Which one?"))["answer"] == "x"  # type: ignore[index]
    (bad,) = questions([bare], ["open"], "What {superclass} is this?")
    assert isinstance(bad, Bad) and "no 'superclass'" in bad.error


def test_negatives_hardest_first_then_others() -> None:
    rows = [record(0, "Red Kite", ["Black Kite", "Red_kite", "Barn Owl"]), *plain()[1:6]]
    built = next(iter(questions(rows, ["mcq"], options=3)))
    assert set(built["options"]) == {"Red Kite", "Black Kite", "Barn Owl"}, "another spelling is no option"
    built = next(iter(questions(rows, ["mcq"], options=5)))
    assert {"Red Kite", "Black Kite", "Barn Owl"} < set(built["options"])
    assert len(set(built["options"])) == 5


def test_a_draw_belongs_to_its_record() -> None:
    """Order, and other records of the same categories, change no question; the seed does."""
    built = {q["id"]: q for q in questions(plain(), ["mcq"], distractors="random")}
    again = {q["id"]: q for q in questions(plain()[::-1], ["mcq"], distractors="random")}
    assert built == again
    assert built["r0/mcq"]["options"] == ["Red Kite", "Tawny Owl", "Barn Owl", "Merlin"], "on every machine"
    half = {q["id"]: q for q in questions(plain()[:30], ["mcq"], distractors="random")}
    assert all(built[key] == half[key] for key in half)
    other = {q["id"]: q for q in questions(plain(), ["mcq"], distractors="random", seed=1)}
    assert other != built


def test_the_right_option_may_stand_anywhere() -> None:
    rows = [record(n, NAMES[n % 6]) for n in range(600)]
    places = Counter(q["answer_index"] for q in questions(rows, ["mcq"], distractors="random"))
    assert all(100 < places[place] < 200 for place in range(4)), places
    others = Counter(o for q in questions(rows, ["mcq"], distractors="random") for o in q["options"])
    assert all(300 < count < 500 for count in others.values()), others


def test_what_is_refused() -> None:
    earlier = Bad("in:1", "torn")
    built = list(questions([earlier, *plain()[:2]], ["mcq"], distractors="random"))
    assert built[0] is earlier
    assert [b.error for b in built[1:]] == ["1 wrong categories for 3 wrong options; lower --options"] * 2
    (bad,) = questions([record(0, "x", []) | {"negatives": [{"id": "y"}]}], ["mcq"])
    assert isinstance(bad, Bad) and "mine-negatives" in bad.error
    (bad,) = questions([record(0, "x")], ["mcq"])
    assert isinstance(bad, Bad) and "no 'negatives'" in bad.error


@pytest.mark.parametrize("kinds", ["", "yesno", "open,open", "mcq;open"])
def test_unknown_kinds(kinds: str) -> None:
    with pytest.raises(ValueError, match="--kinds"):
        Questions(kinds=kinds)
    assert Questions(kinds="mcq, open").chosen == ("mcq", "open")
