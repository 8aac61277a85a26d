"""The loop that align and tune share: transformers' Trainer, with our losses, log, signals and exact resume."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from fgvr import signals, stream
from fgvr.errors import FgvrError, UsageError
from fgvr.models.vlm import Vlm

Record = dict[str, Any]
# A batch of records to losses to be back-propagated one after the other: each (weighted loss, parts for the log)
Losses = Callable[[Sequence[Record]], Iterator[tuple[Tensor, dict[str, float]]]]


@dataclass(frozen=True)
class Recipe:
    """What both stages let the user set; the defaults are Finedefics' (section 4.1), see fgvr.settings."""

    batch_size: int  # records a step
    epochs: float
    lr: float  # peak of a linear schedule
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float  # 0: no clipping
    save_steps: int  # steps between checkpoints
    seed: int
    optimiser: str = "adamw_torch_fused"


class _Trainer(Trainer):
    """Trainer whose step is ours; everything else (optimiser, schedule, order, checkpoints, resume) is
    transformers'."""

    def __init__(self, vlm: Vlm, losses: Losses, log: Path, **options: Any) -> None:
        super().__init__(model=vlm.learner, **options)
        self.vlm, self.losses, self.log_file = vlm, losses, log

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One optimiser step's gradients; returns the loss, detached.

        Raises:
            FgvrError: the loss is not finite; the last checkpoint is sound.
        """
        model.train()
        self.vlm.part("tower").eval()
        total = torch.zeros((), device=self.args.device)
        parts: dict[str, float] = {}
        for loss, found in self.losses(inputs["records"]):
            self.accelerator.backward(loss)
            total += loss.detach().float()
            for name, value in found.items():
                parts[name] = parts.get(name, 0.0) + value
        step = self.state.global_step + 1
        if not torch.isfinite(total):
            raise FgvrError(
                f"the loss is {total.item()} at step {step}; lower --lr and start again"
            )
        self._write_log(
            {
                "step": step,
                "loss": round(total.item(), 6),
                **{k: round(v, 6) for k, v in parts.items()},
                "lr": self._get_learning_rate(),
            }
        )
        return total

    def _write_log(self, entry: dict[str, Any]) -> None:
        with open(self.log_file, "ab") as file:
            file.write(stream.encode(entry) + b"\n")


class _Watch(TrainerCallback):
    """Progress for people, and a checkpoint when a signal asks to stop."""

    def __init__(self, request: signals.Request, say: Callable[[int, int], None]) -> None:
        self.request, self.say = request, say

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.say(state.global_step, state.max_steps)
        if self.request.stop:
            control.should_save = control.should_training_stop = True


def train(
    vlm: Vlm,
    records: Sequence[Record],
    losses: Losses,
    recipe: Recipe,
    folder: Path,
    say: Callable[[int, int], None],
    resumed: bool,
) -> None:
    """Train the adapter of `vlm` in place and write `log.jsonl` (one line a step) below `folder`.

    Checkpoints lie below `folder / "checkpoints"`; with `resumed` training goes on from the last one, and the log and
    the final weights equal those of an uninterrupted run (data order, dropout and optimiser state included).

    Args:
        say: called with (steps done, steps in all) after every step.
    Raises:
        UsageError: started as several processes.
        FgvrError: the loss is not finite.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("align and tune run as one process; start them without torchrun or srun -n")
    if vlm.device.type == "cpu":  # the sum of a gradient must not depend on how threads shared the work
        torch.use_deterministic_algorithms(True, warn_only=True)
    set_seed(recipe.seed)
    log, last = folder / "log.jsonl", None
    checkpoints = folder / "checkpoints"
    if resumed and checkpoints.is_dir():
        last = _last_checkpoint(checkpoints)
    _cut_log(log, int(last.rpartition("-")[2]) if last else 0)
    with signals.deferred() as request:
        trainer = _Trainer(
            vlm,
            losses,
            log,
            args=_arguments(recipe, checkpoints, vlm.device),
            train_dataset=_Rows(records),
            data_collator=lambda rows: {"records": rows},
            callbacks=[_Watch(request, say)],
        )
        trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for records
        trainer.train(resume_from_checkpoint=last)
    vlm.model.eval()


def _last_checkpoint(checkpoints: Path) -> str | None:
    """The newest whole checkpoint. A killed run may have left a torn one, which goes: transformers writes
    trainer_state.json last, and deletes an older checkpoint only after that."""
    while last := get_last_checkpoint(str(checkpoints)):
        try:
            json.loads(Path(last, "trainer_state.json").read_text())
        except (OSError, ValueError):
            shutil.rmtree(last)
        else:
            return last
    return None


def _arguments(recipe: Recipe, checkpoints: Path, device: torch.device) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=recipe.batch_size,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.lr,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        optim=recipe.optimiser,
        max_grad_norm=recipe.max_grad_norm,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=2,
        logging_strategy="no",
        seed=recipe.seed,
        data_seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=False,
    )


class _Rows(torch.utils.data.Dataset):
    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def _cut_log(log: Path, steps: int) -> None:
    """Keep the lines of the first `steps` steps: what came after the checkpoint is trained, and logged, again."""
    if not log.exists():
        return
    kept = []
    for line in log.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or json.loads(line)["step"] > steps:
            break
        kept.append(line)
    log.write_bytes(b"".join(kept))


def save_adapter(vlm: Vlm, folder: Path, record: dict[str, Any]) -> None:
    """Write adapter_config.json and adapter_model.safetensors, the run record in the metadata of the latter (one key:
    the library writes several in random order). Without an adapter: the whole model."""
    from safetensors.torch import load_file, save

    if vlm.peft is None:
        return vlm.save(folder)
    vlm.peft.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the hub
    (folder / "README.md").unlink(missing_ok=True)
    weights = folder / "adapter_model.safetensors"
    data = save(load_file(weights), metadata={"fgvr": json.dumps(record, sort_keys=True)})
    weights.unlink()  # the library's files are for their owner alone; a new one follows the umask
    weights.write_bytes(data)
