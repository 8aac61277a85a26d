"""transformers encoders: tiny random models of the real classes, opened from folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional as F

from fgvr.errors import FgvrError
from fgvr.models import loading, open_encoder
from fgvr.models.encoders import TransformersEncoder, parts

SEEN = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SEEN |= {"intermediate_size": 48}
READ = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
READ |= {"vocab_size": 60, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
FAMILIES = {
    "CLIP": (transformers.CLIPConfig, {"vision_config": SEEN, "text_config": READ, "projection_dim": 24}),
    "Siglip": (transformers.SiglipConfig, {"vision_config": SEEN, "text_config": READ}),
    "Dinov2": (transformers.Dinov2Config, {**{k: v for k, v in SEEN.items() if k != "intermediate_size"}}),
}


def tokenizer(folder: Path) -> None:
    """A word-level tokenizer with the specials of CLIP."""
    words = ["<s>", "</s>", "<pad>", "<unk>", "an", "image", "of", "a", "red", "kite"]
    inner = {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": "<unk>"}
    specials = {"<s>": 0, "</s>": 1}
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}}]  # fmt: skip
    post = {"type": "TemplateProcessing", "single": template, "pair": template,
            "special_tokens": {w: {"id": w, "ids": [n], "tokens": [w]} for w, n in specials.items()}}  # fmt: skip
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": {"type": "Whitespace"}, "post_processor": post, "decoder": None,
             "model": inner}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    config, values = FAMILIES[request.param]
    torch.manual_seed(0)
    model = getattr(transformers, f"{request.param}Model")(config(**values))
    model.save_pretrained(path)
    size = {"height": 16, "width": 16}
    kind = {"Dinov2": "Bit"}.get(request.param, request.param)
    scaled = size if kind == "Siglip" else {"shortest_edge": 16}
    getattr(transformers, f"{kind}ImageProcessor")(size=scaled, crop_size=size).save_pretrained(path)
    if request.param != "Dinov2":
        tokenizer(path)
    return path


def pictures() -> list[Image.Image]:
    return [Image.effect_mandelbrot((40, 24), (-2, -1, 1, 1 + n), 40).convert("RGB") for n in range(3)]


def test_features_are_the_models_own(folder: Path) -> None:
    """A folder opens by its config; rows of length 1, as the model itself gives them, whole or in parts."""
    encoder: Any = open_encoder(str(folder), device="cpu")
    assert isinstance(encoder, TransformersEncoder) and encoder.size == 16
    assert set(encoder.about) == {"name", "sha256", "dtype"}
    pixels = encoder.processor(pictures(), return_tensors="pt")["pixel_values"]
    model = encoder.model
    with torch.no_grad():
        if folder.name.startswith("Dinov2"):
            want = model(pixels).last_hidden_state[:, 0]
        else:
            want = model.vision_model(pixels).pooler_output
            want = model.visual_projection(want) if folder.name.startswith("CLIP") else want
    found = encoder.images(pictures())
    assert torch.allclose(found, F.normalize(want, dim=1), atol=1e-5)
    apart = parts(encoder)
    assert torch.allclose(apart.encode([apart.prepare(image) for image in pictures()]), found, atol=1e-5)
    assert apart.size == 32


def test_texts(folder: Path) -> None:
    encoder = open_encoder(f"hf:{folder}", device="cpu")
    if folder.name.startswith("Dinov2"):
        with pytest.raises(FgvrError, match="reads no texts; use --by image"):
            encoder.texts(["a"])
        return
    together = encoder.texts(["an image of a red kite", "kite"])
    assert torch.allclose(together.norm(dim=1), torch.ones(2)) and not torch.allclose(together[0], together[1])
    assert torch.allclose(together[1], encoder.texts(["kite"])[0], atol=1e-5), "padding changes nothing"
    assert encoder.texts(["kite " * 50]).shape == together[:1].shape, "long texts are cut"


def test_a_folder_without_weights_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(FgvrError, match="no weights"):
        open_encoder(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("clip:ViT-L-99/x", "open_clip knows no 'ViT-L-99'; did you mean ViT-L-"),
        ("clip:ViT-L-14/x", "ViT-L-14 has no weights 'x'; there are openai, "),
        ("clip:ViT-L-14/openai", "; copy it here and name its folder, or fill HF_HOME"),
        ("hf:org/none", "; copy it here and name its folder, or fill HF_HOME"),
    ],
)
def test_a_name_that_cannot_be_opened_is_one_short_line(spec: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FgvrError) as found:
        open_encoder(spec, device="cpu")
    assert said in str(found.value) and len(str(found.value)) < 400
    assert "\n" not in str(found.value) and not caplog.records


def test_without_an_address_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library would try each file six times."""
    from huggingface_hub import constants

    def nowhere(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading, "getproxies", lambda: {})
    monkeypatch.setattr(loading.socket, "getaddrinfo", nowhere)
    loading.no_network.cache_clear()
    assert loading.no_network() and constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading, "getproxies", lambda: {"https": "proxy:8080"})
    loading.no_network.cache_clear()
    assert not loading.no_network() and not constants.HF_HUB_OFFLINE
    loading.no_network.cache_clear()
