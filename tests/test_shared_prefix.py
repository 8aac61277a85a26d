"""Questions that share an image: replies and confidences as by separate generation, the image encoded once."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from fgvr.datasets import toy
from fgvr.models import shared_prefix
from fgvr.models.base import Ask, Said
from fgvr.models.generating import said
from fgvr.models.hf import VlmAnswerer
from fgvr.models.vlm import open_vlm
from tests.bench import bench_extract

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 8,
        "num_key_value_heads": 4, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
NEW = 6


@pytest.fixture(scope="module", params=["toy", "idefics2", "llava"])
def answerer(request: pytest.FixtureRequest) -> VlmAnswerer:
    """The embedded model, and tiny random ones of the real classes, with fewer key heads than heads."""
    if request.param == "toy":
        return VlmAnswerer(open_vlm(str(request.getfixturevalue("toy_vlm")), device="cpu"))
    if request.param == "idefics2":
        return VlmAnswerer(bench_extract.idefics2(TINY, size=32, patch=8, latents=4))
    return VlmAnswerer(bench_extract.llava(TINY, size=32, patch=8))


def birds() -> list[Image.Image]:
    drawn = [toy.draw(species.attributes, Random(i), 64) for i, species in enumerate(toy.world(12, 5)[:3])]
    return [drawn[0], drawn[1].resize((96, 48)), drawn[2]]


def questions(answerer: VlmAnswerer) -> list[Ask]:
    """Three on the first image, three on the second in between, one on the third, one without an image."""
    first, second, third = birds()
    asked = ["What is this?", "Describe the leg colour of the bird in this image.", "Describe the bill."]
    asks = [ask for question in asked for ask in (Ask(question, first), Ask(question, second))]
    return [*asks, Ask("What is this?", third), Ask("List colours.")]


def alone(answerer: VlmAnswerer, ask: Ask) -> Said:
    (found,) = answerer._reply([ask], ask.image is not None, NEW)
    return found


def test_replies_are_those_of_separate_generation(answerer: VlmAnswerer, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = questions(answerer)
    encoded: list[int] = []
    model = answerer.vlm.model.model
    original = model.get_image_features
    monkeypatch.setattr(
        model,
        "get_image_features",
        lambda pixel_values, *a, **k: encoded.append(len(pixel_values)) or original(pixel_values, *a, **k),
    )
    together = answerer.reply_scored(asks, NEW)
    assert sum(encoded) == 3, "each image once"
    separate = [alone(answerer, ask) for ask in asks]
    assert [text for text, _ in together] == [text for text, _ in separate] == answerer.reply(asks, NEW)
    for one, other in zip(together, separate, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
    assert len({text for text, _ in together}) > 3, "the model tells questions and images apart"


def test_the_attention_of_the_model_is_its_own_again(answerer: VlmAnswerer) -> None:
    config = answerer.vlm.model.config.get_text_config()
    before = config._attn_implementation
    answerer.reply(questions(answerer)[:2], 1)
    assert config._attn_implementation == before != shared_prefix.NAME


def test_a_long_prefix_in_a_small_window_is_not_shared(answerer: VlmAnswerer, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = [Ask(question, birds()[0]) for question in ("What is this?", "Describe the bill.")]
    asks = [Ask(ask.prompt, asks[0].image) for ask in asks]
    plain = answerer.reply(asks, NEW)
    monkeypatch.setattr(answerer.vlm.model.config.get_text_config(), "sliding_window", 8, raising=False)
    assert answerer._shared(asks, [0, 1], NEW) == {}
    monkeypatch.undo()
    assert answerer._shared(asks, [0, 1], NEW).keys() == {0, 1} and answerer.reply(asks, NEW) == plain


@pytest.mark.parametrize(
    ("kind", "more", "shares"),
    [
        ("llava", {}, True), ("llava", {"repetition_penalty": 1.0}, True),
        ("llava", {"repetition_penalty": 1.1}, False), ("llava", {"no_repeat_ngram_size": 3}, False),
        ("paligemma", {}, False), ("blip-2", {}, False),
    ],
)  # fmt: skip
def test_what_would_not_be_exact_is_not_shared(kind: str, more: dict[str, float], shares: bool) -> None:
    """A bidirectional prefix, and a generation config with which the likeliest token is not the one that is taken."""
    from transformers import GenerationConfig

    model = SimpleNamespace(config=SimpleNamespace(model_type=kind), generation_config=GenerationConfig(**more))
    assert shared_prefix.shareable(model) is shares


def test_confidence_is_the_mean_log_probability_to_the_end_of_the_reply(answerer: VlmAnswerer) -> None:
    ask = questions(answerer)[1]
    vlm = answerer.vlm
    inputs = answerer._inputs([ask])
    with torch.no_grad():
        made = vlm.model.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    tokens = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    kept = tokens[: tokens.index(2) + 1] if 2 in tokens else tokens
    wanted = [made.logits[i][0].log_softmax(-1)[token].item() for i, token in enumerate(kept)]
    assert alone(answerer, ask).confidence == pytest.approx(sum(wanted) / len(wanted), abs=1e-4)


def test_tokens_after_the_end_do_not_count() -> None:
    tokenizer = SimpleNamespace(batch_decode=lambda ids, skip_special_tokens: ["a "] * len(ids))
    likely = torch.tensor([[-1.0, -3.0, -100.0], [-1.0, -2.0, -6.0]])
    found = said(tokenizer, torch.tensor([[5, 2, 3], [5, 6, 7]]), likely, [2])
    assert found == [Said("a", -2.0), Said("a", -3.0)]


def test_samples_depend_on_their_seed_alone(answerer: VlmAnswerer) -> None:
    ask = questions(answerer)[0]
    drawn = [answerer.sample(ask, NEW, 5.0, seed) for seed in (1, 2, 1, 3)]
    assert drawn[0] == drawn[2] and len(set(drawn)) > 1
    state = torch.random.get_rng_state()
    answerer.sample(Ask("List colours."), 2, 1.0, 9)
    assert torch.equal(torch.random.get_rng_state(), state)
