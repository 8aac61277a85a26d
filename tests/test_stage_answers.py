"""The stages that ask a model: discover-attrs, extract-attrs, summarise, eval; the model says what it is told to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from fgvr import prompts
from fgvr.errors import FgvrError, RecordError
from fgvr.models.base import Ask
from fgvr.records import Record
from fgvr.stages.discover import discover
from fgvr.stages.evaluate import evaluate, judge
from fgvr.stages.extract import by_superclass, extract
from fgvr.stages.questions import final_prompt
from fgvr.stages.summarise import summarise
from fgvr.stream import Bad


class Parrot:
    """Replies with a function of each ask, and keeps the calls."""

    def __init__(self, say: Callable[[Ask], str]) -> None:
        self.about = {"name": "parrot"}
        self.say = say
        self.calls: list[list[Ask]] = []

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        self.calls.append(list(asks))
        return [self.say(ask) for ask in asks]


def width(ask: Ask) -> int:
    assert ask.image is not None
    return ask.image.size[0]


@pytest.fixture
def images(tmp_path: Path) -> list[Record]:
    """Six image records; the n-th image is n + 1 pixels wide."""
    records = []
    for n in range(6):
        Image.new("RGB", (n + 1, 3)).save(tmp_path / f"{n}.png")
        records.append({"id": f"r{n}", "image": f"{n}.png", "superclass": "bird", "category": f"Kite {n}", "note": n})
    return records


# -- discover-attrs --------------------------------------------------------------------------------------------------


def test_discover() -> None:
    model = Parrot(lambda ask: "Sure: ['bill shape', 'leg colour', 'Bill shape']")
    found = list(discover(model, "bird", "species", 100))
    assert [(r["id"], r["attribute"]) for r in found] == [
        (f"bird/{name}", name) for name in (prompts.GENERAL, "bill shape", "leg colour")
    ]
    assert all(list(r) == ["id", "superclass", "attribute", "question", "type"] for r in found)
    assert all(r["superclass"] == "bird" for r in found)
    assert found[1]["question"] == "Describe the bill shape of the bird in this image."
    ((ask,),) = model.calls
    assert ask.image is None and "distinguishing bird species in a photo of a bird" in ask.prompt


def test_discover_nothing() -> None:
    with pytest.raises(FgvrError, match=r"^the reply lists no attributes: '!!! .*…'; name another --model$") as caught:
        list(discover(Parrot(lambda ask: "!!!\n" * 500), "bird", "species", 100))
    assert len(str(caught.value)) < 300


# -- extract-attrs ---------------------------------------------------------------------------------------------------

ATTRS = [
    {"superclass": "bird", "attribute": "bill", "question": "Bill?"},
    {"superclass": "bird", "attribute": "leg", "question": "Leg?"},
    {"superclass": "bird", "attribute": "age", "question": "Age?"},
    {"superclass": "car", "attribute": "doors", "question": "Doors?"},
]


def echo(ask: Ask) -> str:
    return f"Answer: {ask.prompt[:-1].lower()}\n of {width(ask)} Question: more?"


def test_extract(images: list[Record], tmp_path: Path) -> None:
    images[2]["superclass"] = "car"
    found = list(extract(images, Parrot(echo), by_superclass(ATTRS), tmp_path, 64, 100))
    assert [{k: v for k, v in r.items() if k != "attributes"} for r in found] == images
    assert found[1]["attributes"] == {"bill": "bill of 2", "leg": "leg of 2", "age": "age of 2"}
    assert list(found[1]["attributes"]) == ["bill", "leg", "age"]
    assert found[2]["attributes"] == {"doors": "doors of 3"}


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 18), (2, [2, 1] * 6), (3, [3] * 6), (7, [6] * 3), (99, [18])])
def test_an_image_s_questions_stay_in_one_call(
    images: list[Record], tmp_path: Path, batch: int, sizes: list[int]
) -> None:
    model = Parrot(echo)
    found = list(extract(images, model, by_superclass(ATTRS), tmp_path, batch, 100))
    assert [len(call) for call in model.calls] == sizes
    assert found == list(extract(images, Parrot(echo), by_superclass(ATTRS), tmp_path, 64, 100))
    for call in model.calls:
        assert len({id(ask.image) for ask in call}) == len({width(ask) for ask in call}), "one object an image"


def test_extract_sets_bad_records_aside(images: list[Record], tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"no image")
    images[3]["superclass"] = "plant"
    earlier = Bad("in:1", "torn")
    found = list(extract([earlier, *images], Parrot(echo), by_superclass(ATTRS), tmp_path, 64, 100))
    assert found[0] is earlier
    assert [item.where for item in found if isinstance(item, Bad)] == ["in:1", "r1", "r3"]
    assert isinstance(found[2], Bad) and "not an image" in found[2].error
    assert isinstance(found[4], Bad) and "fgvr discover-attrs --superclass plant" in found[4].error
    assert found[4].record == images[3]
    good = [item for item in found if not isinstance(item, Bad)]
    assert [r["attributes"]["bill"] for r in good] == [f"bill of {n}" for n in (1, 3, 5, 6)]


def test_attribute_records() -> None:
    assert by_superclass(ATTRS)["car"] == {"doors": "Doors?"}
    with pytest.raises(FgvrError, match="'bill' of 'bird' comes twice"):
        by_superclass([*ATTRS, ATTRS[0]])
    with pytest.raises(FgvrError, match="run `fgvr discover-attrs` first"):
        by_superclass([])


# -- summarise -------------------------------------------------------------------------------------------------------


def test_summarise() -> None:
    rows = [{"id": str(n), "superclass": "bird", "attributes": {"bill": f"hooked {n}"}, "note": n} for n in range(5)]
    model = Parrot(lambda ask: "Summary: A bird with a " + ask.prompt.rpartition("bill: ")[2] + " bill.")
    found = list(summarise(rows, model, 2, 100))
    assert found == [{**row, "description": f"A bird with a hooked {n} bill."} for n, row in enumerate(rows)]
    assert [len(call) for call in model.calls] == [2, 2, 1]
    assert all(ask.image is None for call in model.calls for ask in call)


def test_summarise_hides_the_category() -> None:
    rows = [
        {"id": "1", "superclass": "bird", "attributes": {}, "category": "Red_Kite"},
        {"id": "2", "superclass": "bird", "attributes": {}, "category": "Barn Owl"},
        {"id": "3", "superclass": "bird", "attributes": {}},
    ]
    notes: Counter[str] = Counter()
    found = list(summarise(rows, Parrot(lambda ask: "The red kite has a hooked bill."), 8, 100, notes))
    texts = [r["description"] for r in found if isinstance(r, dict)]
    assert texts == ["This bird has a hooked bill.", *["The red kite has a hooked bill."] * 2]
    assert notes["leaks"] == 1


def test_a_reply_without_a_description_is_bad() -> None:
    rows = [{"id": str(n), "superclass": "bird", "attributes": {"bill": str(n)}} for n in range(3)]
    found = list(summarise(rows, Parrot(lambda ask: "" if "bill: 1" in ask.prompt else "A bird."), 8, 100))
    assert [isinstance(item, Bad) for item in found] == [False, True, False]
    assert "holds no description: ''" in str(found[1])


# -- eval ------------------------------------------------------------------------------------------------------------

OPTIONS = ["Red Kite", "Black Kite", "Barn Owl"]


def mcq(**more: object) -> Record:
    return {"id": "q", "kind": "mcq", "question": "Which?", "options": OPTIONS, "answer": "Black Kite", **more}


@pytest.mark.parametrize(
    ("raw", "prediction", "correct"),
    [("B", "Black Kite", True), ("(A) yes", "Red Kite", False), ("black kite", "Black Kite", True), ("", None, False)],
)
def test_judge_multiple_choice(raw: str, prediction: str | None, correct: bool) -> None:
    assert judge(mcq(note=1), raw) == mcq(note=1, raw=raw, prediction=prediction, correct=correct)


def test_judge_by_another_parser() -> None:
    assert judge(mcq(), "Because", "foci-prefix")["correct"] is True
    assert judge(mcq(), "Because", "strict")["prediction"] is None


@pytest.mark.parametrize(
    ("raw", "prediction", "correct"),
    [
        ("Black kite", "Black kite", True),
        ("Answer: the black-kite.", "the black-kite.", True),
        ("Milvus migrans", "Milvus migrans", True),
        ("Kite", "Kite", False),
        ("  \n", None, False),
    ],
)
def test_judge_open(raw: str, prediction: str | None, correct: bool) -> None:
    asked = {"kind": "open", "question": "Which?", "answer": "Black Kite", "aliases": ["milvus_migrans", "black kite"]}
    assert judge(asked, raw) == {**asked, "raw": raw, "prediction": prediction, "correct": correct}


def test_judge_yes_or_no_and_captions() -> None:
    asked = {"kind": "yesno", "question": "Is it a kite?", "options": ["yes", "no"], "answer": "no"}
    assert [judge(asked, raw)["correct"] for raw in ("No, it is not.", "Yes.", "Perhaps")] == [True, False, False]
    assert judge({"kind": "caption", "question": "Tell.", "answer": "A kite."}, "A kite.")["correct"] is None


def test_judge_without_an_answer() -> None:
    assert judge(mcq(answer=None), "B")["correct"] is None
    assert judge({"kind": "open", "question": "Which?"}, "Kite")["correct"] is None


def test_final_prompt() -> None:
    assert final_prompt({"kind": "open", "question": "Which?"}) == "Which?"
    assert final_prompt(mcq()) == prompts.multiple_choice("Which?", OPTIONS)
    with pytest.raises(RecordError, match="unknown kind 'song'; there are open, mcq"):
        final_prompt(mcq(kind="song"))
    for options in (None, [], ["a"], ["a", 1], ["a", "b\n"]):
        with pytest.raises(RecordError):
            final_prompt(mcq(options=options))


def test_evaluate(images: list[Record], tmp_path: Path) -> None:
    """In order at any batch size; questions on one image share the image object; faulty questions keep their place."""
    asked: list[Record] = []
    for n, record in enumerate(images):
        asked.append({**record, "id": f"{n}/open", "kind": "open", "question": "Name?", "answer": f"of {n + 1}"})
        asked.append({**record, **mcq(id=f"{n}/mcq", answer=OPTIONS[n % 3])})
    asked[4]["image"] = "gone.png"
    asked[7]["options"] = ["one"]
    asked[8]["aliases"] = "x"
    asked[9]["answer"] = "Tawny Owl"
    model = Parrot(lambda ask: "ABC"[(width(ask) - 1) % 3] if "Choices" in ask.prompt else f"of {width(ask)}")
    found = list(evaluate(asked, model, tmp_path, "strict", 4, 10))
    assert [i for i, item in enumerate(found) if isinstance(item, Bad)] == [4, 7, 8, 9]
    assert all(item["correct"] for item in found if not isinstance(item, Bad))
    assert [len(call) for call in model.calls] == [4, 2, 2], "a batch is of records; the faulty ones are not asked"
    assert model.calls[0][0].image is model.calls[0][1].image
    again = list(evaluate(asked, Parrot(model.say), tmp_path, "strict", 1, 10, workers=5))
    assert [item for item in again if isinstance(item, dict)] == [item for item in found if isinstance(item, dict)]


# -- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a command says to people."""
    from fgvr.cli import boundary

    lines: list[str] = []
    monkeypatch.setattr(boundary, "say", lines.append)
    return lines


def test_commands(images: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    """From images to predictions with a parrot for a model; each command's output is the next one's input."""
    from fgvr.cli import discover_attrs, eval, extract_attrs, questions, summarise

    def say(ask: Ask) -> str:
        if ask.image is not None:
            return "Kite 2" if "name" in ask.prompt else "hooked"
        return "['bill']" if "Python list" in ask.prompt else "The Kite 1 has a hooked bill."

    opened: list[dict] = []

    def open_answerer(spec: str, **options: object) -> Parrot:
        opened.append(options)
        return Parrot(say)

    monkeypatch.setattr("fgvr.models.open_answerer", open_answerer)
    monkeypatch.chdir(tmp_path)
    Path("images.jsonl").write_text("".join(json.dumps(record) + "\n" for record in images))

    def run(module: object, *words: str) -> None:
        CliRunner().invoke(module.command, words, catch_exceptions=False)  # type: ignore[attr-defined]

    run(discover_attrs, "--model", "none", "--superclass", "bird", "-o", "attrs.jsonl")
    root = ["--image-root", "."]
    run(extract_attrs, "--model", "none", "--attrs", "attrs.jsonl", *root, "images.jsonl", "-o", "extracted.jsonl")
    run(summarise, "--model", "none", "extracted.jsonl", "-o", "triples.jsonl")
    assert said == ["1 descriptions named their category; the name was replaced"]
    run(questions, "--distractors", "random", "triples.jsonl", "-o", "questions.jsonl")
    run(eval, "--model", "none", *root, "questions.jsonl", "-o", "predictions.jsonl")
    assert opened[-1] == {"device": "auto", "adapter": None}
    assert said[1:] == []
    found = [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]
    assert [record["id"] for record in found] == [f"r{n}/{kind}" for n in range(6) for kind in ("open", "mcq")]
    right = [record["id"] for record in found if record["correct"]]
    assert "r2/open" in right and not {"r1/open", "r3/open"} & set(right)
    run_record = json.loads(Path("predictions.jsonl.run.json").read_text())
    assert run_record["settings"]["parser"] == "strict" and len(run_record["prompt_sha256"]) == 64
