"""An adapter into its base: the folder is a model of its own, whose output is that of base and adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fgvr import prompts
from fgvr.cli.group import cli
from fgvr.errors import FgvrError
from fgvr.models import loading
from fgvr.models.families import PARTS
from fgvr.models.vlm import IGNORE, Vlm, open_vlm
from fgvr.stages.merge import merge
from fgvr.training.adapters import add_adapter, go_on_training, trained
from fgvr.training.trainer import save_adapter
from tests import families, procs
from tests.test_families import images


def shaken(vlm: Vlm, seed: int = 0) -> Vlm:
    """With an adapter that has learnt something."""
    torch.manual_seed(seed)
    for parameter in trained(vlm).values():
        torch.nn.init.normal_(parameter, std=0.2)
    return vlm


def saved(vlm: Vlm, folder: Path, **about: str) -> str:
    folder.mkdir()
    save_adapter(vlm, folder, {"models": [{**vlm.about, **about}]})
    return str(folder)


def in_16_bits(base: str, folder: Path) -> str:
    vlm = open_vlm(base, device="cpu", dtype="bfloat16")
    folder.mkdir()
    vlm.save(folder)
    return str(folder)


def logits(
    model: Any, processor: Any, vlm: Vlm, question: str = "Which bird is this?", reply: str | None = None
) -> torch.Tensor:
    """Of a prompt with its image, through the model's own forward."""
    prompt = vlm.chat([(question, reply)], True)
    inputs = processor(text=[prompt], images=[images()[:1]], return_tensors="pt", **vlm.text_options(prompt))
    inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items() if k != "labels"}
    with torch.no_grad():
        return model(**inputs).logits


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def folder(kind: str) -> str:
        if kind not in made:
            made[kind] = str(families.build(kind, tmp_path_factory.mktemp(kind)))
        return made[kind]

    return folder


@pytest.fixture
def sample(tmp_path: Path) -> list[dict[str, Any]]:
    for number, image in enumerate(images()):
        image.save(tmp_path / f"{number}.png")
    choice = {"kind": "mcq", "question": "Which?", "options": ["Kite", "Wren"], "answer": "Wren", "answer_index": 1}
    return [
        {"id": "0", "image": "0.png", "category": "Kite", "superclass": "bird"},
        {"id": "1", "image": "1.png", "category": "Wren", "description": "The bill of the bird is red."},
        {"id": "2", "image": "2.png", **choice},
    ]


@pytest.mark.parametrize("kind", [kind for kind in PARTS if kind != "smolvlm"])
def test_a_merged_folder_is_a_model_of_its_own(kind: str, base: Callable[[str], str], tmp_path: Path) -> None:
    """Plain transformers loads it; its logits are those of base and adapter; its processor is the base's."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    vlm = open_vlm(base(kind), device="cpu")
    add_adapter(vlm, 3, 6, 0.0, dora=kind == "qwen3_vl")
    adapter = saved(shaken(vlm), tmp_path / "adapter")
    vlm.model.eval()
    wanted = logits(vlm.model, vlm.processor, vlm)
    merged, errors = merge(lambda: open_vlm(base(kind), adapter, "cpu"), "original", "original", torch.float32)
    assert errors == {}
    (tmp_path / "merged").mkdir()
    merged.save(tmp_path / "merged")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    assert (logits(model, processor, vlm) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    plain = open_vlm(base(kind), device="cpu")
    assert (logits(plain.model, processor, vlm) - wanted).abs().max() > 0.01 * wanted.abs().max()
    assert getattr(processor, "chat_template", None) == getattr(plain.processor, "chat_template", None)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert open_vlm(str(tmp_path / "merged"), device="cpu").peft is None


def test_an_adapter_trained_on_from_another_merges_as_one(base: Callable[[str], str], tmp_path: Path) -> None:
    """As tune's goes on from align's, of which it changes one part here."""
    first = open_vlm(base("llava"), device="cpu")
    add_adapter(first, 2, 2, 0.0)
    adapter = saved(shaken(first), tmp_path / "first")
    second = open_vlm(base("llava"), adapter, "cpu", trainable=True)
    go_on_training(second, "language-model")
    adapter = saved(shaken(second, seed=1), tmp_path / "second")
    second.model.eval()
    wanted = logits(second.model, second.processor, second)
    merged, _ = merge(lambda: open_vlm(base("llava"), adapter, "cpu"), "original", "original", torch.float32)
    assert (logits(merged.model, merged.processor, merged) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    first.model.eval()
    assert (logits(first.model, first.processor, first) - wanted).abs().max() > 0.01 * wanted.abs().max()


def test_weights_keep_the_precision_of_the_base(base: Callable[[str], str], tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    half = in_16_bits(base("idefics2"), tmp_path / "half")
    assert loading.own_dtype(half) == torch.bfloat16 and loading.own_dtype(base("idefics2")) == torch.float32
    vlm = open_vlm(half, device="cpu")
    add_adapter(vlm, 2, 2, 0.0)
    adapter = saved(shaken(vlm), tmp_path / "adapter")
    merged, _ = merge(lambda: open_vlm(half, adapter, "cpu"), "original", "original", torch.bfloat16)
    merged.save(tmp_path / "half")
    stored = AutoModelForImageTextToText.from_pretrained(half)
    assert {p.dtype for p in stored.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(("kind", "compute"), [
    ("idefics2", "float32"), ("llava", "float32"), ("llava", "bfloat16"), ("qwen2_5_vl", "float32"),
])  # fmt: skip
def test_the_error_is_that_of_the_folder(
    kind: str, compute: str, base: Callable[[str], str], tmp_path: Path, sample: list[dict[str, Any]]
) -> None:
    """Of a base in bfloat16: what the folder does not hold, such as RoPE's frequencies, is not rounded with it."""
    half = in_16_bits(base(kind), tmp_path / "half")
    vlm = open_vlm(half, device="cpu", dtype=compute)
    add_adapter(vlm, 2, 2, 0.0)
    adapter = saved(shaken(vlm), tmp_path / "adapter")
    record = {**sample[0], "description": " ".join([sample[1]["description"]] * 40)}
    question, reply = prompts.describe("bird"), record["description"]
    merged, errors = merge(
        lambda: open_vlm(half, adapter, "cpu", dtype=compute), "original", "original", torch.bfloat16, [record],
        tmp_path,
    )  # fmt: skip
    (tmp_path / "merged").mkdir()
    merged.save(tmp_path / "merged")

    def scored(vlm: Vlm) -> torch.Tensor:
        learnt = sum(label != IGNORE for label in vlm.encode(question, reply, vlm.sight(features))[1])
        return logits(vlm.model, vlm.processor, vlm, question, reply)[0, -learnt - 1 : -1].double()

    apart = open_vlm(half, adapter, "cpu", dtype=compute)
    with torch.no_grad():
        features = apart.features(apart.pixels(images()[:1]))[0]
    y, folder = scored(apart), scored(open_vlm(str(tmp_path / "merged"), device="cpu", dtype=compute))
    assert len(y) > 300
    assert errors["original"] == pytest.approx(float((folder - y).norm() / y.norm()), rel=1e-4)
    assert 1e-3 < errors["original"] < 0.1


def test_an_adapter_of_4_bits(base: Callable[[str], str], tmp_path: Path, sample: list[dict[str, Any]]) -> None:
    """It is at home on the dequantised base: the error there is rounding, on the original it is NF4's."""
    vlm = open_vlm(base("qwen2_5_vl"), device="cpu", quantise="nf4")
    add_adapter(vlm, 2, 2, 0.0)
    adapter = saved(shaken(vlm), tmp_path / "adapter")
    vlm.model.eval()
    wanted = logits(vlm.model, vlm.processor, vlm)
    errors = {}
    for kind in ("original", "dequantised"):
        merged, errors = merge(
            lambda: open_vlm(base("qwen2_5_vl"), adapter, "cpu"), "dequantised", kind, torch.float32, sample, tmp_path
        )
        assert errors["dequantised"] < 1e-5 and 0.01 < errors["original"] < 1
    assert (logits(merged.model, merged.processor, merged) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    off = logits(open_vlm(base("qwen2_5_vl"), adapter, "cpu").model, merged.processor, merged) - wanted
    assert off.abs().max() > 0.01 * wanted.abs().max()


def test_the_command(base: Callable[[str], str], tmp_path: Path, sample: list[dict[str, Any]]) -> None:
    """It says which base and how far off; whole or not at all; --resume of what is there does nothing."""
    vlm = open_vlm(base("llava"), device="cpu")
    add_adapter(vlm, 2, 2, 0.0)
    adapter = saved(shaken(vlm), tmp_path / "adapter", quantised="nf4")
    records = procs.write_jsonl(tmp_path / "sample.jsonl", sample)
    argv = ["merge", "--model", base("llava"), "--adapter", adapter, "-o", str(tmp_path / "merged"), "--device", "cpu"]
    full = [*argv, "--image-root", str(tmp_path), str(records)]
    ended = CliRunner().invoke(cli, full)
    assert ended.exit_code == 0 and ended.stdout == ""
    lines = ended.stderr.splitlines()
    ends = ["of the original base", "merged into the dequantised base"]
    assert [line.split(", ")[-1] for line in lines] == ends
    assert all("relative output error on 3 records: " in line for line in lines)
    record = json.loads((tmp_path / "merged.run.json").read_text())
    assert record["summary"]["base"] == "dequantised"
    assert record["summary"]["output_error"]["dequantised"] < 1e-5 < record["summary"]["output_error"]["original"]
    assert {entry["name"] for entry in record["inputs"]} == {"adapter", "sample.jsonl"}
    before = (tmp_path / "merged" / "model.safetensors").stat().st_mtime_ns
    again = CliRunner().invoke(cli, [*full, "--resume"])
    assert (again.exit_code, again.stderr) == (0, "")
    assert (tmp_path / "merged" / "model.safetensors").stat().st_mtime_ns == before
    for base_given, merged_into in ((["--base", "original"], "original"), ([], "dequantised")):
        plain = CliRunner().invoke(cli, [*argv, *base_given])
        assert (plain.exit_code, plain.stdout) == (0, "")
        assert [line.split(": ", 1)[1] for line in plain.stderr.splitlines()] == [f"merged into the {merged_into} base"]
    missing = CliRunner().invoke(cli, [*argv, str(records)])
    assert "sample records have images; give --image-root" in str(missing.exception)


def test_what_training_leaves_for_merge(
    base: Callable[[str], str], tmp_path: Path, sample: list[dict[str, Any]]
) -> None:
    """--train full leaves a model, with the tower as it was; --quantise nf4 an adapter that names its base so."""
    source = procs.write_jsonl(tmp_path / "questions.jsonl", [
        {"id": r["id"], "image": r["image"], "kind": "open", "question": "Which?", "answer": "Wren"} for r in sample
    ])  # fmt: skip
    options = ["--device", "cpu", *["--batch-size", "2", "--epochs", "2", "--lr", "0.01", "--warmup-steps", "0"]]

    def tuned(*more: str) -> str:
        out = tmp_path / "-".join(more).strip("-")
        argv = ["tune", "--model", base("llava"), "--image-root", str(tmp_path), *options, *more, "-o", str(out)]
        ended = CliRunner().invoke(cli, [*argv, str(source)])
        assert (ended.exit_code, ended.exception) == (0, None)
        losses = [entry["loss"] for entry in procs.read_jsonl(out / "log.jsonl")]
        assert len(losses) == 4 and losses[-1] < losses[0]
        return str(out)

    whole, plain = open_vlm(tuned("--train", "full"), device="cpu"), open_vlm(base("llava"), device="cpu")
    moved = {n for (n, a), b in zip(whole.model.named_parameters(), plain.model.parameters(), strict=True)
             if not torch.equal(a, b)}  # fmt: skip
    assert moved and not any(name.startswith("model.vision_tower.") for name in moved)
    assert {name.split(".")[1] for name in moved} >= {"multi_modal_projector", "language_model"}
    adapter = tuned("--quantise", "nf4", "--gradient-checkpointing")
    assert loading.trained_on(adapter)["quantised"] == "nf4"
    out = str(tmp_path / "merged")
    ended = CliRunner().invoke(cli, ["merge", "--model", base("llava"), "--adapter", adapter, "-o", out])
    assert ended.exit_code == 0
    assert json.loads(Path(f"{out}.run.json").read_text())["summary"]["base"] == "dequantised"


# --- adapters that do not belong ---


def test_an_adapter_of_another_base_names_both(base: Callable[[str], str], tmp_path: Path) -> None:
    """Also where every shape fits: the weights are told apart by their digest."""
    vlm = open_vlm(base("llava"), device="cpu")
    add_adapter(vlm, 2, 2, 0.0)
    adapter = saved(vlm, tmp_path / "adapter")
    other = families.build("llava", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config))  # the same model, yet not the same folder
    name = Path(base("llava")).name
    with pytest.raises(FgvrError, match=rf"on another model, '{name}' \(\w{{8}}\), not on 'other' \(\w{{8}}\)"):
        open_vlm(str(other), adapter, "cpu")
    foreign = saved(vlm, tmp_path / "foreign", sha256="", name="org/llava-7b")
    with pytest.raises(FgvrError, match=r"trained on another model, 'org/llava-7b', not on 'llava"):
        open_vlm(base("llava"), foreign, "cpu")
    same = saved(vlm, tmp_path / "same", sha256="", name=f"org/{name}")
    assert open_vlm(base("llava"), same, "cpu").peft is not None


def test_a_damaged_adapter(base: Callable[[str], str], tmp_path: Path) -> None:
    vlm = open_vlm(base("llava"), device="cpu")
    add_adapter(vlm, 2, 2, 0.0)
    adapter = Path(saved(vlm, tmp_path / "adapter"))
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(FgvrError, match=r"adapter: cannot be read \(.*\); copy it anew"):
        open_vlm(base("llava"), str(adapter), "cpu")
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(FgvrError, match=r"has no adapter_config.json"):
        open_vlm(base("llava"), str(adapter), "cpu")


def test_weights_that_are_no_numbers_are_refused(base: Callable[[str], str], tmp_path: Path) -> None:
    vlm = open_vlm(base("llava"), device="cpu")
    add_adapter(vlm, 2, 2, 0.0)
    broken = next(weight for name, weight in vlm.model.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        broken[0, 0] = float("nan")
    adapter = saved(vlm, tmp_path / "adapter")
    with pytest.raises(FgvrError, match=r"adapter: .*lora_B.* holds NaN or infinity"):
        open_vlm(base("llava"), adapter, "cpu")


@pytest.mark.parametrize(("fields", "why"), [
    ({"image": "nope.png"}, "^1: cannot read image 'nope.png'"), ({"description": 5}, "^1: 'description' must be text"),
    ({"description": None}, "^1: record has no 'category'"), ({"description": "<image>"}, "^1: .*<image>"),
])  # fmt: skip
def test_a_faulty_sample_is_named(
    base: Callable[[str], str], tmp_path: Path, sample: list[dict[str, Any]], fields: dict[str, Any], why: str
) -> None:
    record = {**sample[1], **fields}
    if "None" in str(fields):
        del record["category"]
    with pytest.raises(FgvrError, match=why):
        merge(lambda: open_vlm(base("llava"), device="cpu"), "original", "original", torch.float32, [record], tmp_path)
