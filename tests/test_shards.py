"""Weights in parts (FSDP): two processes learn what one learns, with half of the layers each, and leave the same
files."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import os
import shutil
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fgvr import losses, signals
from fgvr.cli import training
from fgvr.errors import Stopped, TryAgain, UsageError
from fgvr.models.families import PARTS
from fgvr.models.vlm import Vlm, open_vlm
from fgvr.stages import align, tune
from fgvr.training import ranks, trainer
from fgvr.training.adapters import add_adapter, checkpoint_layers
from fgvr.training.gradcache import Step
from fgvr.training.ranks import ALONE, Ranks
from fgvr.training.settings import Tune
from fgvr.training.shards import Shards, norm, sharded
from fgvr.training.trainer import Recipe, train
from tests import families, procs, triples
from tests.test_trainer import RECIPE, _command, aligning, groups, opened, together

SMALL = dataclasses.replace(RECIPE, micro_batch=2)
# on no image: nothing of a connector is in their loss
ASKED = [
    {"id": f"text/{n}", "kind": "open", "question": "What is it?", "answer": "A bird. " * n, "modality": "text"}
    for n in (1, 3, 5)
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict], Path]:
    root = tmp_path_factory.mktemp("world")
    return root, triples.drawn(root), families.build("idefics2", root / "model")


def questions(records: list[dict]) -> list[dict]:
    """On every third image."""
    asked = {"kind": "open", "question": "Which?"}
    return [{"id": r["id"], "image": r["image"], "answer": r["category"], **asked} for r in records[::3]]


@dataclasses.dataclass
class Case:
    """What is trained."""

    recipe: Recipe = SMALL
    train: str = "adapter"
    grouped: bool = False
    asked: bool = False
    tuned: bool = False
    checkpointed: bool = False

    def learn(self, world: Any, folder: Path, joined: Ranks = ALONE, resumed: bool = False, at: Any = None) -> Vlm:
        """Train and save.

        Args:
            at: called before each step's loss with its key.
        """
        vlm = opened(world, 0.2) if self.train == "adapter" else open_vlm(str(world[2]), device="cpu")
        if self.train != "adapter":
            torch.manual_seed(3)
            add_adapter(vlm, 4, 8, 0.2, train=self.train)
        if self.checkpointed:
            checkpoint_layers(vlm)
        extra, talks = losses.Temperature(0.2), align.joined(questions(world[1]), world[1], tune.talk)
        more = {"answers": lambda record: talks[record["image"]]} if self.asked else {}
        inner = tune.objective(vlm, world[0] / "images") if self.tuned else aligning(
            vlm, world, temperature=extra, **more)  # fmt: skip

        def loss(records: list[dict], step: Step) -> Iterator[Any]:
            if at is not None:
                at(step.key)
            yield from inner(records, step)

        folder.mkdir(exist_ok=True)
        records = [*questions(world[1])[:6], *ASKED] if self.tuned else world[1][:13]
        kept = train(vlm, records, loss, self.recipe, folder, lambda *_: None, resumed, ranks=joined, extra=extra,
                     grouping=groups(world) if self.grouped else None)  # fmt: skip
        if joined.rank == 0:
            trainer.save_adapter(vlm, folder, {}, kept)
        return vlm


CASES = {
    "align": Case(recipe=dataclasses.replace(SMALL, epochs=1)),
    "batches of groups": Case(grouped=True),
    "all at once": Case(recipe=dataclasses.replace(RECIPE, micro_batch=3)),  # of two processes; one needs the cache
    "one stage": Case(asked=True),
    "connector first": Case(
        recipe=dataclasses.replace(SMALL, connector_warmup=0.4, max_grad_norm=0.0), checkpointed=True
    ),
    "full": Case(recipe=dataclasses.replace(SMALL, lr=1e-3), train="full", tuned=True),
    "connector": Case(recipe=dataclasses.replace(SMALL, micro_batch=1), train="connector", tuned=True),
}


def _learn(case: str, world: Any, folder: Path) -> None:
    """In one of several processes; what a GPU would have accelerate do as well."""
    from accelerate import Accelerator

    joined, _ = ranks.start("cpu", sharded=True)
    assert joined.sharded
    Accelerator.multi_device = True  # it would wrap whole weights into DDP
    vlm = CASES[case].learn(world, folder, joined)
    sizes = {name: (p.to_local().numel(), p.numel()) for name, p in vlm.model.named_parameters() if sharded(p)}
    inside = {name for name, _ in vlm.model.named_parameters() if ".layers." in name and ".text_model." in name}
    assert set(sizes) == inside, "the language model's layers and nothing else"
    part, whole = (sum(counts) for counts in zip(*sizes.values(), strict=True))
    assert part / whole == 0.5 if joined.world == 2 else part < whole / 2
    ranks.leave()


def same(one: Path, two: Path) -> None:
    """Logs and weights."""
    from safetensors.torch import load_file

    for mine, theirs in zip(*(procs.read_jsonl(folder / "log.jsonl") for folder in (one, two)), strict=True):
        assert theirs == pytest.approx(mine, abs=2e-5)
    (file,) = (path.name for path in one.glob("*.safetensors"))
    first, second = (load_file(folder / file) for folder in (one, two))
    assert {k: (v.shape, v.dtype) for k, v in first.items()} == {k: (v.shape, v.dtype) for k, v in second.items()}
    assert all(torch.allclose(first[k], second[k], atol=1e-4) for k in first)


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] if c != "align" else []) for c in CASES])
def test_two_processes_with_half_each_learn_what_one_learns(case: str, world: Any, tmp_path: Path) -> None:
    """With numbers of micro-batches that two do not divide; what they save opens, and goes on."""
    CASES[case].learn(world, tmp_path / "one")
    (tmp_path / "two").mkdir()
    assert together(_learn, case, world, tmp_path / "two") == [0, 0]
    same(tmp_path / "one", tmp_path / "two")
    folders = [{str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*")} for name in ("one", "two")]
    assert {name for name in folders[1] if "rng_state" not in name} == {
        name for name in folders[0] if "rng_state" not in name}  # fmt: skip
    if CASES[case].train != "full":
        open_vlm(str(world[2]), str(tmp_path / "two"), "cpu")
    else:
        shutil.copytree(world[2], tmp_path / "model")
        for file in (tmp_path / "two").glob("*.*"):
            shutil.copy(file, tmp_path / "model")
        open_vlm(str(tmp_path / "model"), device="cpu")


@pytest.mark.slow
def test_a_process_may_have_no_row_of_a_weight(world: Any, tmp_path: Path) -> None:
    """Rank 4 among three: two rows, two, none."""
    CASES["align"].learn(world, tmp_path / "one")
    (tmp_path / "three").mkdir()
    assert together(_learn, "align", world, tmp_path / "three", count=3) == [0, 0, 0]
    same(tmp_path / "one", tmp_path / "three")


# --- stop and go on ---


def _stop(world: Any, folder: Path) -> None:
    signals.install()
    joined, _ = ranks.start("cpu", sharded=True)

    def at(key: str) -> None:
        if key == "step 3" and joined.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        CASES["batches of groups"].learn(world, folder, joined, at=at)
    ranks.leave()


def _go_on(world: Any, folder: Path) -> None:
    joined, _ = ranks.start("cpu", sharded=True)
    CASES["batches of groups"].learn(world, folder, joined, resumed=True)
    ranks.leave()


@pytest.mark.slow
def test_a_stopped_run_goes_on_in_parts_or_whole(world: Any, tmp_path: Path) -> None:
    """A signal to one process stops all; the end is that of a run that was not stopped, bit for bit."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "out").mkdir()
    assert together(_learn, "batches of groups", world, tmp_path / "whole") == [0, 0]
    assert together(_stop, world, tmp_path / "out") == [0, 0]
    assert trainer.last_checkpoint(tmp_path / "out" / "checkpoints").endswith("checkpoint-3")
    shutil.copytree(tmp_path / "out", tmp_path / "alone")
    assert together(_go_on, world, tmp_path / "out") == [0, 0]
    for name in ("log.jsonl", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    CASES["batches of groups"].learn(world, tmp_path / "alone", resumed=True)
    same(tmp_path / "whole", tmp_path / "alone")


def _scarce(world: Any, folder: Path) -> None:
    joined, _ = ranks.start("cpu", sharded=True)

    def at(key: str) -> None:
        if key == "step 2" and joined.rank == 1:
            raise torch.OutOfMemoryError

    try:
        CASES["batches of groups"].learn(world, folder, joined, at=at)
    except TryAgain as error:
        raise SystemExit(error.status if "--micro-batch 2," in str(error) else 1) from error


@pytest.mark.slow
def test_a_process_without_memory_says_what_to_do(world: Any, tmp_path: Path) -> None:
    """The other one sees it leave."""
    first, second = together(_scarce, world, tmp_path)
    assert second == TryAgain.status and first not in (0, None)


# --- gradients ---


def _gradient(vlm: Vlm, world: Any, now: Step) -> tuple[dict[str, Any], torch.Tensor]:
    """Of each weight, whole; and their length, as it is without gathering them."""
    learning = {name: p for name, p in vlm.model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in learning.values()} == {torch.float32}
    for value, _ in aligning(vlm, world)(world[1][:5], now):
        if value.requires_grad:
            value.backward()
    now.ranks.reduce(learning.values())
    grads = {name: p.grad for name, p in learning.items() if p.grad is not None}
    length = norm(list(grads.values()))
    vlm.model.zero_grad()
    return {name: g.full_tensor() if sharded(g) else g for name, g in grads.items()}, length


def _gradients(folders: dict[str, Path], world: Any, dtype: str) -> None:
    """Of text and object chunks through each family's layers: those of the whole weights, adapters in float32."""
    joined, _ = ranks.start("cpu", sharded=True)
    for kind, folder in folders.items():
        vlm = open_vlm(str(folder), device="cpu", dtype=dtype)
        torch.manual_seed(3)
        add_adapter(vlm, rank=4, alpha=8, dropout=0.0)
        whole, length = _gradient(vlm, world, Step(0, "step 1", 2))
        held = [weakref.ref(p) for p in vlm.part("decoder").layers.parameters()]
        Shards(vlm, joined, torch.optim.AdamW([p for p in vlm.model.parameters() if p.requires_grad]))
        gc.collect()
        assert held and not any(ref() is not None for ref in held), "whole weights are gone"
        parts, same_length = _gradient(vlm, world, Step(0, "step 1", 2, joined))
        assert set(whole) == set(parts) and length > 1e-2 and torch.allclose(length, same_length, rtol=1e-4), kind
        assert all(torch.allclose(parts[name], whole[name], atol=1e-5) for name in whole), kind
    ranks.leave()


@pytest.mark.slow
def test_every_familys_layers_can_be_sharded(world: Any, tmp_path: Path) -> None:
    kinds = [kind for kind in PARTS if kind != "smolvlm" or importlib.util.find_spec("num2words")]
    folders = {kind: families.build(kind, tmp_path / kind) for kind in kinds}
    assert together(_gradients, folders, world, "float32") == [0, 0]


def test_weights_of_two_types_can_be_sharded(world: Any) -> None:
    assert together(_gradients, {"idefics2": world[2]}, world, "bfloat16") == [0, 0]


# --- the command ---


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--shard-weights", "accelerate launch"])
def test_the_command_shards(how: str, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, mined, model = world
    source = procs.write_jsonl(tmp_path / "questions.jsonl", questions(mined))
    argv = (f"tune --model {model} --image-root {root}/images --batch-size 4 --micro-batch 1 --warmup-steps 1 "
            f"--train full --lr 0.001 {source} -o").split()  # fmt: skip
    assert together(_command, [*argv, "one"], tmp_path, count=1) == [0]
    more = ["two", "--shard-weights"] if how == "--shard-weights" else ["two"]
    if how != "--shard-weights":
        monkeypatch.setenv(ranks.FSDP, "true")
    assert together(_command, [*argv, *more], tmp_path) == [0, 0]
    same(tmp_path / "one", tmp_path / "two")
    assert {p.name for p in (tmp_path / "one").iterdir()} == {p.name for p in (tmp_path / "two").iterdir()}
    settings = [json.loads((tmp_path / f"{name}.run.json").read_text())["settings"] for name in ("one", "two")]
    assert settings[0] == settings[1], "memory is no part of what decides the result"
    assert open_vlm(str(tmp_path / "two"), device="cpu").about["dtype"] == "float32"


@pytest.mark.parametrize("options", [{"quantise": "nf4"}, {"optimiser": "adamw_8bit"}])
def test_what_cannot_be_shared_out_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options.values()))} does not go with"):
        training._opened("any", None, "cpu", Tune(**options), Ranks(0, 2, sharded=True))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("sharded", [False, True])
def test_work_is_dealt_in_rounds_to_and_fro(world: int, sharded: bool) -> None:
    """Every piece counts once; with sharded weights all processes work equally often."""
    for count in range(12):
        deals = [Ranks(rank, world, sharded).deal(count) for rank in range(world)]
        assert sorted(n for deal in deals for n, counts in deal if counts) == list(range(count))
        assert all(n < count and (counts or sharded) for deal in deals for n, counts in deal)
        assert not sharded or {len(deal) for deal in deals} == {-(-count // world)}
        if world == 2 and count == 8:
            assert deals == [[(n, True) for n in (0, 3, 4, 7)], [(n, True) for n in (1, 2, 5, 6)]]
