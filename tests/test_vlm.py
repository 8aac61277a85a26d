"""A model taken apart: features, embeddings, replies, adapters; on the embedded Idefics2 and on a tiny LLaVA made
here."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image

from fgvr.datasets import toy
from fgvr.errors import FgvrError, RecordError
from fgvr.models import open_answerer
from fgvr.models.base import Ask
from fgvr.models.families import PARTS
from fgvr.models.vlm import Vlm, open_vlm


def birds(count: int, size: int = 96) -> list[Image.Image]:
    return [toy.draw(species.attributes, Random(i), size) for i, species in enumerate(toy.world(12, 5)[:count])]


@pytest.fixture(scope="module")
def idefics(toy_vlm: Path) -> Vlm:
    return open_vlm(str(toy_vlm), device="cpu")


@pytest.fixture(scope="module")
def llava_folder(toy_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA with the toy tokenizer: the real classes, saved and loaded as a user's would be."""
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(toy_vlm)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            pad_token_id=3,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = 3
    model.save_pretrained(folder)
    template = (
        "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}{% for c in m['content'] %}"
        "{{ '<image>\n' if c['type'] == 'image' else c['text'] + ' ' }}{% endfor %}{% endfor %}"
        "{{ 'ASSISTANT:' if add_generation_prompt else '' }}"
    )
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(llava_folder: Path) -> Vlm:
    return open_vlm(str(llava_folder), device="cpu")


@pytest.fixture(params=["idefics", "llava"])
def vlm(request: pytest.FixtureRequest) -> Vlm:
    return request.getfixturevalue(request.param)


def test_embedded_features_equal_the_models_own_pixel_path(vlm: Vlm) -> None:
    """connector output put into the prompt by us == pixel_values given to the model."""
    images = birds(2)
    prompts = [
        vlm.chat([(question, None)], True)
        for question in ("What is this?", "Describe the tail of the bird in this image.")
    ]
    inputs = vlm.processor(text=prompts, images=[[image] for image in images], padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = vlm.model(**inputs).logits
        embeds = vlm.embed(inputs["input_ids"], vlm.features(vlm.pixels(images)))
        found = vlm.model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
    real = inputs["attention_mask"].bool()
    assert torch.allclose(found[real], wanted[real], atol=1e-5)
    assert wanted[real].std() > 0.01


def test_a_wrong_number_of_image_tokens_is_an_error(vlm: Vlm) -> None:
    feature = vlm.features(vlm.pixels(birds(1)))[0]
    ids = torch.full((1, len(feature) + 3), vlm.image_token_id)
    with pytest.raises(FgvrError, match="image tokens"):
        vlm.embed(ids, [feature])


@pytest.mark.parametrize("pool", ["eos", "last", "mean"])
def test_pooled_texts_in_a_batch_equal_each_alone(vlm: Vlm, pool: str) -> None:
    """Padding changes nothing, and each pool is the position that it says."""
    texts = ["Salim Renfa", "The bill of the bird is red and its tail is forked.", "a"]
    together = vlm.texts(texts, pool)
    for text, found in zip(texts, together, strict=True):
        ids = torch.tensor([[*vlm.tokenizer(text).input_ids, vlm.tokenizer.eos_token_id]])
        with torch.no_grad():
            hidden = vlm.model.model(input_ids=ids).last_hidden_state[0]
        wanted = {"eos": hidden[-1], "last": hidden[-2], "mean": hidden[:-1].mean(0)}[pool]
        assert torch.allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("pool", ["eos", "last", "mean"])
def test_pooled_objects_equal_a_slow_pass(vlm: Vlm, pool: str) -> None:
    images = birds(3)
    found = vlm.objects(images, pool)
    for image, row in zip(images, found, strict=True):
        with torch.no_grad():
            feature = vlm.features(vlm.pixels([image]))[0]
            eos = vlm.model.get_input_embeddings()(torch.tensor([vlm.tokenizer.eos_token_id]))
            hidden = vlm.part("decoder")(inputs_embeds=torch.cat([feature, eos])[None]).last_hidden_state[0]
        wanted = {"eos": hidden[-1], "last": hidden[-2], "mean": hidden[:-1].mean(0)}[pool]
        assert torch.allclose(row, wanted, atol=2e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_images_of_all_shapes_share_a_batch(idefics: Vlm) -> None:
    images = [birds(1)[0].resize(size) for size in ((96, 40), (300, 200), (31, 97))]
    together = idefics.objects(images)
    for image, row in zip(images, together, strict=True):
        assert torch.allclose(idefics.objects([image])[0], row, atol=2e-5)


def test_shared_images_are_encoded_once_with_equal_replies(toy_vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = open_answerer(str(toy_vlm), device="cpu")
    images = birds(2)
    asks = [
        Ask("What bird is this?", images[0]),
        Ask("Describe the leg colour of the bird in this image.", images[0]),
        Ask("What bird is this?", images[1]),
        Ask("List colours."),
    ]
    encoded: list[int] = []
    inner = answerer.vlm.model.model
    features = inner.get_image_features
    monkeypatch.setattr(
        inner,
        "get_image_features",
        lambda pixel_values, *a, **k: encoded.append(len(pixel_values)) or features(pixel_values, *a, **k),
    )
    once = answerer.reply(asks, 8)
    assert sum(encoded) == 2
    answerer.vlm.parts = dataclasses.replace(PARTS["idefics2"], text_expands=False)
    assert answerer.reply(asks, 8) == once
    assert [answerer.reply([ask], 8)[0] for ask in asks] == once


def test_a_question_longer_than_the_context_is_refused(toy_vlm: Path) -> None:
    """It would take time that grows with its square, and bring nonsense."""
    answerer = open_answerer(str(toy_vlm), device="cpu")
    (image,) = birds(1)
    for ask in (Ask("x" * 5000, image), Ask("x" * 5000)):
        with pytest.raises(RecordError, match=r"prompt has 5\d\d\d tokens, this model's context 2048; shorten it"):
            answerer.reply([ask], 4)
    with pytest.raises(RecordError, match="shorten it"):
        answerer.letters([Ask("x" * 5000, image)], ["AB"])


def test_a_family_without_written_out_image_tokens_answers_too(llava_folder: Path) -> None:
    answerer = open_answerer(str(llava_folder), device="cpu")
    images = birds(2)
    together = answerer.reply([Ask("What is this?", images[0]), Ask("What is the colour of this thing?", images[1])], 5)
    assert together == [
        answerer.reply([Ask("What is this?", images[0])], 5)[0],
        answerer.reply([Ask("What is the colour of this thing?", images[1])], 5)[0],
    ]


def test_a_language_model_answers_text_and_refuses_images(toy_vlm: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(toy_vlm)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=900,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=3,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).save_pretrained(tmp_path)
    answerer = open_answerer(str(tmp_path), device="cpu")
    assert len(answerer.reply([Ask("Hello"), Ask("A longer question, please")], 4)) == 2
    with pytest.raises(FgvrError, match="cannot see images"):
        answerer.reply([Ask("Hello", birds(1)[0])], 4)


# --- models that cannot be opened ---


@pytest.fixture
def copied(toy_vlm: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_vlm, tmp_path / "model"))


def test_a_folder_without_weights(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(FgvrError, match="no weights"):
        open_vlm(str(copied))


def test_a_pickle_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(FgvrError, match="pickle"):
        open_vlm(str(copied))


def test_missing_weights_are_not_made_up(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    dropped = [name for name in weights if "layers.1." in name][:3]
    save_file(
        {k: v for k, v in weights.items() if k not in dropped}, copied / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(FgvrError, match="3 weights are missing"):
        open_vlm(str(copied))


def test_weights_of_another_shape(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 300
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(FgvrError, match="model"):
        open_vlm(str(copied))


def test_a_damaged_safetensors_file(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FgvrError):
        open_vlm(str(copied))


def test_a_processor_without_chat_template(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(FgvrError, match="chat template"):
        open_vlm(str(copied))


def test_an_adapter_of_another_model(idefics: Vlm, llava_folder: Path, toy_vlm: Path, tmp_path: Path) -> None:
    from fgvr.training.adapters import add_adapter
    from fgvr.training.trainer import save_adapter

    other = open_vlm(str(llava_folder), device="cpu")
    add_adapter(other, 2, 2, 0.0)
    save_adapter(other, tmp_path, {"command": "test"})
    with pytest.raises(FgvrError, match="another model"):
        open_vlm(str(toy_vlm), adapter=str(tmp_path))
    assert open_vlm(str(llava_folder), adapter=str(tmp_path)).peft is not None
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    with pytest.raises(FgvrError, match=r": size mismatch for \S+.*; copy it anew, or name its own model$"):
        open_vlm(str(llava_folder), adapter=str(tmp_path))


def test_a_file_that_may_not_be_read(toy_vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would call the model's type unknown."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "config.json" not in path and allowed(path, mode))
    with pytest.raises(FgvrError, match=r": config.json cannot be read; check its permissions$"):
        open_vlm(str(toy_vlm))
