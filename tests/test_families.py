"""Every family answers, by reply and by likelihood: tiny random models of the real classes, with real processors, and
where the reference files are, with real tokenizers and chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image

from fgvr.datasets import toy
from fgvr.errors import FgvrError
from fgvr.models import open_answerer
from fgvr.models.answering import VlmAnswerer
from fgvr.models.base import Ask
from fgvr.models.families import FAMILIES
from tests import families

OPTIONS = [
    ["Red Kite", "Black Kite", "Red"],
    ["Barn Owl", "Kite"],
    ["Red Kite", "Black Kite of the northern woods", "Red", "A"],
]
LETTERS = [["A", "B", "C"], ["A", "B"], ["A", "B", "C", "D"]]


def images() -> list[Image.Image]:
    sizes = [(96, 96), (64, 40), (30, 50), (80, 80)]
    drawn = [toy.draw(species.attributes, Random(i), 96) for i, species in enumerate(toy.world(4, 5)[:4])]
    return [image.resize(size) for image, size in zip(drawn, sizes, strict=True)]


def asks() -> list[Ask]:
    """Questions of other lengths on images of other shapes, so that a batch has to pad."""
    texts = ["Which bird is this?", "What is the colour of the bird in this image, of all the birds?", "Name?"]
    return [Ask(text, image) for text, image in zip(texts, images(), strict=False)]


@pytest.fixture(scope="module")
def answerers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VlmAnswerer]:
    return {}


@pytest.fixture(params=list(FAMILIES))
def answerer(
    request: pytest.FixtureRequest, answerers: dict[str, VlmAnswerer], tmp_path_factory: pytest.TempPathFactory
) -> VlmAnswerer:
    kind = request.param
    if kind == "smolvlm":
        pytest.importorskip("num2words")
    if kind not in answerers:
        folder = families.build(kind, tmp_path_factory.mktemp(kind))
        answerers[kind] = open_answerer(str(folder), device="cpu")  # type: ignore[assignment]
    return answerers[kind]


def gap(one: Any, other: Any) -> float:
    """The greatest difference of two nested lists of scores."""
    flat = lambda x: [v for row in x for v in (flat(row) if isinstance(row, list | tuple) else [row])]  # noqa: E731
    return max(abs(a - b) for a, b in zip(flat(one), flat(other), strict=True))


def slow(answerer: VlmAnswerer, ask: Ask, rest: list[int], cut: int) -> list[float]:
    """Log-probabilities of the tokens after a prompt, by one plain forward pass over prompt and reply."""
    inputs = answerer._extended(answerer._inputs([ask]), [cut], [rest])
    if "token_type_ids" in inputs:  # PaliGemma: the reply is not part of what is read in both directions
        inputs["token_type_ids"][:, -len(rest) :] = 1
    with torch.no_grad():
        logits = answerer.model(**inputs).logits[0, -len(rest) - 1 : -1]
    return logits.log_softmax(-1)[range(len(rest)), rest].tolist()


def test_a_family(answerer: VlmAnswerer) -> None:
    """Replies, letters and options: the same in a batch and alone; letters and options as a plain forward pass over
    the whole text gives them, and as one by one; the image matters."""
    questions = asks()
    assert answerer.reply(questions, 5) == [answerer.reply([ask], 5)[0] for ask in questions]
    letters = answerer.letters(questions, LETTERS)
    assert gap(letters, [answerer.letters([a], [own])[0] for a, own in zip(questions, LETTERS, strict=True)]) < 1e-4
    found = answerer.likelihood(questions, OPTIONS)
    assert gap(found, [answerer.likelihood([a], [own])[0] for a, own in zip(questions, OPTIONS, strict=True)]) < 1e-4
    for ask, own, row in zip(questions, OPTIONS, found, strict=True):
        cut, rests = answerer.rests(ask.prompt, tuple(own))
        for rest, (total, count) in zip(rests, row, strict=True):
            assert count == len(rest) and abs(total - sum(slow(answerer, ask, rest, cut))) < 1e-3
    rests = [answerer.rests(ask.prompt, tuple(own)) for ask, own in zip(questions, OPTIONS, strict=True)]
    assert gap(found, answerer._one_by_one(questions, rests)) < 1e-3
    other = answerer.likelihood([Ask(questions[0].prompt, images()[3])], OPTIONS[:1])
    assert gap(other, found[:1]) > 0.01


def test_letters_are_the_next_token(answerer: VlmAnswerer) -> None:
    """Where one token tells the letters apart, its likelihood after the prompt and what all letters begin with."""
    ask = asks()[0]
    told = answerer._told(ask, ("B", "D"))
    assert told is not None
    cut, lead, ids = told
    (found,) = answerer.letters([ask], [["B", "D"]])
    for score, token in zip(found, ids, strict=True):
        assert abs(score - slow(answerer, ask, [*lead, token], cut)[-1]) < 1e-4


def test_what_is_scored_is_the_reply(answerer: VlmAnswerer) -> None:
    """Prompt and rest together are the conversation in the template, the reply within, its end mark after it."""
    tokenizer, ask = answerer.vlm.tokenizer, asks()[0]
    cut, (rest,) = answerer.rests(ask.prompt, ("Red Kite",))
    inputs = answerer._inputs([ask])
    ids = [*inputs["input_ids"][0].tolist()[: -cut or None], *rest]
    assert tokenizer.decode(rest).strip().startswith("Red Kite")
    assert tokenizer.eos_token_id in rest or "<end_of_utterance>" in tokenizer.decode(rest)
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert ask.prompt in whole and whole.strip().endswith("Red Kite")


def test_image_tokens_are_counted(answerer: VlmAnswerer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token too few in one question of a batch: an error, not features that move into the next question."""
    made = answerer._inputs

    def fewer(questions: Any, with_image: bool = True) -> Any:
        inputs = made(questions, with_image)
        place = (inputs["input_ids"][0] == answerer.vlm.image_token_id).nonzero()[0]
        inputs["input_ids"][0, place] = answerer.vlm.tokenizer.unk_token_id or 0
        answerer._counts[0] -= 1
        if not answerer.family.marked:
            answerer._check([answerer.model.config.num_query_tokens] * len(questions))
        return inputs

    monkeypatch.setattr(answerer, "_inputs", fewer)
    with pytest.raises(FgvrError, match=r"the prompt has \d+ image tokens for \d+ features; processor and model"):
        answerer.letters(asks(), LETTERS)


@pytest.mark.parametrize("kind", ["idefics2", "llava", "paligemma"])
def test_without_a_chat_template(kind: str, tmp_path: Path) -> None:
    answerer: Any = open_answerer(str(families.build(kind, tmp_path, templated=False)), device="cpu")
    chat = answerer._chat("Which?", "Kite", True)
    assert chat == {
        "idefics2": "User:<image>Which?<end_of_utterance>\nAssistant: Kite<end_of_utterance>\n",
        "llava": "USER: <image>\nWhich? ASSISTANT: Kite</s>",
        "paligemma": "<image>Which?\nKite</s>",
    }[kind]
    questions = asks()
    assert answerer.reply(questions, 3) == [answerer.reply([ask], 3)[0] for ask in questions]
    assert "<image>" not in answerer._chat("Which?", None, False)


def test_a_processor_of_another_model(tmp_path: Path) -> None:
    """Its 3 image tokens are not the model's 4 features."""
    folder = families.build("idefics2", tmp_path / "a")
    path = folder / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_seq_len": 3}))
    answerer: Any = open_answerer(str(folder), device="cpu")
    for question in (lambda: answerer.letters(asks(), LETTERS), lambda: answerer.reply(asks(), 3)):
        with pytest.raises(FgvrError, match="3 image tokens for 4 features"):
            question()


def test_a_family_that_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a chat template it answers, its options one by one; without one it is refused."""
    folder = str(families.build("llava", tmp_path))
    known: Any = open_answerer(folder, device="cpu")
    monkeypatch.delitem(FAMILIES, "llava")
    unknown: Any = open_answerer(folder, device="cpu")
    assert known.shares and not unknown.shares
    assert gap(known.likelihood(asks(), OPTIONS), unknown.likelihood(asks(), OPTIONS)) < 1e-3
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(FgvrError, match=r"has no chat template and is of no known family \(llava\)"):
        open_answerer(folder, device="cpu")


def test_an_encoder_decoder(tmp_path: Path) -> None:
    """BLIP-2 on FLAN-T5: the reply is the decoder's, likelihoods are those of a plain pass with it as labels."""
    answerer: Any = open_answerer(str(families.build("blip_2_t5", tmp_path)), device="cpu")
    questions = asks()
    assert answerer.reply(questions, 3) == [answerer.reply([ask], 3)[0] for ask in questions]
    found = answerer.likelihood(questions, OPTIONS)
    for ask, own, row in zip(questions, OPTIONS, found, strict=True):
        for text, (total, count) in zip(own, row, strict=True):
            ids = torch.tensor([answerer.vlm.tokenizer(text).input_ids])
            with torch.no_grad():
                logits = answerer.model(**answerer._inputs([ask]), labels=ids).logits[0]
            assert count == ids.shape[1]
            assert abs(total - logits.log_softmax(-1)[range(count), ids[0]].sum().item()) < 1e-3


def test_models_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(FgvrError, match=r"nonsense.*; check the folder or the name$"):
        open_answerer(str(tmp_path), device="cpu")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(FgvrError, match="type 'clip' is neither a vision-language nor a language model"):
        open_answerer(str(tmp_path), device="cpu")


@pytest.mark.parametrize("chosen", [{"device": "all"}, {"dtype": "bfloat16"}, {"quantise": "nf4"}], ids=str)
@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "llama"])
def test_a_model_loaded_otherwise(kind: str, chosen: dict[str, str], tmp_path: Path) -> None:
    """It answers, about says how it was loaded, and its likelihoods are those of the plain model but for rounding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if kind == "llama":
        tokens = families.tokenizer()
        LlamaForCausalLM(LlamaConfig(**families.text(tokens))).save_pretrained(tmp_path)
        tokens.save_pretrained(tmp_path)
    else:
        families.build(kind, tmp_path)
    ask = Ask("Which?", None if kind == "llama" else Image.new("RGB", (48, 32), "red"))
    plain: Any = open_answerer(str(tmp_path), device="cpu")
    other: Any = open_answerer(str(tmp_path), **{"device": "cpu", **chosen})
    assert other.about == {
        **plain.about,
        **({"quantised": "nf4"} if "quantise" in chosen else {}),
        **({"dtype": "bfloat16"} if "dtype" in chosen else {}),
    }
    (one,), (two,) = plain.reply_scored([ask], 4), other.reply_scored([ask], 4)
    assert two.text is not None and abs(one.confidence - two.confidence) < (1e-6 if "device" in chosen else 0.1)
    in_four_bits = [module for module in other.model.modules() if type(module).__name__ == "Linear4bit"]
    assert bool(in_four_bits) == ("quantise" in chosen)


def test_a_hub_name_is_taken_from_a_filled_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its revision, and without a network: as on a compute node whose HF_HOME was filled elsewhere."""
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = tmp_path / "hub" / "models--org--bird"
    families.build("llava", kept / "snapshots" / commit)
    for name in ("main", "v1"):
        (kept / "refs").mkdir(exist_ok=True)
        (kept / "refs" / name).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = open_answerer("hf:org/bird@v1", device="cpu")
    assert model.about == {"name": "org/bird", "revision": commit, "dtype": "float32"}
    assert model.reply([Ask("Which?", Image.new("RGB", (9, 9)))], 2) != [""]


def test_what_cannot_be_quantised(tmp_path: Path) -> None:
    with pytest.raises(FgvrError, match="family 'blip-2' cannot be quantised here; leave out --quantise"):
        open_answerer(str(families.build("blip_2", tmp_path)), device="cpu", quantise="nf4")


# --- real tokenizers, processors, chat templates ---


def real_llava(shared: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "models" / "llava15_7b_hf")


def real_qwen(shared: Path) -> Any:
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(shared / "models" / "qwen2_tokenizer")
    more = "object_ref_start object_ref_end box_start box_end quad_start quad_end vision_start vision_end vision_pad"
    names = [f"<|{name}|>" for name in f"{more} image_pad video_pad".split()]
    tokens.add_special_tokens({"additional_special_tokens": names})
    return tokens


def template(shared: Path, name: str) -> str:
    return (shared / "models" / "chat_templates" / f"{name}.jinja").read_text()


@pytest.mark.parametrize(
    ("kind", "tokens", "written", "end"),
    [
        ("llava", (real_llava, "llava-1.5-7b-hf"), "USER: <image>\nWhich? ASSISTANT:", ["▁K", "ite", "▁"]),
        ("qwen2_vl", (real_qwen, "qwen2-vl-7b-instruct"),
         "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|>"
         "<|vision_end|>Which?<|im_end|>\n<|im_start|>assistant\n", ["K", "ite", "<|im_end|>", "Ċ"]),
        ("idefics2", (None, "idefics2-8b"), "User:<image>Which?<end_of_utterance>\nAssistant:", None),
    ],
)  # fmt: skip
def test_real_tokenizers_and_templates(
    shared: Path, tmp_path: Path, kind: str, tokens: Any, written: str, end: list[str] | None
) -> None:
    make, name = tokens
    folder = families.build(kind, tmp_path, make(shared) if make else None, template(shared, name))
    answerer: Any = open_answerer(str(folder), device="cpu")
    assert answerer._chat("Which?", None, True) == written
    cut, (rest,) = answerer.rests("Which?", ("Kite",))
    assert end is None or (cut, answerer.vlm.tokenizer.convert_ids_to_tokens(rest)) == (0, end)
    assert make is None or answerer._told(asks()[0], ("A", "B", "C", "D"))[1] == [], "letters in one pass"
    test_a_family(answerer)
