"""questions: what is built, what decides it, what is refused."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from fgvr.errors import FgvrError, RecordError
from fgvr.settings import Questions
from fgvr.stages.options import Listed, wrong_options
from fgvr.stages.questions import final_prompt, questions, read_reply
from fgvr.stream import Bad
from tests.procs import FRESH, read_jsonl, run, write_jsonl

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
    built = next(iter(questions(rows, ["mcq"], choices=3)))
    assert set(built["options"]) == {"Red Kite", "Black Kite", "Barn Owl"}, "another spelling is no option"
    built = next(iter(questions(rows, ["mcq"], choices=5)))
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
    assert [b.error for b in built[1:]] == ["1 wrong categories for 3 wrong options; lower --choices"] * 2
    (bad,) = questions([record(0, "x", []) | {"negatives": [{"id": "y"}]}], ["mcq"])
    assert isinstance(bad, Bad) and "mine-negatives" in bad.error
    (bad,) = questions([record(0, "x")], ["mcq"])
    assert isinstance(bad, Bad) and "no 'negatives'" in bad.error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(({"kinds": kinds}, "--kinds must name") for kinds in ("", "yes", "open,open", "mcq;open")),
        ({"kinds": "yesno", "question": "Is it?"}, "must hold {option}"),
        ({"distractors": "foci4", "choices": 5}, "use topwrong"),
        ({"level": "fine"}, "add --kinds open"),
        ({"choices": 27}, "--choices must be from 2 to 26"),
    ],
)
def test_settings_that_make_no_sense(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Questions(**given)
    assert Questions(kinds="mcq, open").chosen() == ("mcq", "open") and Questions().chosen("mcq") == ("mcq",)


# --- policies ---------------------------------------------------------------------------------------------------------


def by_text(n: int, category: str, similarities: dict[str, float]) -> dict:
    """What mine-negatives --of names --per-anchor 5 writes."""
    wrong = sorted((name for name in similarities if name != category), key=lambda name: -similarities[name])[:5]
    return record(n, category) | {
        "category_similarity": similarities[category],
        "category_rank": 1 + sum(value > similarities[category] for value in similarities.values()),
        "negatives": [{"category": name, "similarity": similarities[name]} for name in wrong],
    }


def foci(similarities: dict[str, float], gold: str) -> list[str]:
    """FOCI's rule as its authors state it: the four best, ascending; the gold to the front, or for the weakest."""
    best = sorted(similarities, key=similarities.__getitem__)[-4:]
    return [gold, *([name for name in best if name != gold] if gold in best else best[1:])]


@pytest.mark.parametrize("seed", range(20))
def test_foci4_is_focis_rule(seed: int) -> None:
    draw = random.Random(seed)
    similarities = {name: draw.random() for name in NAMES}
    want = foci(similarities, "Merlin")
    row = by_text(seed, "Merlin", similarities)
    assert [name for name, _ in wrong_options(row, [], 3, "foci4", 0)] == want[1:]
    (built,) = questions([row], ["mcq"], distractors="foci4")
    assert sorted(built["options"]) == sorted(want)
    assert built["similarities"] == [similarities[name] for name in built["options"]]
    assert built["gold_in_top"] == ("Merlin" in sorted(similarities, key=similarities.__getitem__)[-4:])


def test_topwrong_takes_the_best_wrong_ones() -> None:
    similarities = {name: 1 / (n + 2) for n, name in enumerate(NAMES)}
    row = by_text(0, "Merlin", similarities)
    (built,) = questions([row], ["mcq"], choices=5, distractors="topwrong")
    assert set(built["options"]) == {"Merlin", *NAMES[:4]} and built["gold_in_top"] is False
    tied = record(0, "x") | {"negatives": [{"category": c, "similarity": 0.5} for c in "edcba"]}
    assert wrong_options(tied, [], 3, "topwrong", 0) == [("e", 0.5), ("d", 0.5), ("c", 0.5)], "stable"
    (built,) = questions([tied], ["mcq"], distractors="topwrong")
    assert built["gold_in_top"] is None and sorted(map(str, built["similarities"])) == ["0.5"] * 3 + ["None"]


def test_same_coarse_stays_in_the_family_while_it_can() -> None:
    family = {"Red Kite": "hawk", "Black Kite": "hawk"}
    rows = [record(n, name, labels={"coarse": [family.get(name, "owl")]}) for n, name in enumerate(NAMES)]
    built = list(questions(rows, ["mcq"], choices=3, distractors="same-coarse"))
    assert set(built[0]["options"]) > set(family) and len(set(built[0]["options"])) == 3
    for question in built[2:]:
        assert not set(question["options"]) & set(family)


@pytest.mark.parametrize(
    ("row", "policy", "message"),
    [
        (record(0, "x", ["a", "b", "c"]), "foci4", "no 'category_rank'; run `fgvr mine-negatives --of names` first"),
        (record(0, "x", ["a", "b"]), "topwrong", "2 negatives for 3 wrong options; mine with --per-anchor 3"),
        (record(0, "x"), "topwrong", "no 'negatives'; run `fgvr mine-negatives` first"),
        (record(0, "x") | {"negatives": [{"category": "y"}] * 3}, "topwrong", "no 'similarity'"),
        (record(0, "x"), "same-coarse", "no 'labels'; `fgvr dataset --labels FILE` adds them"),
    ],
)
def test_what_a_policy_needs(row: dict, policy: str, message: str) -> None:
    (bad,) = questions([row], ["mcq"], distractors=policy)
    assert isinstance(bad, Bad) and message in bad.error


# --- other kinds ------------------------------------------------------------------------------------------------------


def test_yesno_asks_about_the_right_or_the_hardest_name() -> None:
    rows = [record(n, "Red Kite", ["Osprey", "Merlin", "Barn Owl"]) for n in range(200)]
    built = list(questions(rows, ["yesno"]))
    asked = Counter((q["question"], q["answer"], q["answer_index"]) for q in built)
    yes, no = ("Does the image show a Red Kite?", "yes", 0), ("Does the image show an Osprey?", "no", 1)
    assert set(asked) == {yes, no} and 70 < asked[yes] < 130
    assert final_prompt(built[0]).endswith("?\nAnswer with yes or no.") and built[0]["options"] == ["yes", "no"]
    assert read_reply(built[0], "No, it is a Red Kite") == "no" and read_reply(built[0], "Osprey") is None
    (own,) = questions(rows[:1], ["yesno"], "Is the {superclass} a/an {option}?")
    assert own["question"].startswith("Is the bird a") and "{" not in own["question"]


def test_captions_have_their_description_as_answer() -> None:
    (built,) = questions([record(0, "Red Kite", description="A red bird.")], ["caption"])
    assert (built["answer"], built["id"], built["category"]) == ("A red bird.", "r0/caption", "Red Kite")
    assert final_prompt(built) == "Describe the bird in this image in detail." and "description" not in built
    (bad,) = questions([record(0, "Red Kite")], ["caption"])
    assert isinstance(bad, Bad) and "run `fgvr summarise` first" in bad.error


def test_open_questions_at_a_level() -> None:
    labels = {"superordinate": "Bird", "coarse": ["Kite", "Raptor"], "fine": ["Red Kite", "Milvus milvus"]}
    row = record(0, "Red Kite", labels=labels, aliases=["Milan royal"])
    answers = {"superordinate": ("Bird", []), "coarse": ("Kite", ["Raptor"]),
               "fine": ("Red Kite", ["Milvus milvus", "Milan royal"])}  # fmt: skip
    for level, want in answers.items():
        (built,) = questions([row], ["open"], "Name the {superclass}", level=level)
        assert (built["answer"], built["aliases"], built["level"]) == (*want, level)
    for row in (record(0, "Red Kite", labels={}), record(0, "Red Kite")):  # folders have no labels
        (bad,) = questions([row], ["open"], level="coarse")
        assert isinstance(bad, Bad) and "no 'coarse' label in 'labels'; `fgvr dataset --labels FILE` adds" in bad.error


def test_options_carry_the_aliases_of_their_categories() -> None:
    rows = [record(0, "Red Kite", ["Barn Owl"], aliases=["Milan"]), record(1, "Barn Owl", ["Red Kite"])]
    for built in questions(rows, ["mcq"], choices=2):
        assert dict(zip(built["options"], built["option_aliases"], strict=True)) == {
            "Red Kite": ["Milan"],
            "Barn Owl": [],
        }
        assert read_reply(built, "a milan") == "Red Kite"


def test_a_record_at_fault_keeps_its_place() -> None:
    """Its aliases are read with those of all others, its rank beside the options: neither may stop the stream."""
    faulty = [record(1, "Kiwi", aliases="Apteryx"), record(2, "Emu", aliases=5), record(3, "Rhea", aliases=[None])]
    made = list(questions([record(0, "Ostrich"), *faulty], ["mcq"], choices=4, distractors="random"))
    assert [item["id"] for item in made if not isinstance(item, Bad)] == ["r0/mcq"]
    assert {str(item).partition(": ")[2] for item in made[1:]} == {
        "'aliases' must be a list of texts; correct the record"
    }
    mined = by_text(0, "Kiwi", {"Kiwi": 0.6, "Emu": 0.5, "Rhea": 0.4}) | {"category_rank": "1"}
    (made,) = questions([mined], ["mcq"], choices=3, distractors="topwrong")
    assert "'category_rank' must be a whole number" in str(made)


def test_options_that_read_alike_are_not_shown() -> None:
    with pytest.raises(RecordError, match="'Blue Jay' and 'blue_jay' read alike"):
        final_prompt({"kind": "mcq", "question": "?", "options": ["x", "Blue Jay", "blue_jay"]})


# --- option files -----------------------------------------------------------------------------------------------------


def entry(image: str, gold: str, *others: str) -> dict:
    return {"image": image, "options": [gold, *others], "groundtruth": gold}


def parsed(content: object) -> Listed:
    return Listed.parse("o.json", json.dumps(content).encode())


def test_an_options_file_alone() -> None:
    listed = parsed(
        {"a": [entry("i/1.jpg", "a", "b", "c"), entry("i/1.jpg", "a", "d", "e")], "b": [entry("2", "b", "a")]}
    )
    built = list(questions(listed.items, ["mcq"], listed=listed))
    assert [q["id"] for q in built] == ["i/1.jpg/mcq", "i/1.jpg#2/mcq", "2/mcq"]
    assert [set(q["options"]) for q in built] == [{"a", "b", "c"}, {"a", "d", "e"}, {"a", "b"}]
    assert all(q["options"][q["answer_index"]] == q["answer"] == q["category"] for q in built)
    assert built[0]["question"] == "Which of these choices is shown in the image?"
    assert listed.repeated == {"i/1.jpg": 2}


def test_records_find_their_entry() -> None:
    owls = [entry("a/2.jpg", "Owl", "Red_Kite"), entry("b/2.jpg", "Owl", "Merlin")]
    listed = parsed({"Red_Kite": [entry("images/x/1.jpg", "Red_Kite", "Owl")], "Owl": owls})
    images = ["CUB/x/1.jpg", "b/2.jpg", "c/2.jpg", "9.jpg", "a/2.jpg"]
    asked = zip(["Red Kite", "Owl", "Owl", "Owl", "Merlin"], images, strict=True)
    rows = [record(n, category, image=image) for n, (category, image) in enumerate(asked)]
    first, second, *rest = questions(rows, ["mcq"], listed=listed)
    assert first["answer"] == "Red_Kite" and first["category"] == "Red Kite"
    assert set(second["options"]) == {"Owl", "Merlin"}
    for item, error in zip(
        rest, ("has 2 entries for", "has no entry for", "says 'Owl', the record 'Merlin'"), strict=True
    ):
        assert isinstance(item, Bad) and error in item.error


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (entry("i", "a", "A"), "options 'a' and 'A' read alike"),
        (entry("i", "a"), "need 2 to 26 options, got 1"),
        ({"image": "i", "options": ["b", "c"], "groundtruth": "a"}, "is none of the options"),
        (entry("i", "b", "c"), "stands under 'a'"),
        (entry("", "a", "c"), "'image' must be a path"),
        ({"image": "i", "options": [1, 2], "groundtruth": 1}, "'options' must be texts"),
        (["i"], "not an object"),
    ],
)
def test_bad_entries_keep_their_place(row: object, error: str) -> None:
    listed = parsed({"a": [entry("1", "a", "b"), row, entry("2", "a", "b")]})
    first, bad, last = questions(listed.items, ["mcq"], listed=listed)
    assert isinstance(bad, Bad) and bad.where == "o.json: entry 2 of 'a'" and error in bad.error
    assert (first["image"], last["image"]) == ("1", "2")


@pytest.mark.parametrize(
    ("text", "error"),
    [(b"", "is empty"), (b"{", "not valid JSON"), (b"[]", "not an options file"), (b'{"a": 1}', "not an options file"),
     (b"{}", "no entries")],
)  # fmt: skip
def test_what_is_no_options_file(text: bytes, error: str) -> None:
    with pytest.raises(FgvrError, match=f"o.json: .*{error}"):
        Listed.parse("o.json", text)


FOUR = {"bird-200": (5794, 200), "dog-120": (8580, 120), "flower-102": (6149, 102), "pet-37": (3669, 37)}


@pytest.mark.parametrize("name", FOUR)
def test_the_shared_option_files(shared: Path, name: str, tmp_path: Path) -> None:
    file = shared / f"reference/finedefics/options/{name}-ViT-L-14-laion2b_s32b_b82k-4.json"
    ended = run([FRESH, "questions", "--options", str(file), "-o", "q.jsonl"], tmp_path)
    assert ended.status == 0
    again = "images/n02085620-Chihuahua/n02085620_1235.jpg"
    say = f"fgvr questions: {file}: image {again!r} is listed 2 times\n"
    assert ended.err == (say if name == "dog-120" else "")
    built = read_jsonl(tmp_path / "q.jsonl")
    assert (len(built), len({q["category"] for q in built})) == FOUR[name]
    assert len({q["id"] for q in built}) == len(built)
    assert {q["kind"] for q in built} == {"mcq"} and {len(set(q["options"])) for q in built} == {4}
    places = Counter(q["answer_index"] for q in built)
    assert all(abs(places[i] / len(built) - 0.25) < 0.03 for i in range(4)), places
    names = {q["category"] for q in built}
    assert all(set(q["options"]) <= names for q in built), "no option outside the set"


def test_the_commands_ways_in(tmp_path: Path) -> None:
    """--options alone reads no stdin; with a FILE, or -, it takes that one's records."""
    (tmp_path / "o.json").write_text(json.dumps({"x": [entry("0.png", "x", "y")], "y": [entry("1.png", "y", "x")]}))
    rows = write_jsonl(tmp_path / "in.jsonl", [record(0, "x")])
    alone = run([FRESH, "questions", "--options", "o.json"], tmp_path, rows)
    assert (alone.status, alone.err, alone.out.count(b"\n")) == (0, "", 2)
    for operand in ("in.jsonl", "-"):
        joined = run([FRESH, "questions", "--options", "o.json", "--kinds", "mcq,open", operand], tmp_path, rows)
        assert (joined.status, joined.out.count(b"\n")) == (0, 2) and b'"superclass":"bird"' in joined.out
