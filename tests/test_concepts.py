"""Concept attributes: every shape of reply that a model gives is read; where they come from; how they are compared."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from fgvr import concepts
from fgvr.analysis.concepts import compared
from fgvr.errors import FgvrError
from fgvr.models.base import Ask
from fgvr.stages.concepts import concept_attributes, documents_of
from fgvr.stream import Bad
from tests.procs import FRESH, read_jsonl, run, write_jsonl

R, L = ["red back", "black bill"], ["long tail"]
# 42 replies that all say R and L
SAME = [
    "Required:\n- red back\n- black bill\n\nLikely:\n- long tail",
    "Required:\n* red back\n* black bill\nLikely:\n* long tail",
    "REQUIRED:\n• red back\n• black bill\nLIKELY:\n• long tail",
    "required:\n– red back\n– black bill\nlikely:\n– long tail",
    "Required:\n+ red back\n+ black bill\nLikely:\n+ long tail",
    "Required:\n1. red back\n2. black bill\nLikely:\n1. long tail",
    "Required:\n1) red back\n2) black bill\nLikely:\n3) long tail",
    "Required:\n(1) red back\n(2) black bill\nLikely:\n(1) long tail",
    "Required:\na) red back\nb) black bill\nLikely:\na) long tail",
    "Required:\na. red back\nb. black bill\nLikely:\nc. long tail",
    "Required:\n1: red back\n2: black bill\nLikely:\n1: long tail",
    "Required:\nred back\nblack bill\n\nLikely:\nlong tail",
    "Required: red back, black bill\nLikely: long tail",
    "Required: red back; black bill\nLikely: long tail",
    "Required: red back, and black bill.\nLikely: long tail.",
    "Required: - red back - black bill\nLikely: - long tail",
    "Required: [red back, black bill]\nLikely: [long tail]",
    "**Required:**\n- red back\n- black bill\n\n**Likely:**\n- long tail",
    "**Required**:\n- red back\n- black bill\n**Likely**:\n- long tail",
    "**Required**\n- red back\n- black bill\n**Likely**\n- long tail",
    "## Required\n- red back\n- black bill\n## Likely\n- long tail",
    "### Required Attributes\n1. **red back**\n2. **black bill**\n### Likely Attributes\n1. **long tail**",
    "_Required_:\n- _red back_\n- _black bill_\n_Likely_:\n- _long tail_",
    "Required attributes:\n- red back\n- black bill\nLikely attributes:\n- long tail",
    "Required features:\n- red back\n- black bill\nLikely features:\n- long tail",
    "Required (must be visible):\n- red back\n- black bill\nLikely (may be hidden):\n- long tail",
    "Required visual attributes:\n- red back\n- black bill\nLikely visual attributes:\n- long tail",
    "1. Required:\n   - red back\n   - black bill\n2. Likely:\n   - long tail",
    "- Required:\n  - red back\n  - black bill\n- Likely:\n  - long tail",
    "The required attributes are:\n- red back\n- black bill\nThe likely attributes are:\n- long tail",
    "Sure! Here are the attributes of this bird.\n\nRequired:\n- red back\n- black bill\n\nLikely:\n- long tail",
    "Required:\n- red back\n- black bill\nLikely:\n- long tail\n\nNote: features vary with age.\n- not this",
    "Required:\n- red back\n- black bill\nLikely:\n- long tail\n\nI hope this helps!",
    "Required:\n-red back\n-black bill\nLikely:\n-long tail",
    "Required:\n•red back\n•black bill\nLikely:\n•long tail",
    "Required:\r\n- red back\r\n- black bill\r\nLikely:\r\n- long tail\r\n",
    "Required:\n- Red back\n- red back\n- black bill.\nLikely:\n- long tail;".replace("Red back", "red back", 1),
    "Required:\n- red back\n\n- black bill\n\n\nLikely:\n\n- long tail",
    "Likely:\n- long tail\nRequired:\n- red back\n- black bill",
    '{"required": ["red back", "black bill"], "likely": ["long tail"]}',
    "```json\n{'Required': ['red back', 'black bill'], 'Likely': ['long tail']}\n```",
    '{"Required attributes": ["red back", "black bill"], "Likely attributes": "long tail"}',
    "<think>Required: nothing?</think>Required:\n- red back\n- black bill\nLikely:\n- long tail",
    "> Required:\n> - red back\n> - black bill\n> Likely:\n> - long tail".replace("> -", "-"),
    'Required:\n- "red back"\n- "black bill"\nLikely:\n- "long tail"',
    "Required - red back; black bill\nLikely - long tail",
    "Required:\n‣ red back\n▪ black bill\nLikely:\n● long tail",
]
OTHER = [
    ("none", [], []),
    ('"None."', [], []),
    ("", [], []),
    ("Required:\n- none\nLikely:\n- none", [], []),
    ("Required: none\nLikely: N/A", [], []),
    ("Required:\n- red back\nLikely:\nNone", ["red back"], []),
    ("No useful visual features.", [], []),
    ("I cannot see the image.", [], []),
    ("- red back\n- black bill", R, []),
    ("1. red back\n2. black bill\n", R, []),
    ("Required:\n- red back", ["red back"], []),
    ("Likely:\n- long tail", [], L),
    # FINER's parser ends the section at either of these
    ("Required:\n- Likely seen near water\n- required-looking stripes\nLikely:\n- long tail",
     ["Likely seen near water", "required-looking stripes"], L),
    ("Required:\n- wings: red (required for males)\nLikely:\n- long tail", ["wings: red (required for males)"], L),
    ("Required:\n- **Back**: red\nLikely:\n- long tail", ["Back: red"], L),
    ("Required:\n- red back\n  with black bars\nLikely:\n- long tail", ["red back with black bars"], L),
    ("Required: wings (red, blue), black bill\nLikely: long tail", ["wings (red, blue)", "black bill"], L),
    ('{"required": ["red back"', [], []),
    ("Required:\n- rot-weiß\n- 黒い翼\nLikely:\n- long tail", ["rot-weiß", "黒い翼"], L),
    ("Required:\n- 21 to 29 stripes\nLikely:\n- 3.5 cm bill", ["21 to 29 stripes"], ["3.5 cm bill"]),
]  # fmt: skip


@pytest.mark.parametrize("reply", SAME)
def test_replies_that_say_the_same(reply: str) -> None:
    assert concepts.parse(reply) == {"required": R, "likely": L}


@pytest.mark.parametrize(("reply", "required", "likely"), OTHER)
def test_other_replies(reply: str, required: list[str], likely: list[str]) -> None:
    assert concepts.parse(reply) == {"required": required, "likely": likely}


def test_any_text_is_read_in_time() -> None:
    for text in ("{" * 20_000, "Required" * 9_000, "- " * 30_000, "Required:\n" + "- x y\n" * 9_000, "\x00[('" * 5_000):
        found = concepts.parse(text)
        assert all(len(found[kind]) <= 40 and all(len(t) <= 200 for t in found[kind]) for kind in found)


def test_the_passage_of_a_page() -> None:
    page = "Intro.\n== Design ==\nIt is red.\n== Description ==\nIt is blue. " + "word " * 300
    assert concepts.passage(page).startswith("It is blue.") and len(concepts.passage(page).split()) == 256
    assert concepts.passage("Intro.\n== Design ==\nIt is red.") == "It is red."
    assert concepts.passage("Intro only.") == "Intro only."


class Told:
    """A model that keeps what it is asked."""

    about: ClassVar[dict] = {"name": "told"}

    def __init__(self) -> None:
        self.asks: list[Ask] = []

    def reply(self, asks: list[Ask], max_new_tokens: int) -> list[str]:
        self.asks += asks
        return [SAME[0]] * len(asks)


ROWS = [
    {"id": f"{n}", "image": "missing.png", "category": name, "superclass": "bird", "attributes_true": {"bill": bill}}
    for n, (name, bill) in enumerate([("Kite", "red"), ("Owl", "none"), ("Kite", "black"), ("Kite", "black")])
]


def test_a_category_is_asked_once() -> None:
    model = Told()
    found = list(concept_attributes(ROWS, "text", model, ".", 8, 9))
    assert [ask.prompt.split(" in a photo?")[0].rpartition(" ")[2] for ask in model.asks] == ["Kite", "Owl"]
    assert found[0] == {"id": "concept/Kite", "category": "Kite", "superclass": "bird", "required": R, "likely": L,
                        "raw": SAME[0]}  # fmt: skip
    list(concept_attributes(ROWS, "document", model, ".", 8, 9, {"Owl": "Big eyes."}))
    assert model.asks[2].prompt.endswith("Document: ") and model.asks[3].prompt.endswith("Document: Big eyes.")
    found = list(concept_attributes(ROWS, "truth", None, ".", 8, 9))
    assert [r["required"] for r in found] == [["black bill"], ["no bill"]]  # type: ignore[index]
    (bad, other) = concept_attributes([{"id": "x", "category": "Kite"}, ROWS[1]], "image", model, ".", 8, 9)
    assert isinstance(bad, Bad) and "no 'image'" in bad.error and isinstance(other, Bad)
    with pytest.raises(FgvrError, match="'Kite' comes twice"):
        documents_of([{"category": "Kite", "document": "x"}] * 2, "docs")


def test_overlap_and_text_measures() -> None:
    rows = [
        {"category": "Kite", "required": ["a red back", "black bills", "forked tail"], "likely": []},
        {"category": "owl", "required": [], "likely": ["big eyes"]},
        {"category": "Jay", "required": ["x"], "likely": ["y"]},
    ]
    reference = {"Kite": {"required": ["red back", "bill black"], "likely": []}, "Owl": {"required": ["big eyes"],
                 "likely": ["big eyes"]}}  # fmt: skip
    found = {(r["metric"], r.get("part")): r for r in compared(rows, reference, Letters())}
    assert found["in the reference", None]["value"] == pytest.approx(2 / 3)
    assert found["attribute precision", "required"]["value"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["attribute recall", "required"]["value"] == pytest.approx((1 + 0) / 2)
    assert (found["attribute F1", "likely"]["value"], found["attribute F1", "likely"]["n"]) == (1, 1)
    assert found["embedding similarity", "likely"]["value"] == found["embedding F1", "likely"]["value"] == 1
    assert 0 < found["embedding F1", "required"]["value"] < 0.5
    with pytest.raises(FgvrError, match="no category is one of --reference"):
        list(compared(rows[2:], reference))


def test_rouge_and_bleu_of_the_libraries() -> None:
    pytest.importorskip("rouge")
    pytest.importorskip("sacrebleu")
    reference = {"Kite": {"required": ["red back", "long black bill"], "likely": []}}
    same = [{"category": "Kite", "required": ["red back", "long black bill"], "likely": []}]
    found = {r["metric"]: r["value"] for r in compared(same, reference)}
    assert all(found[name] == pytest.approx(1) for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L", "BLEU"))
    other = [{"category": "Kite", "required": ["red bill"], "likely": []}]
    found = {r["metric"]: r["value"] for r in compared(other, reference)}
    assert found["ROUGE-1"] == pytest.approx(2 * 2 / 7) and found["ROUGE-2"] == 0 and 0 < found["BLEU"] < 0.3


class Letters:
    """A text encoder: how often each letter comes."""

    about: ClassVar[dict] = {"name": "letters"}

    def texts(self, texts: list[str]):
        import torch

        rows = torch.tensor([[float(text.count(chr(97 + n))) for n in range(26)] for text in texts])
        return torch.nn.functional.normalize(rows, dim=1)


def test_the_command_and_the_comparison(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    made = run([FRESH, "concept-attrs", "--source", "truth", "in.jsonl", "-o", "truth.jsonl"], tmp_path)
    assert (made.status, made.err) == (0, "")
    said = [{"category": "Kite", "required": ["a black bill", "red eyes"], "likely": []}]
    write_jsonl(tmp_path / "said.jsonl", said)
    ended = run([FRESH, "score", "said.jsonl", "--reference", "truth.jsonl", "-o", "m.jsonl"], tmp_path)
    assert ended.status == 0, ended.err
    found = {(r["metric"], r.get("part")): r["value"] for r in read_jsonl(tmp_path / "m.jsonl")}
    assert found["attribute precision", "required"] == 0.5 and found["attribute recall", "required"] == 1
    assert found["attribute F1", "required"] == pytest.approx(2 / 3)
    assert found["ROUGE-L", "required"] == pytest.approx(2 * 2 / (4 + 2))
    assert found["in the reference", None] == 1
    write_jsonl(tmp_path / "odd.jsonl", [{"category": "Kite", "required": [1], "likely": "abc"}])
    for options, words in (
        (["score", "said.jsonl"], "needs --reference"),
        (["score", "odd.jsonl", "--reference", "truth.jsonl"], "'required' must be a list of texts"),
        (["concept-attrs", "in.jsonl"], "needs --model"),
        (["concept-attrs", "--source", "truth", "--documents", "in.jsonl", "in.jsonl"], "need each other"),
    ):
        ended = run([FRESH, *options], tmp_path)
        assert ended.status in (1, 2) and words in ended.err
