"""Settings of the stages that train, as fgvr.settings has those of the others."""

from __future__ import annotations

from dataclasses import dataclass

from fgvr.settings import between, option


@dataclass(frozen=True)
class Training:
    """What both training stages share; the defaults are Finedefics' (section 4.1 and its released script)."""

    batch_size: int = option(64, "Records a step.")
    epochs: float = option(1.0, "Passes over the records.")
    lr: float = option(2e-4, "Peak learning rate; linear warm-up, then linear decay to 0.")
    warmup_steps: int = option(60, "Steps of warm-up.")
    weight_decay: float = option(0.01, "AdamW's weight decay.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0: not at all.")
    train: str = option(
        "adapter", "Adapters on connector and language model or on one of them; or all weights but the tower's.",
        choices=("adapter", "connector", "language-model", "full"),
    )  # fmt: skip
    rank: int = option(8, "Rank of a new adapter.")
    alpha: int = option(8, "Scale of a new adapter: its update counts alpha / rank.")
    dropout: float = option(0.2, "Share of a new adapter's inputs dropped in training.")
    dora: bool = option(False, "A new adapter also learns the length of each row of a weight (DoRA).")
    quantise: str = option(
        "none", "Keep the language model's weights in 4 bits (QLoRA, double quantised).", choices=("none", "nf4")
    )
    optimiser: str = option(
        "adamw_torch_fused", "As transformers names it.",
        choices=("adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"),
    )  # fmt: skip
    gradient_checkpointing: bool = option(
        False, "Compute the language model's layers again in the backward pass: less memory, more time.", how=True
    )
    connector_warmup: float = option(0.0, "First share of the steps, in which the connector alone learns.")
    micro_batch: int | None = option(
        None, "Records in memory at once, in each process; the step's gradient is the same.", how=True
    )
    shard_weights: bool = option(
        False, "Of several processes each keeps a part of the language model's layers (FSDP).", how=True
    )
    vision_cache: str | None = option(None, "Folder that keeps what the frozen vision tower gives.", how=True)
    save_steps: int = option(60, "Steps between checkpoints.", how=True)
    logs: str | None = option(None, "Folder of speed.jsonl and TensorBoard's files (default: DIR.logs).", how=True)
    report_to: str = option(
        "auto", "Where steps are reported; auto: to TensorBoard if it is installed.", how=True,
        choices=("auto", "none", "tensorboard", "wandb", "mlflow", "trackio"),
    )  # fmt: skip
    choice_reply: str = option(
        "letter", "How a choice is answered: by its letter or its text.", choices=("letter", "text")
    )
    seed: int = option(0, "Seed of order, dropout and first weights.")

    def __post_init__(self) -> None:
        for name in ("batch_size", "rank", "alpha", "save_steps"):
            between(name, getattr(self, name), 1)
        between("micro_batch", 1 if self.micro_batch is None else self.micro_batch, 1)
        between("connector_warmup", self.connector_warmup, 0, 1)
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            between(name, getattr(self, name), 0)
        between("dropout", self.dropout, 0, 0.99)
        if self.train == "full" and (self.dora or self.quantise != "none"):
            raise ValueError("--train full has no adapter and needs whole weights; leave out --dora and --quantise")
        for name in ("epochs", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True)
class Align(Training):
    """Stage I: contrastive alignment of object, attributes and category."""

    loss_form: str = option(
        "paper", "Losses as printed, or as the released code computes them.", choices=("paper", "released")
    )
    temperature: float = option(1.0, "Cosines are divided by this; the paper has none, its code starts at 0.07.")
    learn_temperature: bool = option(False, "Learn the temperature, from --temperature on.")
    reduction: str = option(
        "mean", "Contrastive terms are averaged or, as printed, summed over the batch.", choices=("mean", "sum")
    )
    pairs: str = option(
        "attribute", "Contrast objects with descriptions and these with names, or objects with names.",
        choices=("attribute", "object-category"),
    )  # fmt: skip
    negatives: str = option(
        "hard", "Besides the batch: each triple's own, as many drawn from other categories, or none.",
        choices=("hard", "simple", "none"),
    )  # fmt: skip
    pool: str = option("eos", "Which hidden state stands for an object or a text.", choices=("eos", "last", "mean"))
    generation_weight: float = option(1.0, "Weight of the description's generation.")
    oac_weight: float = option(0.5, "Weight of object-attribute contrast; of object-category, with such --pairs.")
    acc_weight: float = option(0.5, "Weight of attribute-category contrast.")
    ccc_weight: float = option(0.5, "Weight of category-category contrast.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("generation_weight", "oac_weight", "acc_weight", "ccc_weight"):
            between(name, getattr(self, name), 0)
        if not self.temperature > 0:
            raise ValueError(f"--temperature must be positive, got {self.temperature}")


@dataclass(frozen=True)
class Tune(Training):
    """Stage II: instruction tuning on questions."""

    batch_size: int = option(128, "Records a step.")


@dataclass(frozen=True)
class Merge:
    """An adapter into its base."""

    base: str | None = option(
        None,
        "The base as it is, or as NF4 makes it. [default: as the adapter was trained]",
        choices=("original", "dequantised"),
    )
