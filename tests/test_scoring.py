"""eval by likelihood: what becomes of scores; orders of options; all categories; CLIP; a model that says what it is
told to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from fgvr.errors import FgvrError, UsageError
from fgvr.models.base import Ask
from fgvr.records import Record
from fgvr.stages.evaluate import evaluate, in_all_orders, judge, names_of, rotations
from fgvr.stream import Bad

OPTIONS = ["Red Kite", "Black Kite", "Owl"]
MCQ = {"id": "q", "kind": "mcq", "image": "a.png", "question": "Which?", "options": OPTIONS, "answer": "Black Kite"}


class Told:
    """Scores texts and letters by a function of the question and the text; replies by another."""

    def __init__(self, score: Callable[[Ask, str], float], reply: Callable[[Ask], str] = lambda ask: "?") -> None:
        self.about = {"name": "told"}
        self.score, self.say = score, reply
        self.calls: list[tuple[str, int]] = []

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        self.calls.append(("reply", len(asks)))
        return [self.say(ask) for ask in asks]

    def letters(self, asks: Sequence[Ask], letters: Sequence[Sequence[str]]) -> list[list[float]]:
        self.calls.append(("letters", len(asks)))
        return [[self.score(ask, one) for one in own] for ask, own in zip(asks, letters, strict=True)]

    def likelihood(self, asks: Sequence[Ask], replies: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        self.calls.append(("likelihood", len(asks)))
        return [
            [(self.score(ask, text), len(text.split()) + 1) for text in own]
            for ask, own in zip(asks, replies, strict=True)
        ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 9), (0, 200, 0)).save(tmp_path / "b.png")
    return tmp_path


def one(record: Record, model: object, root: Path, scoring: str, **options: object) -> Record:
    (found,) = evaluate([record], model, root, "strict", 4, 10, scoring, **options)  # type: ignore[arg-type]
    assert isinstance(found, dict), found
    return found


def by_letter(ask: Ask, letter: str) -> float:
    return {"A": -3.0, "B": -1.00001, "C": -2.0, "yes": -0.5, "no": -0.1}[letter]


def test_letters(root: Path) -> None:
    model = Told(by_letter)
    found = one(MCQ, model, root, "letter")
    assert found == {**MCQ, "raw": None, "prediction": "Black Kite", "correct": True, "scores": [-3, -1, -2]}
    assert model.calls == [("letters", 1)]


def test_of_equals_the_first_and_of_unknown_none(root: Path) -> None:
    level = Told(lambda ask, letter: -1.00001 if letter == "C" else -1.00002)
    assert one(MCQ, level, root, "letter")["prediction"] == OPTIONS[0]
    unseen = Told(lambda ask, letter: None)  # type: ignore[arg-type,return-value]
    found = one(MCQ, unseen, root, "letter")
    assert (found["prediction"], found["correct"], found["scores"]) == (None, False, [None] * 3)


TEXT = {"Red Kite": -3.0, "Black Kite": -2.4, "Owl": -2.0}


@pytest.mark.parametrize(
    ("normalise", "scores", "prediction"),
    [("sum", [-3, -2.4, -2], "Owl"), ("mean", [-1, -0.8, -1], "Black Kite"), ("prior", [2, 0.6, 0], "Red Kite")],
)
def test_options(root: Path, normalise: str, scores: list[float], prediction: str) -> None:
    def score(ask: Ask, text: str) -> float:
        assert ask.image is not None and ask.prompt.startswith("Which?\nChoices:\nA. Red Kite")
        if ask.image.getpixel((0, 0)) == (127, 127, 127):
            return {"Red Kite": -5.0, "Black Kite": -3.0, "Owl": -2.0}[text]
        return TEXT[text]

    found = one(MCQ, Told(score), root, "option", normalise=normalise)
    assert (found["scores"], found["prediction"], found["raw"]) == (scores, prediction, None)


def test_the_prior_of_a_question_is_asked_for_once(root: Path) -> None:
    model = Told(lambda ask, text: TEXT[text])
    asked = [{**MCQ, "id": str(n), "image": "ab"[n % 2] + ".png"} for n in range(6)]
    list(evaluate(asked, model, root, "strict", 3, 10, "option", "prior"))
    assert model.calls == [("likelihood", 3), ("likelihood", 1), ("likelihood", 3)]


def test_what_has_no_options_is_replied_to(root: Path) -> None:
    model = Told(by_letter, lambda ask: "Black kite.")
    asked = [{**MCQ, "id": str(n), "kind": ["mcq", "open"][n % 2]} for n in range(4)]
    found = list(evaluate(asked, model, root, "strict", 4, 10, "letter"))
    assert [r["prediction"] for r in found if isinstance(r, dict)] == ["Black Kite", "Black kite."] * 2
    assert sorted(model.calls) == [("letters", 2), ("reply", 2)]


def test_labels(root: Path) -> None:
    names = [f"Bird {n}" for n in range(7)]
    score = {name: -float(n) for n, name in enumerate(names)}
    model = Told(lambda ask, text: score[text] if ask.prompt == "Which?" else -99.0)
    asked = {**MCQ, "answer": "bird-3", "options": ["bird-3", "x"]}
    found = one(asked, model, root, "label", normalise="sum", categories=names)
    assert (found["prediction"], found["correct"], found["correct_top5"]) == ("Bird 0", False, True)
    assert found["top"] == [{"category": name, "score": score[name]} for name in names[:5]]
    assert "scores" not in found and found["raw"] is None
    known = {**asked, "kind": "open", "answer": "Owl", "aliases": ["bird 0"]}
    assert one(known, model, root, "label", normalise="sum", categories=names)["correct"]
    assert one({**asked, "answer": None}, model, root, "label", categories=names)["correct_top5"] is None
    asked = {**MCQ, "kind": "yesno"}
    (fault,) = evaluate([asked], model, root, "strict", 4, 10, "label", categories=names)  # type: ignore[arg-type]
    assert isinstance(fault, Bad) and "asks for no category name" in str(fault)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "Owl", "answer_index": 3}, "'answer_index' is not the place of 'answer'"),
        ({"options": ["", "Owl"], "answer": "Owl", "answer_index": 1}, "need 2 to 26 options of one line each"),
    ],
)
def test_questions_at_odds_with_themselves(change: Record, words: str, root: Path) -> None:
    (found,) = evaluate([{**MCQ, **change}], Told(lambda *_: 0.0), root, "strict", 4, 10, "generate")
    assert isinstance(found, Bad) and words in found.error


def test_names() -> None:
    records = [{"category": "Owl", "answer": "Kite"}, {"category": "Kite"}, {"x": 1}, Bad("in:1", "torn")]
    assert names_of(records) == ["Kite", "Owl"]
    with pytest.raises(FgvrError, match="1 categories to choose from; give --categories"):
        names_of(records, ("answer", "category"))
    with pytest.raises(FgvrError, match=r"'Barn Owl' and 'barn_owl' read alike"):
        names_of([*records, {"category": "barn_owl"}, {"category": "Barn Owl"}])


# --- orders of options ---


def test_rotations_carry_what_belongs_to_an_option() -> None:
    turned = rotations({**MCQ, "option_aliases": [["a"], [], ["c"]]})
    assert [view["options"] for view in turned] == [OPTIONS, [*OPTIONS[1:], OPTIONS[0]], [OPTIONS[2], *OPTIONS[:2]]]
    assert [view["option_aliases"] for view in turned][1] == [[], ["c"], ["a"]]
    assert rotations({**MCQ, "kind": "open"}) == [{**MCQ, "kind": "open"}]


def test_a_liking_for_a_letter_averages_out(root: Path) -> None:
    """A model with a strong liking for A and a weak one for the right option: one order says A, all say the option."""
    letter = {"A": 3.0, "B": 0.0, "C": 0.0}

    def score(ask: Ask, said: str) -> float:
        shown = ask.prompt.split("\n")["ABC".index(said) + 2]
        return letter[said] + (1.0 if "Black Kite" in shown else 0.0)

    model = Told(score)
    assert one(MCQ, model, root, "letter")["prediction"] == "Red Kite"
    model.calls.clear()
    found = one(MCQ, model, root, "letter", cyclic=True)
    assert model.calls == [("letters", 3)]
    assert (found["prediction"], found["correct"], found["correct_in_all"]) == ("Black Kite", True, False)
    assert found["orders"] == ["Red Kite", "Black Kite", "Owl"] and found["options"] == OPTIONS
    per_order = [[math.exp(letter["ABC"[(i - turn) % 3]] + (i == 1)) for i in range(3)] for turn in range(3)]
    mean = [sum(row[i] / sum(row) for row in per_order) / 3 for i in range(3)]
    assert found["scores"] == pytest.approx([math.log(m) for m in mean], abs=1e-4)


@pytest.mark.parametrize(
    ("replies", "prediction", "all_right"),
    [
        ("B A C", "Black Kite", True),  # the right option in each order
        ("A A A", "Red Kite", False),  # each option once: the one of the record's own order
        ("? A C", "Black Kite", False),
        ("? A B", None, False),  # level, and the own order names none
        ("? ? ?", None, False),
    ],
)
def test_replies_vote(replies: str, prediction: str | None, all_right: bool) -> None:
    found = [judge(view, raw) for view, raw in zip(rotations(MCQ), replies.split(), strict=True)]
    made = in_all_orders(MCQ, found)
    assert (made["prediction"], made["correct_in_all"]) == (prediction, all_right)
    assert made["correct"] is (prediction == "Black Kite")
    assert made["raw"] == replies[0] and made["raws"] == replies.split()
    assert sum(made["scores"]) == pytest.approx(sum(r["prediction"] is not None for r in found) / 3, abs=1e-3)


def test_batches_change_nothing(root: Path) -> None:
    """Batches count views; records that cannot be asked keep their place."""
    asked = [{**MCQ, "id": str(n), "image": "ab"[n % 2] + ".png"} for n in range(5)]
    asked[2]["image"] = "gone.png"
    score = lambda ask, letter: -len(ask.prompt) * 0.01 + "ABC".index(letter) * ask.image.size[1]  # noqa: E731
    runs = [
        list(evaluate(asked, Told(score), root, "strict", batch, 10, "letter", "mean", True))  # type: ignore[arg-type]
        for batch in (1, 2, 4, 50)
    ]
    assert [isinstance(item, Bad) for item in runs[0]] == [False, False, True, False, False]
    assert all([str(i) for i in run] == [str(i) for i in runs[0]] for run in runs)


@pytest.mark.parametrize(("scoring", "instead"), [("letter", "generate"), ("option", "generate or letter")])
def test_a_model_without_likelihoods(root: Path, scoring: str, instead: str) -> None:
    class Mute:
        def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
            raise AssertionError

    with pytest.raises(FgvrError, match=f"gives no likelihoods of .*; use --scoring {instead}$"):
        one(MCQ, Mute(), root, scoring)


# --- the command, with the embedded models ---


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    records = [{**MCQ, "id": f"{i}{kind}", "image": f"{i}.png", "kind": kind} for i in "ab" for kind in ("mcq", "open")]
    for record in records[:2]:
        record["answer"] = "Owl"
    Path("in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    Path("names.jsonl").write_text("".join(json.dumps({"category": name}) + "\n" for name in OPTIONS))
    return root


def run(*words: str) -> list[Record]:
    from fgvr.cli import eval

    io = ["--image-root", ".", "in.jsonl", "-o", "out.jsonl"]
    CliRunner().invoke(eval.command, [*io, *words], catch_exceptions=False)
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


def test_clip_over_all_categories_and_among_the_options(here: Path, toy_clip: Path) -> None:
    from fgvr.models import open_encoder

    clip = ["--model", f"clip:{toy_clip}", "--template", "{}|a {}"]
    found = run(*clip, "--scoring", "label", "--categories", "names.jsonl")
    encoder = open_encoder(str(toy_clip), device="cpu")
    texts = encoder.texts([t for name in sorted(OPTIONS) for t in (name, f"a {name}")]).view(3, 2, -1).mean(1)
    texts = texts / texts.norm(dim=1, keepdim=True)
    image = encoder.images([Image.open("a.png")])[0]
    wanted = dict(zip(sorted(OPTIONS), (encoder.model.logit_scale.exp().item() * texts @ image).tolist(), strict=True))
    top = {entry["category"]: entry["score"] for entry in found[0]["top"]}
    assert top == pytest.approx(wanted, abs=1e-3)
    assert found[0]["prediction"] == max(wanted, key=wanted.__getitem__) and len(found) == 4
    settings = json.loads(Path("out.jsonl.run.json").read_text())
    assert settings["settings"]["template"] == "{}|a {}"
    assert [Path(entry["name"]).name for entry in settings["inputs"]] == ["in.jsonl", "names.jsonl"]
    Path("in.jsonl").write_text(Path("in.jsonl").read_text().splitlines()[0] + "\n")
    (among,) = run(*clip)
    assert among["scores"] == pytest.approx([wanted[name] for name in OPTIONS], abs=1e-3), "option is CLIP's default"


def test_labels_are_the_input_s_own_answers(here: Path, toy_vlm: Path) -> None:
    found = run("--model", str(toy_vlm), "--scoring", "label")
    assert {entry["category"] for entry in found[0]["top"]} == {"Owl", "Black Kite"}
    assert all(record["correct_top5"] for record in found)


@pytest.mark.parametrize("scoring", ["letter", "option", "label"])
def test_batch_size_does_not_change_an_answer(here: Path, toy_vlm: Path, scoring: str) -> None:
    """Scores are rounded to 1e-4; floating point may move one across the border."""
    words = ["--model", str(toy_vlm), "--scoring", scoring, "--permutations", "cyclic", "--normalise", "sum"]
    alone, together = (run(*words, "--batch-size", size) for size in ("1", "7"))
    for one, other in zip(alone, together, strict=True):
        assert set(one) == set(other)
        assert pytest.approx(numbers(one), abs=1.5e-4) == numbers(other)
        assert [one[k] for k in ("id", "prediction", "correct")] == [other[k] for k in ("id", "prediction", "correct")]


def numbers(record: dict) -> list[float]:
    """The scores in it."""
    return [*record.get("scores", []), *(entry["score"] for entry in record.get("top", []))]


@pytest.mark.parametrize(
    ("words", "error", "what"),
    [
        (["--categories", "names.jsonl"], UsageError, "--categories is for --scoring label, not generate"),
        (["--template", "a photo"], UsageError, "--template must hold {}"),
        (["--timeout-s", "0"], UsageError, "--timeout-s must be positive"),
        (["--model", "openai:x", "--dtype", "float16"], UsageError, "--dtype is for models that transformers loads"),
        (["--scoring", "label", "-"], UsageError, "--scoring label needs the categories beforehand"),
    ],
)
def test_wrong_usage(here: Path, toy_vlm: Path, words: list[str], error: type[Exception], what: str) -> None:
    from fgvr.cli import eval

    source = [] if "-" in words else ["in.jsonl"]
    result = CliRunner().invoke(eval.command, ["--image-root", ".", "--model", str(toy_vlm), *words, *source])
    assert isinstance(result.exception, error) and what in str(result.exception)


def test_clip_writes_no_replies(here: Path, toy_clip: Path) -> None:
    with pytest.raises(FgvrError, match="CLIP writes no replies; use --scoring option or label"):
        run("--model", f"clip:{toy_clip}")
    with pytest.raises(UsageError, match="--adapter is for vision-language models"):
        run("--model", f"clip:{toy_clip}", "--adapter", ".")
    with pytest.raises(FgvrError, match="no likelihoods of letters"):
        run("--model", f"clip:{toy_clip}", "--scoring", "letter")
