"""The training loop of align and tune on a tiny Idefics2: gradients of micro-batches and of several processes are the
batch's, whatever stops a run leaves it sound, and what is kept of the vision tower changes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image

from fgvr import losses, signals
from fgvr.cli import training
from fgvr.errors import FgvrError, RecordError, Stopped, UsageError
from fgvr.models.vlm import Vlm, open_vlm
from fgvr.names import Aliases
from fgvr.stages import align, tune
from fgvr.training import gradcache, ranks, trainer, vision
from fgvr.training.adapters import add_adapter
from fgvr.training.adapters import trained as trained_by
from fgvr.training.ranks import Ranks
from fgvr.training.reports import Reports
from fgvr.training.trainer import Recipe, train
from fgvr.training.vision import Vision
from tests import families, procs, triples

QUANTISED = "__bnb_optimizer_quant_state__"  # bitsandbytes' states in a checkpoint
RECIPE = Recipe(
    batch_size=6, epochs=2, lr=0.01, warmup_steps=1, weight_decay=0.01, max_grad_norm=1.0, save_steps=2, seed=0
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict], Path]:
    """A folder with images and a tiny model, and mined triples of six species."""
    root = tmp_path_factory.mktemp("world")
    return root, triples.drawn(root), families.build("idefics2", root / "model")


def opened(world: tuple[Path, list[dict], Path], dropout: float = 0.0) -> Vlm:
    """The model with an adapter that already does something."""
    torch.manual_seed(3)
    vlm = open_vlm(str(world[2]), device="cpu")
    add_adapter(vlm, rank=4, alpha=8, dropout=dropout)
    with torch.no_grad():
        for name, p in vlm.model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.05)
    vlm.model.train()
    return vlm


@pytest.fixture
def vlm(world: tuple[Path, list[dict], Path]) -> Vlm:
    return opened(world)


def gradient(vlm: Vlm, loss: Any, records: list[dict], now: gradcache.Step) -> tuple[dict[str, float], torch.Tensor]:
    """The log's numbers and the gradient of one step."""
    vlm.model.zero_grad()
    told: dict[str, float] = {}
    for value, parts in loss(records, now):
        value.backward()
        for name, part in parts.items():
            told[name] = told.get(name, 0.0) + float(part)
    return told, torch.cat([p.grad.flatten() for p in vlm.model.parameters() if p.grad is not None])


def aligning(vlm: Vlm, world: tuple[Path, list[dict], Path], **more: Any) -> Any:
    return align.objective(vlm, world[0] / "images", "paper", more.pop("temperature", 0.2), "mean", **more)


def now(micro_batch: int | None = None, seed: int = 0) -> gradcache.Step:
    return gradcache.Step(seed, "step 1", micro_batch)


# --- gradients ---


@pytest.mark.parametrize("micro_batch", [1, 2, 5])
@pytest.mark.parametrize(
    ("pairs", "form", "reduction"),
    [("attribute", "paper", "mean"), ("object-category", "paper", "sum"), ("attribute", "released", "mean")],
)
def test_cached_gradient_is_the_batchs(
    vlm: Vlm, world: Any, micro_batch: int, pairs: str, form: str, reduction: str
) -> None:
    loss = align.objective(vlm, world[0] / "images", form, 0.2, reduction, pairs=pairs)
    want, whole = gradient(vlm, loss, world[1][:7], now())
    told, cached = gradient(vlm, loss, world[1][:7], now(micro_batch))
    assert told == pytest.approx(want, abs=1e-5) and set(told) > {"loss", "generation", "ccc", "tokens"}
    assert torch.allclose(cached, whole, atol=1e-5) and whole.abs().max() > 1e-2


def test_cached_gradient_with_dropout_is_that_of_one_graph(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk drops the same in both passes."""
    vlm = opened(world, dropout=0.3)
    loss = aligning(vlm, world)
    _, cached = gradient(vlm, loss, world[1][:7], now(2))
    _, other = gradient(vlm, loss, world[1][:7], now(2, seed=1))
    with monkeypatch.context() as patch:
        patch.setattr(align, "cached", gradcache.whole)
        _, whole = gradient(vlm, loss, world[1][:7], now(2))
    assert torch.allclose(cached, whole, atol=1e-5) and not torch.allclose(other, whole, atol=1e-3)
    monkeypatch.setattr(gradcache.Step, "draw", lambda *_: None)
    assert not torch.allclose(gradient(vlm, loss, world[1][:7], now(2))[1], whole, atol=1e-3), "no dropout is seen"


def test_the_last_short_batch_takes_no_more_memory(vlm: Vlm, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all other batches in micro-batches, it is not one graph, though its records are no more than one of them."""
    whole = gradcache.whole
    monkeypatch.setattr(align, "whole", lambda *_: pytest.fail("one graph"))
    short = dataclasses.replace(now(2), batch=6)
    found = gradient(vlm, aligning(vlm, world), world[1][:2], short)[1]
    monkeypatch.setattr(align, "whole", whole)
    for steps in (now(2), dataclasses.replace(now(), batch=6)):
        monkeypatch.setattr(align, "cached", lambda *_: pytest.fail("a cache"))
        assert torch.allclose(gradient(vlm, aligning(vlm, world), world[1][:2], steps)[1], found, atol=1e-5)


def test_another_gpu_than_the_first_is_refused(vlm: Vlm, world: Any, tmp_path: Path) -> None:
    vlm.device = torch.device("cuda:1")
    with pytest.raises(UsageError, match=r"^--device cuda:1 cannot train; set CUDA_VISIBLE_DEVICES=1, and leave it"):
        train(vlm, world[1], aligning(vlm, world), RECIPE, tmp_path, lambda *_: None, False)


def test_each_text_of_a_batch_is_encoded_once(vlm: Vlm, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    pool = vlm.pool_texts
    monkeypatch.setattr(vlm, "pool_texts", lambda texts, kind: seen.extend(texts) or pool(texts, kind))
    told, _ = gradient(vlm, aligning(vlm, world), world[1][:7], now())
    records = world[1][:7]
    every = [*records, *(n for r in records for n in r["negatives"])]
    assert len(seen) == len(set(seen)) == told["texts"]
    assert set(seen) - {""} == {one[k] for one in every for k in ("category", "description")}


def test_buckets_pad_little_and_hold_all() -> None:
    lengths = [3, 40, 5, 41, 4, 3, 90]
    groups = gradcache.buckets(lengths, 82)
    assert sorted(n for group in groups for n in group) == list(range(7))
    assert groups[:2] == [[6], [3, 1]] and groups[2] == [2, 4, 0, 5]
    assert all(len(g) == 1 or len(g) * max(lengths[n] for n in g) <= 82 for g in groups)


@pytest.mark.parametrize("seed", range(40))
def test_alike_sequences_cost_least(seed: int) -> None:
    """Of all ways to cut them, sorted, into groups."""
    draw = Random(seed)
    lengths, size = [draw.randint(1, 900) for _ in range(draw.randint(1, 7))], draw.randint(1, 7)

    def cost(groups: list[list[int]]) -> int:
        return sum(len(group) * max(lengths[n] for n in group) + gradcache.CALL for group in groups)

    groups = gradcache.alike(lengths, size)
    assert sorted(n for group in groups for n in group) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda n: -lengths[n])
    least = math.inf
    for cuts in itertools.product([False, True], repeat=len(order) - 1):
        ends = [n for n, cut in enumerate(cuts, 1) if cut] + [len(order)]
        parts = [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        least = cost(parts) if max(map(len, parts)) <= size and cost(parts) < least else least
    assert cost(groups) == least and max(map(len, groups)) <= size


def test_long_and_short_replies_are_worked_on_apart(vlm: Vlm, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their gradient is that of one padded batch."""
    asked = [{**r, "kind": "open", "question": "Which?", "answer": r["category"]} for r in world[1][:4]]
    for record in asked[::2]:
        record["answer"] = " ".join([record["description"]] * 12)
    seen: list[tuple[int, ...]] = []
    hidden = vlm.hidden
    monkeypatch.setattr(vlm, "hidden", lambda ids, *more: seen.append(tuple(ids.shape)) or hidden(ids, *more))
    loss = tune.objective(vlm, world[0] / "images")
    told, apart = gradient(vlm, loss, asked, now())
    monkeypatch.setattr(tune, "alike", lambda lengths, size: [list(range(len(lengths)))])
    want, whole = gradient(vlm, loss, asked, now())
    assert [rows for rows, _ in seen] == [2, 2, 4] and seen[0][1] == seen[2][1] > 3 * seen[1][1]
    assert told == pytest.approx(want, abs=1e-5) and torch.allclose(apart, whole, atol=1e-5)


def test_replies_that_the_image_leaves_no_room_for(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut is not counted: each labelled token of the batch has the same weight; what cannot be cut is found
    before training."""
    vlm = open_vlm(str(families.build("llava", tmp_path / "model")), device="cpu")
    add_adapter(vlm, rank=4, alpha=8, dropout=0.0)
    sight = Vision(vlm, world[0] / "images")
    first = {**world[1][0], "kind": "open", "question": "Which?", "answer": "A bird. " * 12}
    second = {**world[1][1], "kind": "open", "question": "Which?", "answer": "Bird."}
    whole = len(tune.lessons(vlm, tune.talk(first))[0].encode(vlm, 1)[0])
    monkeypatch.setattr(vlm.writer, "context", whole + 4)  # the text has room, with the image it has not
    told, found = gradient(vlm, tune.objective(vlm, sight.root, vision=sight), [first, second], now())
    assert vlm.writer.cut == {first["answer"]}
    features = sight.features([r["image"] for r in (first, second)])
    vlm.model.zero_grad()
    loss = tune.reply_loss(vlm, [tune.talk(first), tune.talk(second)], features)
    loss.backward()
    want = torch.cat([p.grad.flatten() for p in vlm.model.parameters() if p.grad is not None])
    assert told["loss"] == pytest.approx(loss.item(), abs=1e-5) and torch.allclose(found, want, atol=1e-5)
    labels = [tune.talk(r).encode(vlm, sight.sight(r["image"]))[1] for r in (first, second)]
    assert told["tokens"] == sum(label >= 0 for row in labels for label in row) < whole
    tune.fits(sight, first)
    with pytest.raises(RecordError, match="even its first sentence"):
        tune.fits(sight, {**first, "answer": "A bird " * 24})
    described = {**world[1][0], "description": first["answer"]}
    share, _ = gradient(vlm, aligning(vlm, world, vision=sight), [described, world[1][1]], now())
    assert share["tokens"] < told["tokens"] + 40


# --- what is contrasted ---


def test_false_negatives_are_masked_in_batch_and_negatives(vlm: Vlm, world: Any) -> None:
    """An alias makes rows one category, and takes a hard negative of that category out of every term."""
    records = [world[1][0], world[1][4]]
    records[0] = {**records[0], "negatives": [{"category": records[1]["category"], "description": "x"}]}
    plain, alias = Aliases(), Aliases([[r["category"] for r in records]])
    torch.manual_seed(0)
    for pairs in ("attribute", "object-category"):
        batch, masked = align.Batch(records, plain, pairs), align.Batch(records, alias, pairs)
        assert batch.true[0].tolist() == [True, *batch.mask[0].tolist()[1:]] and not masked.true[0].any()
        embedded = torch.randn(2 + len(batch.texts), 8)
        before, after = (b.terms(embedded, "paper", 0.5, "sum") for b in (batch, masked))
        assert all(after[name] < before[name] for name in before)
        released = [b.terms(embedded, "released", 0.5, "mean") for b in (batch, masked)]
        assert released[0] == released[1], "the released form masks nothing"


def test_simple_negatives_are_drawn_by_id_from_other_categories(world: Any) -> None:
    records = world[1]
    drawn = align.with_negatives(records, "simple", 0, Aliases())
    for record, made in zip(records, drawn, strict=True):
        assert len(made["negatives"]) == len(record["negatives"]) == len({n["id"] for n in made["negatives"]})
        assert record["category"] not in {n["category"] for n in made["negatives"]}
    again = align.with_negatives(records[::-1], "simple", 0, Aliases())
    assert again[::-1] == drawn and align.with_negatives(records, "simple", 1, Aliases()) != drawn
    bare = align.with_negatives(records, "none", 0, Aliases())
    assert all(r["negatives"] == [] for r in bare)
    assert align.with_negatives([records[0], *bare[1:]], "hard", 0, Aliases()) == [records[0], *bare[1:]]
    with pytest.raises(FgvrError, match=r"^no triple has a negative; run `fgvr mine-negatives` again, or give --neg"):
        align.with_negatives(bare, "hard", 0, Aliases())
    one = Aliases([[r["category"] for r in records]])
    with pytest.raises(FgvrError, match="other categories"):
        align.with_negatives(records, "simple", 0, one)


def test_no_negatives_leave_the_batch(vlm: Vlm, world: Any) -> None:
    records = align.with_negatives(world[1][:5], "none", 0, Aliases())
    told, found = gradient(vlm, aligning(vlm, world), records, now())
    assert told["ccc"] == 0 and told["oac"] > 0 and found.isfinite().all()


def test_weights_and_a_learnt_temperature(vlm: Vlm, world: Any) -> None:
    plain, _ = gradient(vlm, aligning(vlm, world), world[1][:5], now(2))
    weights = losses.Weights(generation=0.0, oac=2.0, acc=0.25, ccc=0.0)
    learnt = losses.Temperature(0.2)
    told, _ = gradient(vlm, aligning(vlm, world, weights=weights, temperature=learnt), world[1][:5], now(2))
    assert "generation" not in told and told["temperature"] == pytest.approx(0.2)
    assert told["loss"] == pytest.approx(2 * plain["oac"] + 0.25 * plain["acc"], abs=1e-5)
    up, down = (
        gradient(vlm, aligning(vlm, world, weights=weights, temperature=0.2 * math.exp(h)), world[1][:5], now())[0]
        for h in (1e-2, -1e-2)
    )
    assert learnt.log.grad.item() == pytest.approx((up["loss"] - down["loss"]) / 2e-2, rel=1e-2)
    learnt.log.data.fill_(-9.0)
    assert learnt().item() == pytest.approx(losses.COLDEST)


def test_one_stage_adds_the_loss_of_tune(vlm: Vlm, world: Any) -> None:
    records = world[1][:4]
    questions = [
        {"id": f"{r['id']}/{n}", "image": r["image"], "kind": "open", "question": "Which?", "answer": r["category"]}
        for r in records[:3]
        for n in range(2)
    ]
    talks = align.joined(questions, records, tune.talk)
    both, joint = gradient(vlm, aligning(vlm, world, answers=lambda r: talks[r["image"]]), records, now(2))
    first, one = gradient(vlm, aligning(vlm, world), records, now())
    second, two = gradient(vlm, tune.objective(vlm, world[0] / "images"), questions, now())
    assert both["loss"] == pytest.approx(first["loss"] + second["loss"], abs=1e-5)
    assert both["answers"] == pytest.approx(second["loss"], abs=1e-5)
    assert both["tokens"] == first["tokens"] + second["tokens"]
    assert torch.allclose(joint, one + two, atol=1e-5)
    with pytest.raises(FgvrError, match="no triple has its image"):
        align.joined(questions, records[1:], tune.talk)


# --- the vision tower, once ---


@pytest.mark.parametrize("family", ["idefics2", "llava"])
def test_vision_cache_changes_nothing(family: str, world: Any, tmp_path: Path) -> None:
    vlm = open_vlm(str(families.build(family, tmp_path / "model")), device="cpu")
    add_adapter(vlm, rank=4, alpha=8, dropout=0.0)
    ran: list[int] = []
    patches = next(m for m in vlm.part("tower").modules() if isinstance(m, torch.nn.Conv2d))
    patches.register_forward_pre_hook(lambda *_: ran.append(1))
    want, whole = gradient(vlm, aligning(vlm, world), world[1][:4], now(2))
    assert len(ran) == 2, "once for both passes"
    for round in range(2):
        ran.clear()
        kept = Vision(vlm, world[0] / "images", tmp_path / "kept")
        told, found = gradient(vlm, aligning(vlm, world, vision=kept), world[1][:4], now(2))
        assert told == pytest.approx(want, abs=1e-5) and torch.allclose(found, whole, atol=1e-5)
        assert len(ran) == (0 if round else 4)
    (folder,) = (tmp_path / "kept").iterdir()
    assert json.loads((folder / "about.json").read_text())["family"] == family
    files = sorted(folder.rglob("*.safetensors"))
    assert len(files) == 4
    for file in files:
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(FgvrError, match="damaged"):
        kept.kept(world[1][0]["image"])


def test_models_with_one_tower_share_what_is_kept(tmp_path: Path) -> None:
    """Other weights everywhere else, and an image token of another number."""
    one = open_vlm(str(families.build("llava", tmp_path / "a")), device="cpu")
    other = open_vlm(str(families.build("llava", tmp_path / "b", families.tokenizer("<extra>"))), device="cpu")
    for vlm in (one, other):
        vlm.model.requires_grad_(False)
    other.part("tower").load_state_dict(one.part("tower").state_dict())
    other.tokenizer.add_special_tokens({"additional_special_tokens": ["<seen>"]})
    other.processor.image_token = "<seen>"
    other.model.config.image_token_id = other.tokenizer.convert_tokens_to_ids("<seen>")
    other.processor.image_token_id = other.writer.image_token_id = other.image_token_id
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "x.png")
    with torch.no_grad():
        Vision(one, tmp_path, tmp_path / "kept").show(["x.png"]).features()
        (want,) = Vision(other, tmp_path).show(["x.png"]).features()
        files = sorted((tmp_path / "kept").rglob("*.safetensors"))
        (found,) = Vision(other, tmp_path, tmp_path / "kept").show(["x.png"]).features()
    assert sorted((tmp_path / "kept").rglob("*.safetensors")) == files and len(files) == 1
    assert torch.allclose(found, want, atol=1e-5) and other.sight(found).ids == other.sight(want).ids
    assert set(other.sight(found).ids) == {other.image_token_id} != {one.image_token_id}


def test_images_of_several_shapes_are_kept_too(vlm: Vlm, world: Any, tmp_path: Path) -> None:
    from fgvr.images import open_image

    image = world[1][0]["image"]
    open_image(world[0] / "images", image).resize((48, 24)).save(tmp_path / "wide.png")
    shutil.copy(world[0] / "images" / image, tmp_path / "square.png")
    kept, paths = Vision(vlm, tmp_path, tmp_path / "kept"), ["wide.png", "square.png", "wide.png"]
    with torch.no_grad():
        for found, want in zip(kept.show(paths).features(), Vision(vlm, tmp_path).show(paths).features(), strict=True):
            assert torch.allclose(found, want, atol=1e-5)


def test_vision_cache_keeps_the_towers_dtype_and_needs_it_frozen(vlm: Vlm, world: Any, tmp_path: Path) -> None:
    half = vlm.model.to(torch.bfloat16)
    kept = Vision(vlm, world[0] / "images", tmp_path / "kept")
    stored = kept.kept(world[1][0]["image"])
    assert stored.output["last_hidden_state"].dtype == torch.bfloat16
    _, fresh = vision.look(vlm, kept.pixels([world[1][0]["image"]]))
    assert fresh is not None and torch.equal(stored.output["last_hidden_state"], fresh.output["last_hidden_state"])
    next(half.get_submodule(vlm.parts.tower).parameters()).requires_grad_(True)
    with pytest.raises(FgvrError, match="frozen tower"):
        Vision(vlm, world[0] / "images", tmp_path / "kept")


def test_images_decoded_ahead_change_nothing(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all batches but the first are decoded in threads, each once a batch."""
    where: list[str] = []
    opens, thread = vision.open_image, threading.current_thread
    monkeypatch.setattr(vision, "open_image", lambda *told: where.append(thread().name) or opens(*told))
    plain = trained(world, tmp_path / "plain")
    count = len(where)
    assert set(where) == {"MainThread"} and count == 26, "13 images in each of two epochs"
    vlm = opened(world, 0.2)
    sight = Vision(vlm, world[0] / "images")
    train(vlm, world[1][:13], aligning(vlm, world, vision=sight), RECIPE, tmp_path, lambda *_: None, False,
          ahead=sight.ahead)  # fmt: skip
    assert procs.read_jsonl(tmp_path / "log.jsonl") == plain
    later = where[count:]
    assert len(later) == 26 and later.count("MainThread") == 12, "the first 6 of each epoch"


# --- the loop ---


def trained(world: Any, folder: Path, recipe: Recipe = RECIPE, dropout: float = 0.2, **more: Any) -> list[dict]:
    """Train with align's loss and return the log."""
    folder.mkdir(exist_ok=True)
    vlm = opened(world, dropout)
    loss = more.pop("loss", None) or aligning(vlm, world, temperature=more.get("extra") or 0.2)
    train(vlm, world[1][:13], loss, recipe, folder, lambda *_: None, more.pop("resumed", False), **more)
    trainer.save_adapter(vlm, folder, {})
    return procs.read_jsonl(folder / "log.jsonl")


def test_out_of_memory_halves_the_micro_batch_and_goes_on(world: Any, tmp_path: Path) -> None:
    vlm = opened(world, 0.2)
    inner, said = aligning(vlm, world), []

    def scarce(records: list[dict], step: gradcache.Step) -> Iterator[Any]:
        for number, found in enumerate(inner(records, step)):
            if step.size(len(records)) > 2 and number:
                raise torch.OutOfMemoryError
            yield found
        if step.size(len(records)) > 5:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …")

    train(vlm, world[1][:13], scarce, RECIPE, tmp_path, lambda *_: None, False, tell=said.append)
    assert [line.partition(", and")[0][-15:] for line in said] == ["--micro-batch 3", "--micro-batch 2"]
    small = trained(world, tmp_path / "small", dataclasses.replace(RECIPE, micro_batch=2))
    assert procs.read_jsonl(tmp_path / "log.jsonl") == small

    def hopeless(records: list[dict], step: gradcache.Step) -> Iterator[Any]:
        raise torch.OutOfMemoryError
        yield

    with pytest.raises(MemoryError, match="one record"):
        trained(world, tmp_path / "never", loss=hopeless)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_number_that_is_none_stops_before_the_weights(where: str, world: Any, tmp_path: Path) -> None:
    vlm = opened(world)
    inner, bad = aligning(vlm, world), world[1][3]["id"]

    def poisoned(records: list[dict], step: gradcache.Step) -> Iterator[Any]:
        poison = bad in {r["id"] for r in records} and step.key in ("step 4", "step 5", "step 6")
        for loss, parts in inner(records, step):
            if poison and where == "gradient":
                loss = loss + (next(p for p in vlm.model.parameters() if p.requires_grad) * 0).sum().sqrt()
            yield loss, {**parts, "oac": math.nan} if poison and where == "loss" else parts

    with pytest.raises(FgvrError, match="is not finite at step") as caught:
        train(vlm, world[1][:13], poisoned, RECIPE, tmp_path, lambda *_: None, False)
    step = int(str(caught.value).partition("step ")[2].partition(",")[0])
    batch = procs.read_jsonl(tmp_path / "checkpoints" / f"batch-{step}.jsonl")
    assert bad in {r["id"] for r in batch} and str(batch[0]["id"]) in str(caught.value)
    assert ("(oac)" in str(caught.value)) == (where == "loss")
    assert trainer.last_checkpoint(tmp_path / "checkpoints") is not None
    assert all(p.isfinite().all() for p in vlm.model.parameters())


def groups(world: Any) -> Any:
    """Two, of three species each."""
    names = sorted({record["category"] for record in world[1]})
    return align.grouping(world[1][:13], [{"categories": names[n::2]} for n in range(2)], "attribute")


def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(world: Any, tmp_path: Path) -> None:
    """With batches of groups."""
    extra = losses.Temperature(0.2)
    whole = trained(world, tmp_path / "whole", extra=extra, grouping=groups(world))
    assert len({entry["temperature"] for entry in whole}) > 1
    kept = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    assert [p.name for p in kept] == ["checkpoint-4", "checkpoint-6"], "old ones are pruned"
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "whole", out)
    file = out / "checkpoints" / "checkpoint-6" / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    again = trained(world, out, resumed=True, extra=losses.Temperature(0.2), grouping=groups(world))
    assert again == whole
    for name in ("adapter_model.safetensors", "log.jsonl", "checkpoints/checkpoint-6/extra.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_steps_on_records_without_an_image(world: Any, tmp_path: Path) -> None:
    """One record a step: the connector, alone or not, learns nothing from a text, and no step is lost to a resume or
    differs with what is kept of the tower."""
    said = {"kind": "open", "question": "What is a kite?", "answer": "A bird of prey."}
    records = [{"id": r["id"], "image": r["image"], **said} for r in world[1][:2]]
    records += [{"id": f"t{n}", "modality": "text", **said, "answer": "A toy." * (n + 1)} for n in range(3)]
    recipe = dataclasses.replace(RECIPE, batch_size=1, save_steps=1, connector_warmup=0.4)
    seen: dict[str, list[bool]] = {}

    def run(folder: Path, kept: Path | None = None, resumed: bool = False) -> list[dict]:
        folder.mkdir(exist_ok=True)
        vlm = opened(world, 0.2)
        sight = Vision(vlm, world[0] / "images", kept)
        inner, connector = tune.objective(vlm, world[0], vision=sight), trainer._connector(vlm, trained_by(vlm))

        def loss(batch: list[dict], step: gradcache.Step) -> Iterator[Any]:
            yield from inner(batch, step)
            grads = [p.grad for name, p in vlm.model.named_parameters() if name in connector]
            seen.setdefault(batch[0]["id"], []).append(any(g is not None and g.abs().max() > 0 for g in grads))

        train(vlm, records, loss, recipe, folder, lambda *_: None, resumed, ahead=sight.ahead)
        trainer.save_adapter(vlm, folder, {})
        return procs.read_jsonl(folder / "log.jsonl")

    whole = run(tmp_path / "whole")
    assert len(whole) == 10 and all(0 < entry["loss"] < 50 for entry in whole)
    assert {key: set(own) for key, own in seen.items()} == {
        r["id"]: {"image" in r} for r in records
    }, "who moves the connector"
    assert [entry["loss"] for entry in run(tmp_path / "kept", tmp_path / "tower")] == pytest.approx(
        [entry["loss"] for entry in whole], abs=1e-4
    )
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "checkpoint-10")
    assert run(tmp_path / "out", resumed=True) == whole
    ends = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "out")]
    assert ends[0] == ends[1]


def test_the_connector_warms_up_alone(world: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    before = {k: v.clone() for k, v in opened(world).peft.state_dict().items() if "lora_" in k}
    recipe = dataclasses.replace(RECIPE, connector_warmup=0.67)
    log = trained(world, tmp_path, recipe, extra=losses.Temperature(0.2))
    temperatures = [entry["temperature"] for entry in log]
    assert temperatures[:5] == pytest.approx([0.2] * 5, abs=1e-6) and abs(temperatures[5] - 0.2) > 1e-4
    name = "adapter_model.safetensors"
    after, end = (load_file(folder / name) for folder in (tmp_path / "checkpoints" / "checkpoint-4", tmp_path))
    moved = {k for k, v in after.items() if not torch.equal(v, before[k.replace(".weight", ".default.weight")])}
    assert moved == {k for k in after if ".connector." in k}
    assert all(not torch.equal(v, after[k]) for k, v in end.items())


@pytest.mark.parametrize("optimiser", ["adamw_8bit", "adamw_torch"])
def test_every_optimiser_goes_on_where_it_was(optimiser: str, world: Any, tmp_path: Path) -> None:
    """Its states, in 8 bits or whole, come back with the checkpoint: the same log and the same bytes."""
    def run(resumed: bool) -> tuple[bytes, bytes]:
        torch.manual_seed(3)
        vlm = open_vlm(str(world[2]), device="cpu")
        add_adapter(vlm, rank=128, alpha=8, dropout=0.2)  # of less than 4,096 numbers there are no states in 8 bits
        recipe = dataclasses.replace(RECIPE, optimiser=optimiser)
        train(vlm, world[1][:13], aligning(vlm, world), recipe, tmp_path, lambda *_: None, resumed)
        trainer.save_adapter(vlm, tmp_path, {})
        return (tmp_path / "adapter_model.safetensors").read_bytes(), (tmp_path / "log.jsonl").read_bytes()

    whole = run(False)
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-6")
    assert run(True) == whole
    kept = torch.load(tmp_path / "checkpoints" / "checkpoint-4" / "optimizer.pt", weights_only=True)["state"]
    parts = [x for state in kept.values() for x in (*state.values(), *state.get(QUANTISED, {}).values())]
    eight = {x.dtype for x in parts if isinstance(x, torch.Tensor)} & {torch.uint8}
    assert bool(eight) is ("8bit" in optimiser)


def test_speed_is_told_beside_the_log(world: Any, tmp_path: Path) -> None:
    reports = Reports(tmp_path / "logs", "none", False)
    log = trained(world, tmp_path / "out", reports=reports)
    speed = procs.read_jsonl(tmp_path / "logs" / "speed.jsonl")
    assert [entry["step"] for entry in speed] == [entry["step"] for entry in log] == list(range(1, 7))
    assert all(entry["records_per_s"] * entry["time_s"] == pytest.approx(n, rel=0.01)
               for entry, n in zip(speed, [6, 6, 1, 6, 6, 1], strict=True))  # fmt: skip
    assert all(entry["tokens_per_s"] > 0 and entry["peak_mib"] > 50 for entry in speed)
    assert not {"time_s", "records"} & set(log[0]) and log[0]["tokens"] > 0


def test_steps_reach_tensorboard(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(world, tmp_path / "out", reports=Reports(tmp_path / "logs", "auto", False))
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert {"train/loss", "train/oac", "train/records_per_s"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("train/loss")] == list(range(1, 7))


@pytest.mark.parametrize("to", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_there_is_named(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=f"needs the package {to}"):
        Reports(tmp_path, to, False)
    assert Reports(tmp_path, "auto", False).callbacks == []


# --- several processes ---


def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _process(rank: int, environment: dict[str, str], target: Any, arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    target(*arguments)


def together(target: Any, *arguments: Any, count: int = 2) -> list[int | None]:
    """Run a function in some processes, as torchrun would, and return their exit statuses."""
    environment = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(procs.PRELOAD)
    every = [context.Process(target=_process, args=(n, environment, target, arguments)) for n in range(count)]
    for process in every:
        process.start()
    for process in every:
        process.join(600)  # of a busy machine; a process that hangs fails
    return [process.exitcode for process in every]


def _train_here(world: Any, folder: Path, scarce: bool) -> None:
    joined, _ = ranks.start("cpu")
    vlm = opened(world, dropout=0.2)
    inner, said = aligning(vlm, world, temperature=(extra := losses.Temperature(0.2))), []

    def loss(records: list[dict], step: gradcache.Step) -> Iterator[Any]:
        if scarce and joined.rank == 1 and step.micro_batch == 6:
            raise torch.OutOfMemoryError  # the other one waits for embeddings
        for found in inner(records, step):
            yield found
            if scarce and joined.rank == 1 and step.micro_batch == 3:
                raise torch.OutOfMemoryError

    recipe = dataclasses.replace(RECIPE, micro_batch=6 if scarce else 2)
    train(vlm, world[1][:13], loss, recipe, folder, lambda *_: None, False, ranks=joined, extra=extra, tell=said.append,
          grouping=groups(world))  # fmt: skip
    assert len(said) == (2 if scarce and joined.rank == 0 else 0)
    if joined.rank == 0:
        trainer.save_adapter(vlm, folder, {})
    ranks.leave()


@pytest.mark.slow
@pytest.mark.parametrize("scarce", [False, True])
def test_two_processes_learn_what_one_learns(scarce: bool, world: Any, tmp_path: Path) -> None:
    """Also when one of them runs out of memory in the first step."""
    from safetensors.torch import load_file

    one = trained(world, tmp_path / "one", dataclasses.replace(RECIPE, micro_batch=2), extra=losses.Temperature(0.2),
                  grouping=groups(world))  # fmt: skip
    (tmp_path / "two").mkdir()
    assert together(_train_here, world, tmp_path / "two", scarce) == [0, 0]
    two = procs.read_jsonl(tmp_path / "two" / "log.jsonl")
    assert len(two) == 6
    for mine, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(mine, abs=2e-5)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(first[k], second[k], atol=1e-4) for k in first)


def _stop_here(world: Any, folder: Path) -> None:
    """A signal to the second process in step 3; both go on in another run."""
    signals.install()
    joined, _ = ranks.start("cpu")
    vlm = opened(world, dropout=0.2)
    inner = aligning(vlm, world)

    def loss(records: list[dict], step: gradcache.Step) -> Iterator[Any]:
        if step.key == "step 3" and joined.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from inner(records, step)

    with pytest.raises(Stopped):
        train(vlm, world[1][:13], loss, dataclasses.replace(RECIPE, micro_batch=2), folder, lambda *_: None, False,
              ranks=joined)  # fmt: skip
    ranks.leave()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(world: Any, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, micro_batch=2)
    whole = trained(world, tmp_path / "whole", recipe)
    (tmp_path / "out").mkdir()
    assert together(_stop_here, world, tmp_path / "out") == [0, 0]
    assert trainer.last_checkpoint(tmp_path / "out" / "checkpoints").endswith("checkpoint-3")
    for mine, theirs in zip(trained(world, tmp_path / "out", recipe, resumed=True), whole, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-5)


def _sums(folder: Path) -> None:
    joined, device = ranks.start("cpu")
    assert device == "cpu" and joined.any(joined.rank == 1) and not joined.any(False)
    assert joined.share({"from": joined.rank}) == {"from": 0}
    assert joined.add({"a": joined.rank + 1.0, f"only {joined.rank}": 1.0}) == {"a": 3.0, "only 0": 1.0, "only 1": 1.0}
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    parameters[joined.rank].grad = torch.full((2,), 1.0 + joined.rank)
    joined.reduce(parameters)
    assert [p.grad.tolist() if p.grad is not None else None for p in parameters] == [[1.0, 1.0], [2.0, 2.0], None]
    (folder / str(joined.rank)).touch()


def test_sums_over_processes(tmp_path: Path) -> None:
    assert together(_sums, tmp_path) == [0, 0]
    assert {p.name for p in tmp_path.iterdir()} == {"0", "1"}


def _command(argv: list[str], folder: Path) -> None:
    os.chdir(folder)
    from fgvr.cli.main import main

    raise SystemExit(main(argv))


def test_a_run_that_ends_within_its_warm_up_is_told_of(world: Any, tmp_path: Path) -> None:
    said: list[str] = []
    recipe, vlm = dataclasses.replace(RECIPE, epochs=1, warmup_steps=8), opened(world)
    train(vlm, world[1][:7], aligning(vlm, world), recipe, tmp_path, lambda *_: None, False, tell=said.append)
    assert said == ["2 steps end within --warmup-steps 8, at 12% of --lr; lower it, or --batch-size"]


@pytest.mark.slow
def test_the_command_runs_as_two_processes(world: Any, tmp_path: Path) -> None:
    """Only the first writes; a second run of them is told that all is there. One stage, batches of groups."""
    root, mined, model = world
    source = procs.write_jsonl(tmp_path / "mined.jsonl", mined[:8])
    asked = {"kind": "open", "question": "Which?"}
    questions = [{"id": r["id"], "image": r["image"], "answer": r["category"], **asked} for r in mined[:8]]
    procs.write_jsonl(tmp_path / "questions.jsonl", questions)
    procs.write_jsonl(tmp_path / "groups.jsonl", [{"group": 0, "categories": sorted({r["category"] for r in mined})}])
    argv = (f"align --model {model} --image-root {root}/images --batch-size 4 --warmup-steps 1 -o out "
            f"--questions {tmp_path}/questions.jsonl --groups {tmp_path}/groups.jsonl {source}").split()  # fmt: skip
    assert together(_command, argv, tmp_path) == [0, 0]
    there = {p.name for p in tmp_path.iterdir()}
    assert there == {"mined.jsonl", "questions.jsonl", "groups.jsonl", "out", "out.run.json", "out.logs"}
    log = procs.read_jsonl(tmp_path / "out" / "log.jsonl")
    assert all(entry["answers"] > 0 for entry in log)
    assert all(entry["texts"] in (6, 8, 10, 12) for entry in log), "name and caption of three to six species, each once"
    done = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert together(_command, [*argv, "--resume"], tmp_path) == [0, 0]
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == done
    assert together(_command, argv[:-1], tmp_path) == [2, 2], "stdin cannot be shared"


def test_another_process_prepares_by_itself_what_the_first_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what preparing leaves behind, such as the questions of one stage, is there as well."""
    read, learnt = [{"id": "1"}], []
    told = Ranks(1, 2)
    monkeypatch.setattr(told, "share", lambda thing: (read, Path("out"), True))
    monkeypatch.setattr(trainer, "train", lambda *given, **more: learnt.append((given[1], given[6], more)))
    training._follow(told, None, None, None, None, lambda some: [*some, {}], lambda some: ("grouped", some))
    assert learnt == [([*read, {}], True, {"ranks": told, "extra": None, "grouping": ("grouped", [*read, {}])})]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "RANK is not set"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"WORLD_SIZE": "1"}, "--shard-weights is for several processes"),
    ],
)
def test_a_launch_that_cannot_work_is_refused(
    environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        ranks.start("cpu", sharded=True)
    assert Ranks().share(3) == 3
