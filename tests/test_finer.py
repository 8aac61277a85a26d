"""FINER's protocol: what is asked at each level, in one turn or two; knowledge without images; dialogues to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from fgvr import dialogue, finer
from fgvr.errors import FgvrError, RecordError
from fgvr.models.base import Ask
from fgvr.settings import Eval, Questions
from fgvr.stages.convert import to_llava, to_sharegpt, to_trl
from fgvr.stages.evaluate import evaluate
from fgvr.stages.granularity import Finer, concept_attributes
from fgvr.stages.questions import final_prompt, questions
from fgvr.stages.score import Scored, score
from fgvr.stream import Bad
from tests.procs import FRESH, read_jsonl, run, write_jsonl

AFTER = 'Provide your answer after "Answer:".'


def bird(n: int, name: str = "Red Kite", coarse: tuple[str, ...] = ("Kite",), **more: Any) -> dict[str, Any]:
    labels = {"superordinate": "bird", "coarse": list(coarse), "fine": [name, "Milvus milvus"]}
    return {"id": f"b{n}", "image": "a.png", "category": name, "superclass": "bird", "labels": labels, **more}


def built(records: list[dict], kind: str = "granularity", **how: Any) -> list[Any]:
    per_class = how.pop("per_class", None)
    return list(questions(records, [kind], finer=Finer(**how), per_class=per_class, seed=how.get("seed", 0)))


def test_three_levels_as_finer_asks() -> None:
    wide, coarse, fine = built([bird(0)])
    assert [q["id"] for q in (wide, coarse, fine)] == ["b0/superordinate", "b0/coarse", "b0/fine"]
    assert wide["question"] == (
        'What is the name of the organism that appears in this image? Provide your answer after "Answer:" from one of '
        "the following categories: ['Arachnids', 'Mammals', 'Reptiles', 'Animalia', 'Mollusks', 'Plants', "
        "'Amphibians', 'Ray-finned Fishes', 'Birds', 'Insects', 'Fungi']."
    )
    assert (wide["answer"], wide["aliases"]) == ("bird", ["Birds"])
    assert coarse["question"] == (
        "What is the name of the bird that appears in this image? For example, if it's a picture of a Owl Parrot, give "
        f"a coarse-grained label for the image 'Parrot'.\n{AFTER}"
    )
    assert (coarse["concept"], coarse["answer"], fine["concept"]) == ("bird", "Kite", "Kite")
    assert fine["question"] == (
        "What is the name of the Kite that appears in this image? For example, if it's a picture of a Owl Parrot, give "
        f"a fine-grained label for the image 'Owl Parrot'.\n{AFTER}"
    )
    assert (fine["answer"], fine["aliases"], fine["kind"], fine["level"]) == (
        "Red Kite", ["Milvus milvus"], "open", "fine"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("superclass", "level", "names", "text"),
    [
        ("aircraft", "coarse", ["Airbus", "Boeing"], "What is the manufacturer of the X that appears in this image? "
         "Provide your answer after \"Answer:\" from one of the following categories: ['Airbus', 'Boeing']."),
        ("aircraft", "fine", None, "What is the name of the airplane model made by X that appears in this image? For "
         "example, if it's a picture of a Boeing 787 Dreamliner, give a fine-grained label for the image 'Boeing 787 "
         f"Dreamliner'.\n{AFTER}"),
        ("car", "fine", None, "What is the name of the X that appears in this image? For example, if it's a picture of "
         f"a Honda Civic LX Coupe 2006, give a fine-grained label for the image 'Honda Civic LX Coupe 2006'.\n{AFTER}"),
        ("organism", "fine", None, "What is the name of the X that appears in this image? For example, if it's a "
         "picture of a bengal tiger, give a fine-grained label for the image 'Bengal Tiger' or use its binomial "
         f"nomenclature 'Panthera tigris tigris'.\n{AFTER}"),
        ("dish", "coarse", None, "What is the name of the X that appears in this image? Give a coarse-grained label "
         f"for the image.\n{AFTER}"),
        ("dish", "superordinate", None, f"What is the name of the object that appears in this image? {AFTER}"),
    ],
)  # fmt: skip
def test_wordings(superclass: str, level: str, names: list[str] | None, text: str) -> None:
    assert finer.question(level, superclass, "X", names) == text


@pytest.mark.parametrize(
    ("label", "listed"),
    [("bird", "Birds"), ("Birds", "Birds"), ("dog", "Dogs"), ("aircraft", "Airplane"), ("car", "Car"),
     ("flower", "Plants"), ("dish", "dish")],
)  # fmt: skip
def test_the_list_of_superordinate_categories_holds_the_label(label: str, listed: str) -> None:
    assert finer.spelt(label, finer.superordinates(label)) == listed


def test_from_a_list_and_free_form() -> None:
    rows = [bird(0), bird(1, "Barn Owl", ("Owl",))]
    listed = built(rows, answers="list")
    assert listed[1]["question"].endswith("from one of the following categories: ['Kite', 'Owl'].")
    assert listed[2]["question"].endswith("['Barn Owl', 'Milvus milvus', 'Red Kite'].")
    free = built(rows, answers="free")
    assert [("categories" in q["question"]) for q in free] == [False] * 6
    cars = [{**bird(n), "superclass": "car", "labels": {"coarse": [body]}} for n, body in enumerate(("SUV", "coupe"))]
    assert built(cars)[1]["question"].endswith("['SUV', 'coupe'].")


def test_a_wording_of_ones_own() -> None:
    made = built([bird(0)], question="Which {concept}?")
    assert [q["question"] for q in made] == ["Which organism?", "Which bird?", "Which Kite?"]


def test_a_wording_of_ones_own_after_the_attributes() -> None:
    made = built([bird(0)], question="Which {concept}? Choose: Kite, Owl.", level="fine")[0]
    assert final_prompt(made, "attr-seek") == "Now, tell me what kind of Kite it is. Which Kite? Choose: Kite, Owl."


def test_a_record_without_a_coarse_label() -> None:
    ours = Finer()
    rows = [bird(0, coarse=()), bird(1)]
    made = list(questions(rows, ["granularity"], finer=ours))
    assert [q["id"] for q in made][:3] == ["b0/superordinate", "b0/fine", "b1/superordinate"]  # type: ignore[index]
    assert made[1]["concept"] == "bird" and ours.notes["coarse"] == 1  # type: ignore[index]
    (bad,) = built(rows[:1], level="coarse")
    assert isinstance(bad, Bad) and "no 'coarse' label" in bad.error
    assert [q["level"] for q in built(rows[1:], level="coarse")] == ["coarse"]


def test_the_label_above_is_drawn_by_the_seed() -> None:
    rows = [bird(n, coarse=("Kite", "Raptor", "Hawk")) for n in range(40)]
    drawn = [q["concept"] for q in built(rows, level="fine")]
    assert set(drawn) == {"Kite", "Raptor", "Hawk"}
    assert [q["concept"] for q in built(rows[::-1], level="fine")][::-1] == drawn
    assert [q["concept"] for q in built(rows, level="fine", seed=1)] != drawn


# --- asked ---


class Scripted:
    """A model that replies by a rule, and keeps what it was asked."""

    about: ClassVar[dict] = {"name": "scripted"}

    def __init__(self, say: Any) -> None:
        self.say, self.asks, self.calls = say, [], 0

    def reply(self, asks: list[Ask], max_new_tokens: int) -> list[str]:
        self.asks += asks
        self.calls += 1
        return [self.say(ask) for ask in asks]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


def by_level(ask: Ask) -> str:
    if "organism" in ask.prompt:
        return "The answer is:\nAnswer: 'Birds'."
    return "Answer: Kite" if "coarse-grained" in ask.prompt else f"Red back.\nAnswer: Red Kite{len(ask.before)}"


def test_the_label_above_as_the_model_predicts_it(root: Path) -> None:
    model: Any = Scripted(by_level)
    wide, coarse, fine = evaluate(built([bird(0)], concept="predicted"), model, root, "strict", 8, 9)
    assert (wide["correct"], coarse["concept"], fine["concept"]) == (True, "Birds", "Kite")
    assert fine["question"].startswith("What is the name of the Kite that appears")
    assert [turn["reply"] for turn in fine["earlier"]] == ["The answer is:\nAnswer: 'Birds'.", "Answer: Kite"]
    assert (coarse["prediction"], coarse["correct"], fine["prediction"]) == ("Kite", True, "Red Kite0")
    assert len([ask for ask in model.asks if "organism" in ask.prompt]) == 2, "asked once for both, once for itself"
    rows = built([bird(0)], concept="predicted", level="coarse")
    silence: Any = Scripted(lambda ask: "")
    (silent,) = evaluate(rows, silence, root, "strict", 8, 9)
    assert silent["concept"] == "bird", "where nothing can be read, the superclass"
    with pytest.raises(RecordError, match="waits for a reply"):
        final_prompt(built([bird(0)], concept="predicted", level="fine")[0])


def test_attributes_first_then_the_name(root: Path) -> None:
    model: Any = Scripted(by_level)
    wide, coarse, fine = evaluate(built([bird(0)]), model, root, "strict", 8, 9, prompting="attr-seek")
    assert "earlier" not in wide, "FINER has no attribute question for the widest level"
    assert fine["earlier"][0]["question"] == (
        "What kind of external descriptive attributes do you see from the Kite in this image? Provide the set of "
        'detailed physical attributes after "Attributes:".'
    )
    second = next(ask for ask in model.asks if ask.prompt.startswith("Now, tell me what kind of Kite it is. For"))
    assert second.prompt.endswith(f"give a fine-grained label for the image 'Owl Parrot'.\n{AFTER}")
    assert second.before == ((fine["earlier"][0]["question"], fine["earlier"][0]["reply"]),)
    assert fine["prediction"] == "Red Kite1" and coarse["prediction"] == "Kite"


def test_both_ways_through_a_model_that_keeps_its_cache_and_one_that_does_not(root: Path) -> None:
    class Both(Scripted):
        def converse(self, asks: Any, openings: Any, opening_tokens: int, max_new_tokens: int) -> Any:
            assert (opening_tokens, max_new_tokens) == (77, 9)
            firsts = [self.say(Ask(opening, ask.image)) for ask, opening in zip(asks, openings, strict=True)]
            return [
                (first, self.say(Ask(ask.prompt, ask.image, before=((opening, first),))))
                for ask, opening, first in zip(asks, openings, firsts, strict=True)
            ]

    rows = [*built([bird(0)]), {"id": "m", "image": "a.png", "kind": "mcq", "question": "Which?", "options": ["a", "b"],
            "answer": "b", "superclass": "bird"}]  # fmt: skip
    say = lambda ask: "B" if "Choices" in ask.prompt else by_level(ask)  # noqa: E731
    found = [list(evaluate(rows, kind(say), root, "strict", 2, 9, prompting="attr-seek", opening_tokens=77))
             for kind in (Scripted, Both)]  # fmt: skip
    turned: Any = list(evaluate(rows[3:], Scripted(say), root, "strict", 8, 9, cyclic=True, prompting="attr-seek"))
    assert turned[0]["raws"] == ["B", "B"] and turned[0]["earlier"] == found[0][3]["earlier"]  # type: ignore[index]
    chosen: Any = found[0][3]
    assert found[0] == found[1] and chosen["correct"] and "see from the bird" in chosen["earlier"][0]["question"]


def test_thought_before_the_answer(root: Path) -> None:
    rows = [*built([bird(0)], level="fine"),
            {"id": "m", "image": "a.png", "kind": "mcq", "question": "Which?", "options": ["a", "b"], "answer": "b"},
            {"id": "y", "image": "a.png", "kind": "yesno", "question": "Is it?", "options": ["yes", "no"],
             "answer": "no"},
            {"id": "o", "image": "a.png", "kind": "open", "question": "Name?", "answer": "Red Kite"}]  # fmt: skip
    said = {"Choices": "A is red. Its back is not.\nAnswer: B", "yes or no": "Hardly.\nAnswer: no"}
    otherwise = "It glides. Answer: Red Kite"
    model: Any = Scripted(lambda ask: next((s for k, s in said.items() if k in ask.prompt), otherwise))
    found = list(evaluate(rows, model, root, "strict", 8, 9, prompting="cot"))
    assert all(ask.prompt.endswith("\nLet's think step by step.") for ask in model.asks)
    assert all(ask.prompt.count("Answer:") == 1 for ask in model.asks)
    assert [record["correct"] for record in found] == [True] * 4  # type: ignore[index]


@pytest.mark.parametrize(
    ("cls", "given", "message"),
    [
        (Eval, {"prompting": "cot", "scoring": "letter"}, "does not go with --scoring letter"),
        (Eval, {"prompting": "attr-seek", "scoring": "label"}, "leave --prompting attr-seek out"),
        (Eval, {"max_new_tokens": 0}, "--max-new-tokens must be at least 1"),
        (Questions, {"concept": "predicted"}, "add --kinds granularity"),
        (Questions, {"per_class": 0}, "--per-class must be at least 1"),
    ],
)
def test_settings_that_make_no_sense(cls: Any, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**given)


# --- knowledge without the image ---

ATTRIBUTES = {
    "Red Kite": {"required": ["red back", "the tail of a red kite", "forked tail"], "likely": []},
    "Barn Owl": {"required": ["white face"], "likely": []},
}


def test_knowledge_is_asked_without_image_and_without_the_name(root: Path) -> None:
    rows = [bird(0, taxonomy={"Kingdom": "Animalia", "Species": "Milvus milvus"}), bird(1)]
    ours = Finer(attributes=ATTRIBUTES)
    made: list[Any] = list(questions(rows, ["knowledge"], finer=ours))
    assert made[0]["question"] == (
        "Can you guess the specific name (specific type) of a bird in the following category given its physical "
        'attributes?\nProvide your answer after "Answer:".\n\nPhysical Attributes: red back; forked tail\n\n'
        "Supercategory: bird\nCoarse-grained Category: Kite\nKingdom: Animalia"
    )
    assert ours.notes["leaks"] == 2 and "image" not in made[0] and made[0]["id"] == "b0/fine"
    model: Any = Scripted(lambda ask: "Answer: Milvus milvus")
    found: list[Any] = list(evaluate([made[1], {**made[1], "id": "other"}] * 3, model, "/nowhere", "strict", 2, 9))
    assert [r["correct"] for r in found] == [True] * 6 and len(model.asks) == 1, "a category is asked once"
    (bad,) = evaluate([{k: v for k, v in made[0].items() if k != "modality"}], model, root, "strict", 2, 9)
    assert isinstance(bad, Bad) and "no 'image'" in bad.error
    (lacks,) = built([bird(0, "Jay")], "knowledge", attributes=ATTRIBUTES)
    assert isinstance(lacks, Bad) and "no attributes of 'Jay'" in lacks.error


def test_the_gap_is_resampled_by_category() -> None:
    """Text-only answers are the same for all images of a category: so many categories, not so many images."""
    said = [{"id": f"{n}", "kind": "open", "answer": "x", "category": f"c{n % 4}", "prediction": "x", "raw": "x",
             "correct": n % 4 < 2} for n in range(200)]  # fmt: skip
    seen = [{**r, "image": f"{n}.png", "correct": n % 3 == 0} for n, r in enumerate(said)]
    runs = {"image": Scored(), "text": Scored()}
    list(runs["image"].take(seen))
    list(runs["text"].take([{**r, "unit": r["category"]} for r in said]))
    found = {r["metric"]: r for r in score(runs) if r.get("run") == "text"}
    assert found["exact match"]["low"] == 0 and found["exact match"]["high"] == 1
    difference = found["exact match difference"]
    assert difference["high"] - difference["low"] > 0.8


def test_files_of_attributes() -> None:
    theirs = [{"id": 41, "name": "Acura", "attr_binomial": {"required": ["a"], "likely": ["b"]}}]
    assert concept_attributes(theirs, "f") == {"Acura": {"required": ["a"], "likely": ["b"]}}
    odd = [{"name": "x", "attr_binomial": 5}]
    for rows, words in (([{"category": "x"}], "no list `required`"), (odd, "no list"), (theirs * 2, "comes twice")):
        with pytest.raises(FgvrError, match=words):
            concept_attributes(rows, "f")


# --- dialogues ---


def test_a_dialogue_asks_from_wide_to_fine() -> None:
    (made,) = built([bird(0)], "dialogue", attributes=ATTRIBUTES)
    assert (made["id"], made["kind"], len(made["turns"])) == ("b0/dialogue", "dialogue", 3)
    asked, said = zip(*((t["question"], t["answer"]) for t in made["turns"]), strict=True)
    assert "bird" in asked[0] and "Kite" in said[0] and "red back, forked tail" in said[1]
    assert not any(name in said[1] for name in ("Red Kite", "red kite", "Milvus")), "attributes do not name it"
    assert made["answer"] == said[2] and any(name in said[2] for name in ("Red Kite", "Milvus milvus"))
    assert not any("{" in text for text in asked + said)
    (short,) = built([bird(0)], "dialogue", attributes=ATTRIBUTES, variant="no-answer")
    assert len(short["turns"]) == 2
    (direct,) = built([bird(0)], "dialogue", variant="direct")
    assert len(direct["turns"]) == 1 and "bird" in direct["turns"][0]["question"]


def test_wordings_are_drawn_for_the_record() -> None:
    rows = [bird(n) for n in range(80)]
    made = built(rows, "dialogue", attributes=ATTRIBUTES)
    assert built(rows[::-1], "dialogue", attributes=ATTRIBUTES)[::-1] == made
    assert built(rows, "dialogue", attributes=ATTRIBUTES, seed=1) != made
    assert len({t["turns"][0]["question"] for t in made}) == len(dialogue.ASK_KIND)
    for texts in (dialogue.ASK_KIND, dialogue.SAY, dialogue.ASK_LOOKS, dialogue.SAY_NAME, dialogue.ASK_DIRECT):
        assert len(set(texts)) == 8


def test_at_most_so_many_of_a_class() -> None:
    rows = [bird(n, ["Red Kite", "Barn Owl"][n % 3 == 0]) for n in range(30)]
    made = built(rows, "dialogue", attributes=ATTRIBUTES, per_class=4)
    kept = [q["id"] for q in made]
    assert [sum(q["category"] == name for q in made) for name in ATTRIBUTES] == [4, 4]
    assert kept == sorted(kept, key=lambda i: int(i[1:-9])), "in their order"
    again = built(rows[::-1], "dialogue", attributes=ATTRIBUTES, per_class=4)
    assert {q["id"] for q in again} == set(kept)


def test_a_dialogue_in_other_tools_files() -> None:
    (made,) = built([bird(0)], "dialogue", attributes=ATTRIBUTES)
    llava, sharegpt, trl = to_llava(made), to_sharegpt(made), to_trl(made)
    texts = [text for turn in made["turns"] for text in (turn["question"], turn["answer"])]
    assert [turn["from"] for turn in llava["conversations"]] == ["human", "gpt"] * 3
    assert [turn["value"].replace("<image>\n", "") for turn in llava["conversations"]] == texts
    assert sharegpt["conversations"][0]["value"] == f"<image>{texts[0]}" and len(sharegpt["conversations"]) == 6
    assert [m["role"] for m in trl["messages"]] == ["user", "assistant"] * 3
    assert [part["type"] for m in trl["messages"] for part in m["content"]] == ["image", *["text"] * 6]


# --- the commands ---


def test_the_protocol_in_three_commands(root: Path) -> None:
    write_jsonl(root / "test.jsonl", [bird(0), bird(1, "Barn Owl", ("Owl",))])
    write_jsonl(root / "attributes.jsonl", [{"category": name, **held} for name, held in ATTRIBUTES.items()])
    ended = run([FRESH, "questions", "--kinds", "granularity", "test.jsonl", "-o", "q.jsonl"], root)
    assert (ended.status, ended.err) == (0, "")
    said = [{**q, "raw": f"Answer: {q['answer']}", "prediction": q["answer"], "correct": True}
            for q in read_jsonl(root / "q.jsonl")]  # fmt: skip
    write_jsonl(root / "p.jsonl", said)
    ended = run([FRESH, "score", "--table", "--by", "level", "p.jsonl"], root)
    table = ended.out.decode()
    assert all(f"FINER EM, gold in prediction, {level}" in table for level in finer.LEVELS)
    assert all(f"exact match, {level}" in table for level in finer.LEVELS)
    argv = [FRESH, "questions", "--kinds", "knowledge", "--from-attributes", "attributes.jsonl", "test.jsonl"]
    ended = run(argv, root)
    assert ended.status == 0 and ended.err == "fgvr questions: 1 attributes that name their category, left out\n"
    assert len(ended.out.splitlines()) == 2
    for options, words in (
        (["--kinds", "dialogue"], "--kinds dialogue needs --from-attributes"),
        (["--from-attributes", "attributes.jsonl", "--kinds", "open"], "leave it out"),
    ):
        ended = run([FRESH, "questions", *options, "test.jsonl"], root)
        assert ended.status == 2 and words in ended.err
