"""assemble: both parts work inside as they did alone, and plain transformers opens the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fgvr.cli.group import cli
from fgvr.models import open_answerer
from fgvr.models.base import Ask
from tests import families

CHATML = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def tower(kind: str, folder: Path) -> Path:
    import transformers as t

    torch.manual_seed(1)
    vision = {**families.VISION, "image_size": families.SIZE, "patch_size": families.PATCH}
    name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    text = {**families.VISION, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(t, f"{name}Config")(vision_config=vision, text_config=text)
    getattr(t, f"{name}Model")(config).save_pretrained(folder)
    pixels = t.SiglipImageProcessor(**families.SQUARE) if kind == "siglip" else t.CLIPImageProcessor(
        size={"shortest_edge": families.SIZE}, crop_size=families.SQUARE["size"])  # fmt: skip
    pixels.save_pretrained(folder)
    return folder


def speaker(kind: str, folder: Path, template: str | None, **more: Any) -> Path:
    import transformers as t

    torch.manual_seed(2)
    tokens = families.tokenizer()
    config = t.AutoConfig.for_model(kind, **families.text(tokens, **more))
    t.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokens.chat_template = template
    tokens.save_pretrained(folder)
    return folder


def assemble(tmp_path: Path, *options: str) -> Any:
    argv = ["assemble", "--vision", str(tmp_path / "v"), "--llm", str(tmp_path / "l"), "-o", str(tmp_path / "m")]
    return CliRunner().invoke(cli, [*argv, *options])


@pytest.mark.parametrize(
    ("vision", "llm", "template", "more"),
    [("clip", "llama", None, {}), ("siglip", "qwen2", CHATML, {"tie_word_embeddings": True}),
     ("clip", "mistral", CHATML, {})],
)  # fmt: skip
def test_the_parts_work_as_before(vision: str, llm: str, template: str | None, more: dict, tmp_path: Path) -> None:
    import transformers as t

    tower(vision, tmp_path / "v")
    speaker(llm, tmp_path / "l", template, **more)
    done = assemble(tmp_path)
    assert done.exit_code == 0, (done.output, done.exception)
    model: Any = t.AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    processor: Any = t.AutoProcessor.from_pretrained(tmp_path / "m")
    alone: Any = t.AutoModelForCausalLM.from_pretrained(tmp_path / "l")
    ids = torch.tensor([[5, 6, 7, 8]])
    sees = {"clip": t.CLIPVisionModel, "siglip": t.SiglipVisionModel}[vision].from_pretrained(tmp_path / "v")
    image = Image.new("RGB", (40, 30), (200, 30, 30))
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which bird?"}]}]
    written = processor.apply_chat_template(asked, add_generation_prompt=True)
    assert written == ("USER: <image>\nWhich bird? ASSISTANT:" if template is None else
                       "<s>user\n<image>\nWhich bird?</s>\n<s>assistant\n")  # fmt: skip
    inputs = processor(text=[written], images=[image], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == (families.SIZE // families.PATCH) ** 2
    with torch.no_grad():
        words = alone.config.vocab_size
        assert torch.allclose(model(input_ids=ids).logits[..., :words], alone(input_ids=ids).logits, atol=1e-5)
        before = sees(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
        within = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
        assert torch.allclose(before, within, atol=1e-5)
        assert model(**inputs).logits.isfinite().all()
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == bool(more)
    answerer: Any = open_answerer(str(tmp_path / "m"), device="cpu")
    assert isinstance(answerer.converse([Ask("Name?", image)], ["Colours?"], 3, 3)[0][1], str)
    assert json.loads((tmp_path / "m.run.json").read_text())["settings"]["connector"] == "mlp2x"


def test_equal_runs_and_other_seeds(tmp_path: Path) -> None:
    tower("clip", tmp_path / "v")
    speaker("llama", tmp_path / "l", None)
    assert assemble(tmp_path).exit_code == 0
    weights = tmp_path / "m/model.safetensors"
    first = weights.read_bytes()
    assert assemble(tmp_path).exit_code == 0 and weights.read_bytes() == first
    assert assemble(tmp_path, "--seed", "1").exit_code == 0 and weights.read_bytes() != first


@pytest.mark.parametrize(("train", "kept"), [("full", "model.safetensors"), ("connector", "adapter_model.safetensors")])
def test_a_connector_is_pretrained_on_captions(train: str, kept: str, tmp_path: Path) -> None:
    """Its weights themselves, or an adapter; of the rest not one weight moves, though it might."""
    from safetensors.torch import load_file

    from tests.procs import read_jsonl, write_jsonl

    tower("clip", tmp_path / "v")
    speaker("llama", tmp_path / "l", None)
    assert assemble(tmp_path).exit_code == 0
    records = []
    for n, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (30, 30), colour).save(tmp_path / f"{n}.png")
        caption = {"kind": "caption", "question": "Describe the bird.", "answer": f"A {colour} bird.", "options": None}
        records.append({"id": str(n), "image": f"{n}.png", **caption})
    turns = [{"question": "Colour?", "answer": "White."}, {"question": "Sure?", "answer": "Yes."}]
    records.append({"id": "5", "image": "3.png", "kind": "dialogue", "turns": turns})
    words = f"--train {train} --connector-warmup 1 --batch-size 2 --epochs 8 --lr 0.02 --warmup-steps 1 --dropout 0"
    argv = ["tune", "--model", str(tmp_path / "m"), "--image-root", str(tmp_path), "-o", str(tmp_path / "p")]
    argv += ["--vision-cache", str(tmp_path / "kept"), *words.split(), str(write_jsonl(tmp_path / "in.jsonl", records))]
    done = CliRunner().invoke(cli, argv)
    assert done.exit_code == 0, (done.output, done.exception)
    losses = [entry["loss"] for entry in read_jsonl(tmp_path / "p" / "log.jsonl")]
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.05
    after = load_file(tmp_path / "p" / kept)
    before = load_file(tmp_path / "m" / "model.safetensors") if train == "full" else {}
    moved = {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}
    assert moved and all("multi_modal_projector" in name for name in moved)


@pytest.mark.parametrize(
    ("swap", "options", "words"),
    [
        (True, (), "is no CLIP or SigLIP"),
        (False, ("--feature-layer", "-9"), "has 2 layers, none of them -9"),
    ],
)
def test_what_does_not_fit(swap: bool, options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    speaker("llama", tmp_path / "l", None)
    speaker("llama", tmp_path / "v", None) if swap else tower("clip", tmp_path / "v")
    done = assemble(tmp_path, *options)
    assert done.exit_code != 0 and words in str(done.exception)


def test_a_language_model_that_caps_its_logits(tmp_path: Path) -> None:
    """Gemma 2 bends its logits after the output layer, which LLaVA's architecture would leave out."""
    tower("clip", tmp_path / "v")
    speaker("gemma2", tmp_path / "l", None, final_logit_softcapping=0.01, query_pre_attn_scalar=8)
    done = assemble(tmp_path)
    assert "changes its logits" in str(done.exception)
