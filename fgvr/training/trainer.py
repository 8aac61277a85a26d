"""The loop that align and tune share: transformers' Trainer, with our losses, log, signals and exact resume.

Of several processes each reads the whole batch and works on its share of the micro-batches (see ranks); only the first
one writes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from fgvr import signals, stream
from fgvr.errors import FgvrError, TryAgain, UsageError
from fgvr.models.vlm import Vlm
from fgvr.records import image_of
from fgvr.training.adapters import roots
from fgvr.training.checkpoints import cut_log, last_checkpoint, save_adapter, seal
from fgvr.training.gradcache import Parts, Step
from fgvr.training.order import Grouping, Order
from fgvr.training.ranks import ALONE, Ranks, ShortElsewhereError
from fgvr.training.recipe import Recipe, arguments
from fgvr.training.reports import Reports, too_short
from fgvr.training.shards import Shards, norm, sharded

Record = dict[str, Any]
# A batch of records to tensors, each to be back-propagated before the next is asked for, and what they add to the log:
# "loss", its terms, COUNTS
Losses = Callable[..., Iterator[tuple[Tensor, Parts]]]
__all__ = ["Losses", "Recipe", "save_adapter", "train"]
COUNTS = ("tokens", "texts")  # that are learnt; different ones that are encoded
SHOWN = 5  # records that a message names


class _Trainer(Trainer):
    """Trainer whose step is ours; everything else (optimiser, schedule, checkpoints, resume) is transformers'."""

    def __init__(
        self,
        vlm: Vlm,
        losses: Losses,
        recipe: Recipe,
        folder: Path,
        ranks: Ranks,
        extra: nn.Module | None,
        tell: Callable[[str], None],
        grouping: Grouping | None,
        ahead: Callable[[Sequence[str]], None],
        **options: Any,
    ) -> None:
        self.ranks = ranks
        super().__init__(model=vlm.learner, **options)
        self.vlm, self.losses, self.recipe, self.folder = vlm, losses, recipe, folder
        self.extra, self.tell = extra, tell
        self.grouping, self.ahead = grouping, ahead
        self.micro = recipe.micro_batch
        self.learning = {name: p for name, p in vlm.model.named_parameters() if p.requires_grad}
        self.connector = _connector(vlm, self.learning) if recipe.connector_warmup else set()
        self.entry: dict[str, Any] = {}  # the log's last line
        self.shards: Shards | None = None  # from the first step on
        self.weights: dict[str, Tensor] | None = None  # the whole ones, while a checkpoint of sharded ones is saved

    # --- one step ---

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One optimiser step's gradients; returns the loss, detached.

        Raises:
            FgvrError: loss or gradient is not finite; the last checkpoint is sound.
        """
        model.train()
        self.vlm.part("tower").eval()
        records, step = inputs["records"], self.state.global_step + 1
        self._warm_up(step)
        while (found := self._tried(records, step)) is None:
            self._halve(len(records))
        parts = self.ranks.add({name: float(value) for name, value in found.items()})
        self.ranks.reduce(self._parameters())
        if self._alone(step):
            for parameter in filter(sharded, self.learning.values()):  # whose layers do the same in every step
                parameter.grad = None
        self._check(parts, records, step)
        loss = parts.pop("loss")
        terms = {name: round(value, 6) for name, value in parts.items() if name not in COUNTS}
        counts = {name: int(parts[name]) for name in COUNTS if name in parts}
        self.entry = {"step": step, "loss": round(loss, 6), **terms, **counts, "lr": self._get_learning_rate()}
        if self.ranks.rank == 0:
            with open(self.folder / "log.jsonl", "ab") as file:
                file.write(stream.encode(self.entry) + b"\n")
        self.entry["records"] = len(records)
        return torch.tensor(loss, device=self.args.device)

    def _parameters(self) -> list[nn.Parameter]:
        more = list(self.extra.parameters()) if self.extra is not None else []
        return [p for p in (*self.learning.values(), *more) if p.requires_grad]

    def _warm_up(self, step: int) -> None:
        """Let the connector learn alone in the first share of the steps; the optimiser leaves what has no gradient."""
        if self.connector:
            alone = self._alone(step)
            for name, parameter in self.learning.items():
                parameter.requires_grad_(not alone or name in self.connector or sharded(parameter))
            for parameter in self.extra.parameters() if self.extra is not None else ():
                parameter.requires_grad_(not alone)

    def _alone(self, step: int) -> bool:
        return bool(self.connector) and step <= round(self.recipe.connector_warmup * self.state.max_steps)

    def _tried(self, records: Sequence[Record], step: int) -> Parts | None:
        """Back-propagate the batch; None when memory ran out in any process."""
        for parameter in self._parameters():
            parameter.grad = None
        parts: Parts = {}
        short = False
        now = Step(self.recipe.seed, f"step {step}", self.micro, self.ranks, self.recipe.batch_size)
        try:
            for loss, found in self.losses(records, now):
                if loss.requires_grad:
                    self.accelerator.backward(loss)
                for name, value in found.items():
                    parts[name] = parts.get(name, 0.0) + value
        except ShortElsewhereError:
            return None
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if self.ranks.sharded:  # the others are within a layer, and wait for this one
                raise TryAgain(
                    f"out of memory at --micro-batch {now.size(len(records))}, and with sharded weights one process "
                    "cannot halve it alone; go on with --resume and a lower one"
                ) from error
            short = True
        return None if self.ranks.any(short) else parts

    def _halve(self, records: int) -> None:
        """Go on with half the micro-batch. Raises MemoryError when it is one record."""
        size = self.micro or -(-records // self.ranks.world)
        if size == 1:
            raise MemoryError("one record at a time is too much for this device")
        self.micro = -(-size // 2)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.ranks.rank == 0:
            self.tell(f"out of memory; going on with --micro-batch {self.micro}, and as many records a step as before")

    def _check(self, parts: dict[str, float], records: Sequence[Record], step: int) -> None:
        """Stop before a number that is none reaches the weights; leave the batch where it can be looked at."""
        grads = [p.grad for p in self._parameters() if p.grad is not None]
        wrong = [name for name, value in parts.items() if value != value or abs(value) == float("inf")]
        if not wrong and torch.isfinite(norm(grads)):
            return
        what = f"the loss ({', '.join(n for n in wrong if n != 'loss') or 'loss'})" if wrong else "the gradient"
        batch = self.folder / "checkpoints" / f"batch-{step}.jsonl"
        if self.ranks.rank == 0:
            batch.parent.mkdir(exist_ok=True)
            batch.write_bytes(b"".join(stream.encode(record) + b"\n" for record in records))
        names = ", ".join(str(record["id"]) for record in records[:SHOWN])
        more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
        raise FgvrError(
            f"{what} is not finite at step {step}, on records {names}{more}, kept in {batch}; correct them, or lower "
            "--lr, and start again (the checkpoints before it are sound)"
        )

    def done(self) -> None:
        """Leave the model as it was found, once every process is here."""
        for parameter in self.learning.values():
            parameter.requires_grad_(True)
        if self.ranks.world > 1:
            distributed.barrier()

    # --- order ---

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """The same whole batches in every process."""
        assert isinstance(self.train_dataset, _Rows)
        order = Order(len(self.train_dataset), self.recipe.batch_size, self.recipe.seed, self.grouping, self._coming)
        return torch.utils.data.DataLoader(self.train_dataset, batch_sampler=order, collate_fn=self.data_collator)

    def _coming(self, rows: Sequence[int]) -> None:
        assert isinstance(self.train_dataset, _Rows)
        images = (image_of(self.train_dataset[row]) for row in rows)
        self.ahead([image for image in images if image is not None])

    # --- the optimiser's and the checkpoints' share in what is learnt beside the model ---

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimiser = super().create_optimizer(model)
        if self.extra is not None and len(optimiser.param_groups) == 2:
            optimiser.add_param_group({"params": list(self.extra.parameters()), "weight_decay": 0.0})
        if self.ranks.sharded and self.shards is None:  # now that a checkpoint's whole weights are loaded
            names, self.learning = set(self.learning), {}
            self.shards = Shards(self.vlm, self.ranks, optimiser)
            self.learning = {name: p for name, p in self.vlm.model.named_parameters() if name in names}
            self.accelerator.clip_grad_norm_ = self.shards.clip
            vars(self.model)["_is_accelerate_prepared"] = True  # not for DDP
        return optimiser

    def _has_mixed_mesh_grads(self, model: Any) -> bool:
        """Left to clip_grad_norm_, which is ours then."""
        return False

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not self.ranks.sharded:  # a whole one may not fit
            super()._move_model_to_device(model, device)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.shards is None:
            return super()._save_optimizer_and_scheduler(output_dir)
        self.shards.save(Path(output_dir), self.lr_scheduler)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.shards is None or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        self.shards.load(Path(checkpoint), self.lr_scheduler)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The weights under their names in memory: transformers saves those of many families under other ones, which
        its own resume passes over in silence; peft would ask the hub about the base."""
        from safetensors.torch import save_file

        if not self.args.should_save:
            return
        how: dict[str, Any] = {"save_original_format": False} if self.vlm.peft is None else {
            "save_embedding_layers": False}  # fmt: skip
        learner: Any = self.vlm.learner
        learner.save_pretrained(output_dir, state_dict=state_dict or self.weights, **how)
        if self.extra is not None:
            save_file(self.extra.state_dict(), Path(str(output_dir), "extra.safetensors"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.extra is not None:
            self.extra.load_state_dict(load_file(Path(resume_from_checkpoint, "extra.safetensors")))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raises FgvrError unless a checkpoint of the whole model had all of its weights."""
        tied = dict(getattr(self.vlm.model, "all_tied_weights_keys", None) or {})
        missing = set(load_result.missing_keys) - {*tied, *tied.values()}
        if wrong := sorted({*missing, *load_result.unexpected_keys}):
            raise FgvrError(f"{len(wrong)} weights of the checkpoint are not the model's ({wrong[0]}); start again "
                            "without --resume")  # fmt: skip

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.weights = self.shards.weights() if self.shards is not None else None
        super()._save_checkpoint(model, trial)
        self.weights = None
        if self.ranks.rank == 0:
            seal(self.folder / "checkpoints" / f"checkpoint-{self.state.global_step}")


class _Watch(TrainerCallback):
    """Progress and reports, and a checkpoint when a signal asks any of the processes to stop."""

    def __init__(
        self, request: signals.Request, say: Callable[[int, int], None], ranks: Ranks, reports: Reports | None
    ) -> None:
        self.request, self.say, self.ranks, self.reports = request, say, ranks, reports
        self.trainer: _Trainer | None = None
        self.stopped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.trainer is not None
        if self.ranks.rank == 0 and (line := too_short(state.max_steps, self.trainer.recipe.warmup_steps)):
            self.trainer.tell(line)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.trainer is not None
        if self.reports is not None:
            speed = self.reports.step(self.trainer.entry, self.trainer.args.device)
            told = {name: value for name, value in {**self.trainer.entry, **speed}.items() if name != "step"}
            self.trainer.callback_handler.on_log(args, state, control, told)
            self.say(state.global_step, state.max_steps)
        if self.ranks.any(self.request.stop):
            self.stopped = control.should_save = control.should_training_stop = True


def train(
    vlm: Vlm,
    records: Sequence[Record],
    losses: Losses,
    recipe: Recipe,
    folder: Path,
    say: Callable[[int, int], None],
    resumed: bool,
    *,
    ranks: Ranks = ALONE,
    extra: nn.Module | None = None,
    reports: Reports | None = None,
    tell: Callable[[str], None] = lambda line: None,
    grouping: Grouping | None = None,
    ahead: Callable[[Sequence[str]], None] = lambda images: None,
) -> dict[str, Tensor] | None:
    """Train the adapter of `vlm` in place and write `log.jsonl` (one line a step) below `folder`.

    Checkpoints lie below `folder / "checkpoints"`; with `resumed` training goes on from the last whole one, and the log
    and the final weights equal those of an uninterrupted run (data order, dropout and optimiser state included).

    Args:
        say: called with (steps done, steps in all) after every step.
        ranks: the processes; every one of them calls this with the same arguments.
        extra: what is learnt beside the model.
        reports: where speed and memory go.
        tell: says a line to people.
        grouping: which records go together; None: batches are drawn.
        ahead: told the images of the next batch before a step begins.
    Returns:
        Of sharded weights the whole ones, in the first process, for save_adapter.
    Raises:
        FgvrError: loss or gradient is not finite, or a checkpoint does not fit.
        UsageError: the device is not the first one of its kind.
        MemoryError: one record is too much.
        TryAgain: with sharded weights, a micro-batch is.
    """
    _settle(vlm.device, ranks)
    set_seed(recipe.seed)
    checkpoints, last = folder / "checkpoints", None
    if ranks.rank == 0:
        last = last_checkpoint(checkpoints) if resumed and checkpoints.is_dir() else None
        cut_log(folder / "log.jsonl", int(last.rpartition("-")[2]) if last else 0)
    last = ranks.share(last)
    with signals.deferred() as request:
        watch = _Watch(request, say, ranks, reports if ranks.rank == 0 else None)
        told = reports.callbacks if reports is not None else []
        watch.trainer = trainer = _Trainer(
            vlm, losses, recipe, folder, ranks, extra, tell, grouping, ahead,
            args=arguments(recipe, checkpoints, vlm.device, reports.names if reports is not None else ()),
            train_dataset=_Rows(records), data_collator=lambda rows: {"records": rows}, callbacks=[watch, *told],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for records
        trainer.train(resume_from_checkpoint=last)
        trainer.done()
    if watch.stopped:
        raise signals.stopped()  # another process was asked to
    vlm.model.eval()
    return trainer.shards.weights() if trainer.shards is not None else None


def _settle(device: torch.device, ranks: Ranks) -> None:
    """Make the device exact, or refuse it."""
    if device.type == "cpu":  # the sum of a gradient must not depend on how threads shared the work
        torch.use_deterministic_algorithms(True, warn_only=True)
    if ranks.world == 1 and device.index:  # transformers would go to the first
        raise UsageError(f"--device {device} cannot train; set CUDA_VISIBLE_DEVICES={device.index}, and leave it out")


def _connector(vlm: Vlm, learning: dict[str, nn.Parameter]) -> set[str]:
    """The names of what is learnt in the connector."""
    inside = tuple(f"{root}." for root in roots(vlm, "connector"))
    found = {name for name in learning if name.startswith(inside)}
    if not found:
        raise UsageError("--connector-warmup trains the connector first, but nothing of it is trained; leave it out")
    return found


def _out_of_memory(error: Exception) -> bool:
    """Also the CPU's allocator and cuBLAS, which raise a plain RuntimeError."""
    said = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in said)


class _Rows(torch.utils.data.Dataset):
    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]
