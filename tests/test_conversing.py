"""Two turns on one image: earlier turns reach every family through its template, and a kept cache changes nothing."""

from __future__ import annotations

import functools
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image

from fgvr.datasets import toy
from fgvr.errors import RecordError
from fgvr.models import conversing, open_answerer, shared_prefix
from fgvr.models.base import Ask
from fgvr.models.families import FAMILIES
from tests import families

OPENINGS = ["Describe the bird.", "What attributes do you see in this image of a bird?", "Colours?"]


def asks() -> list[Ask]:
    drawn = [toy.draw(species.attributes, Random(i), 96) for i, species in enumerate(toy.world(4, 5)[:3])]
    images = [image.resize(size) for image, size in zip(drawn, [(96, 96), (64, 40), (30, 50)], strict=True)]
    return [Ask(text, image) for text, image in zip(["Name?", "Now, which bird is it?", "Which?"], images, strict=True)]


@pytest.fixture(scope="module", params=list(FAMILIES))
def answerer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "smolvlm":
        pytest.importorskip("num2words")
    return open_answerer(str(families.build(request.param, tmp_path_factory.mktemp(request.param))), device="cpu")


def test_a_text_with_the_mark_of_an_image_is_a_bad_record(answerer: Any) -> None:
    mark = answerer.vlm.processor.image_token
    with pytest.raises(RecordError, match="stands for an image here; take it out"):
        answerer.reply([Ask(f"What is {mark} this?", Image.new("RGB", (8, 8)))], 2)


def test_two_turns_are_those_of_encoding_both_anew(answerer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch of prompts of other lengths; an opening that ends early and others that do not."""
    encoded: list[int] = []
    owner = getattr(answerer.model, "model", answerer.model)
    original = owner.get_image_features

    @functools.wraps(original)
    def counted(*args: Any, **options: Any) -> Any:
        encoded.append(1)
        return original(*args, **options)

    monkeypatch.setattr(owner, "get_image_features", counted)
    questions = asks()
    found = answerer.converse(questions, OPENINGS, 7, 6)
    keeps = answerer.model.config.model_type in shared_prefix.FAMILIES
    assert (len(encoded) == 1) is keeps, "what keeps its cache encodes the images once, and nothing else does"
    for ask, opening, (first, second) in zip(questions, OPENINGS, found, strict=True):
        (alone,) = answerer._reply([Ask(opening, ask.image)], True, 7)
        anew = Ask(ask.prompt, ask.image, before=((opening, alone.text),))
        assert (first, second) == (alone.text, answerer._reply([anew], True, 6)[0].text)
    (other,) = answerer._reply([Ask(questions[0].prompt, questions[0].image, before=((OPENINGS[0], "No."),))], True, 6)
    assert other.text != found[0][1], "the first turn matters"


def test_the_cache_that_is_kept_gives_the_same_likelihoods(answerer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only the same words: the logits of the next token, to floating point."""
    if not shared_prefix.shareable(answerer.model):
        pytest.skip("encodes both turns anew")
    questions = asks()
    opened = conversing._open(answerer, [Ask(o, a.image) for o, a in zip(OPENINGS, questions, strict=True)], 7)
    second = [
        Ask(a.prompt, a.image, before=((o, r),)) for a, o, r in zip(questions, OPENINGS, opened.replies, strict=True)
    ]
    inputs = answerer._inputs(second)
    with torch.inference_mode():
        anew = answerer._first(inputs).logits[0].log_softmax(-1).max(-1).values.tolist()
    kept: list[float] = []
    original = shared_prefix.decode

    def noted(*args: Any) -> list[Any]:
        said = original(*args)
        kept.extend(one.confidence for one in said)
        return said

    monkeypatch.setattr(shared_prefix, "decode", noted)
    assert conversing._go_on(answerer, second, opened, 1) is not None
    assert kept == pytest.approx(anew, abs=1e-4)


def test_earlier_turns_stand_in_the_prompt_once_with_one_image(answerer: Any) -> None:
    image = Image.new("RGB", (32, 32))
    chat = answerer._chat("And now?", None, True, [("First?", "So it is.")])
    assert [chat.count(text) for text in ("First?", "So it is.", "And now?")] == [1, 1, 1]
    assert chat.index("First?") < chat.index("So it is.") < chat.index("And now?")
    assert chat.count("image") == answerer._chat("And now?", None, True).count("image")
    (row,) = answerer.likelihood([Ask("And now?", image, before=(("First?", "So it is."),))], [["Kite", "Owl"]])
    (alone,) = answerer.likelihood([Ask("And now?", image)], [["Kite", "Owl"]])
    assert max(abs(a - b) for (a, _), (b, _) in zip(row, alone, strict=True)) > 1e-3


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("idefics2", "User:<image>Q1<end_of_utterance>\nAssistant: R1<end_of_utterance>\nUser:Q2<end_of_utterance>\n"
         "Assistant:"),
        ("llava", "USER: <image>\nQ1 ASSISTANT: R1</s>USER: Q2 ASSISTANT:"),
        ("paligemma", "<image>Q1R1\nQ2"),
        ("blip-2", "Question: Q1 Answer: R1. Question: Q2 Answer:"),
        ("qwen2_vl", "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Q1<|im_end|>\n"
         "<|im_start|>assistant\nR1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"),
    ],
)  # fmt: skip
def test_turns_without_a_chat_template(kind: str, written: str, tmp_path: Path) -> None:
    answerer: Any = open_answerer(str(families.build(kind, tmp_path, templated=False)), device="cpu")
    assert answerer._chat("Q2", None, True, [("Q1", "R1")]) == written
    assert "image" not in answerer._chat("Q2", None, False, [("Q1", "R1")])


def test_a_language_model_takes_turns_too(tmp_path: Path) -> None:
    from tests.test_assemble import CHATML, speaker

    ask = Ask("Q2", before=(("Q1", "R1"),))
    plain: Any = open_answerer(str(speaker("llama", tmp_path / "a", None)), device="cpu")
    assert plain._prompt(ask) == "Q1\nR1\nQ2" and plain._prompt(Ask("Q2")) == "Q2"
    chat: Any = open_answerer(str(speaker("llama", tmp_path / "b", CHATML)), device="cpu")
    assert chat._prompt(ask) == "<s>user\nQ1</s>\n<s>assistant\nR1</s>\n<s>user\nQ2</s>\n<s>assistant\n"
