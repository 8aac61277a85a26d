"""What both stages of training let the user set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed
from transformers import TrainingArguments


@dataclass(frozen=True)
class Recipe:
    """What both stages let the user set; the defaults are Finedefics' (section 4.1), see fgvr.settings."""

    batch_size: int  # records a step, all processes together
    epochs: float
    lr: float  # peak of a linear schedule
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float  # 0: no clipping
    save_steps: int  # steps between checkpoints
    seed: int
    optimiser: str = "adamw_torch_fused"
    connector_warmup: float = 0.0  # first share of the steps, in which the connector alone learns
    micro_batch: int | None = None  # records in memory at once, in each process


def arguments(recipe: Recipe, checkpoints: Path, device: torch.device, names: Sequence[str]) -> TrainingArguments:
    """The same as transformers' Trainer takes it.

    Args:
        names: of the trackers that it reports to.
    """
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
        report_to=list(names) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        ddp_backend="gloo" if device.type == "cpu" and distributed.is_initialized() else None,
        dataloader_pin_memory=False,
    )
