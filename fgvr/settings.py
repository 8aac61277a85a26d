"""Settings of the stages: one frozen dataclass each. Defaults, units, help and range checks live here and nowhere else.

A command turns the fields into options (fgvr.cli.options.settings) and spreads them into plain arguments of the stage.
`how=True` marks a setting that changes speed or memory but not the result: it may differ on --resume and stays out of
run records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def option(default: Any, help: str, *, how: bool = False, choices: tuple[str, ...] = ()) -> Any:
    """A field with the help text of its option."""
    return field(default=default, metadata={"help": help, "how": how, "choices": choices})


def _between(name: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        span = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ValueError(f"--{name.replace('_', '-')} must be {span}, got {value}")


@dataclass(frozen=True)
class Toy:
    """The drawn world of birds."""

    species: int = option(30, "Species in the world.")
    train: int = option(20, "Training images of each species.")
    val: int = option(4, "Validation images of each species.")
    test: int = option(10, "Test images of each species.")
    size: int = option(96, "Width and height of an image in pixels.")
    seed: int = option(0, "Seed of every draw.")

    def __post_init__(self) -> None:
        _between("species", self.species, 2)
        for name in ("train", "val", "test"):
            _between(name, getattr(self, name), 0)
        _between("size", self.size, 16, 4096)


@dataclass(frozen=True)
class Folder:
    """Images in folders, one a category."""

    hyphens_to_spaces: bool = option(False, "Turn hyphens of folder names into spaces: Red-Bell-Pepper.")
    verify: bool = option(False, "Decode every image; one that cannot be read is a bad record.")


@dataclass(frozen=True)
class Generate:
    """What every stage that asks a model shares."""

    batch_size: int = option(8, "Questions asked at once.", how=True)
    max_new_tokens: int = option(64, "Longest reply, in tokens.")

    def __post_init__(self) -> None:
        _between("batch_size", self.batch_size, 1)
        _between("max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True)
class Discover:
    """Attribute names from a language model."""

    max_new_tokens: int = option(512, "Longest reply, in tokens.")
    samples: int = option(1, "Replies: one greedy one, or several drawn ones.")
    keep: int | None = option(None, "Keep what so many samples name; by default more than half of them.")
    temperature: float = option(1.0, "Of drawn replies.")
    seed: int = option(0, "Seed of every draw.")

    def __post_init__(self) -> None:
        _between("max_new_tokens", self.max_new_tokens, 1)
        _between("samples", self.samples, 1)
        if self.keep is not None:
            _between("keep", self.keep, 1, self.samples)
        if not self.temperature > 0:
            raise ValueError(f"--temperature must be positive, got {self.temperature}")


@dataclass(frozen=True)
class Extract(Generate):
    """Answers to attribute questions."""

    batch_size: int = option(64, "Questions asked at once; those on one image share its encoding.", how=True)
    max_new_tokens: int = option(128, "Longest reply, in tokens.")
    group: bool = option(False, "Ask for all attributes in one JSON reply; for servers.")
    confidence: bool = option(False, "Also add each answer's mean log-probability, as `confidence`.")
    workers: int = option(2, "Threads that decode images ahead.", how=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _between("workers", self.workers, 1, 64)
        if self.group and self.confidence:
            raise ValueError("--confidence needs a reply for each answer, which --group does not give")


@dataclass(frozen=True)
class Summarise(Generate):
    """Descriptions from attributes."""

    max_new_tokens: int = option(256, "Longest reply, in tokens.")
    level: str = option(
        "long", "Five sentences, one, or one that tells nothing (no model is asked).", choices=("long", "short", "none")
    )
    source: str = option(
        "image",
        "What is told: `attributes`, the category's name alone, or `attributes_true`.",
        choices=("image", "class", "truth"),
    )
    noise: float = option(0.0, "Share of attributes that get an answer of another category.")
    seed: int = option(0, "Seed of every draw.")

    def __post_init__(self) -> None:
        super().__post_init__()
        _between("noise", self.noise, 0, 1)
        if self.noise and (self.source == "class" or self.level == "none"):
            raise ValueError("--noise is for descriptions made of attributes; leave out --source class, --level none")


@dataclass(frozen=True)
class Mine:
    """Hard negatives."""

    per_anchor: int = option(3, "Negatives of each triple (Finedefics: 3).")
    batch_size: int = option(32, "Images or texts encoded at once.", how=True)

    def __post_init__(self) -> None:
        _between("per_anchor", self.per_anchor, 1)
        _between("batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class Questions:
    """Open-set and multiple-choice questions."""

    kinds: str = option("open,mcq", "Kinds of question, separated by commas: open, mcq.")
    question: str | None = option(None, "The question, instead of one that asks for the name of the {superclass}.")
    options: int = option(4, "Options of a multiple-choice question, the right one included.")
    distractors: str = option("negatives", "Where wrong options come from.", choices=("negatives", "random"))
    seed: int = option(0, "Seed of every draw.")

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.chosen if kind not in ("open", "mcq")]
        if unknown or len(set(self.chosen)) != len(self.chosen):
            raise ValueError(f"--kinds must name open and mcq, each at most once, got {self.kinds!r}")
        _between("options", self.options, 2, 26)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The kinds, in the order given."""
        return tuple(kind.strip() for kind in self.kinds.split(","))


@dataclass(frozen=True)
class Training:
    """What both training stages share; the defaults are Finedefics' (section 4.1 and its released script)."""

    batch_size: int = option(64, "Records a step.")
    epochs: float = option(1.0, "Passes over the records.")
    lr: float = option(2e-4, "Peak learning rate; linear warm-up, then linear decay to 0.")
    warmup_steps: int = option(60, "Steps of warm-up.")
    weight_decay: float = option(0.01, "AdamW's weight decay.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0: not at all.")
    rank: int = option(8, "Rank of a new adapter.")
    alpha: int = option(8, "Scale of a new adapter: its update counts alpha / rank.")
    dropout: float = option(0.2, "Share of a new adapter's inputs dropped in training.")
    save_steps: int = option(60, "Steps between checkpoints.", how=True)
    seed: int = option(0, "Seed of order, dropout and first weights.")

    def __post_init__(self) -> None:
        for name in ("batch_size", "rank", "alpha", "save_steps"):
            _between(name, getattr(self, name), 1)
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            _between(name, getattr(self, name), 0)
        _between("dropout", self.dropout, 0, 0.99)
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
    reduction: str = option(
        "mean", "Contrastive terms are averaged or, as printed, summed over the batch.", choices=("mean", "sum")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"--temperature must be positive, got {self.temperature}")


@dataclass(frozen=True)
class Tune(Training):
    """Stage II: instruction tuning on questions."""

    batch_size: int = option(128, "Records a step.")
    choice_reply: str = option(
        "letter", "How a choice is answered: by its letter or its text.", choices=("letter", "text")
    )
    micro_batch: int | None = option(None, "Records in memory at once; the result is the same.", how=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_batch is not None:
            _between("micro_batch", self.micro_batch, 1)


@dataclass(frozen=True)
class Eval(Generate):
    """Replies to questions."""

    max_new_tokens: int = option(32, "Longest reply, in tokens.")
    choose: str = option(
        "reply",
        "A multiple-choice question: read its reply, or take the option whose letter or text is likeliest.",
        choices=("reply", "letter", "text"),
    )
    parser: str = option("strict", "How an option is read out of a reply.", choices=("strict", "foci-prefix"))


@dataclass(frozen=True)
class Probe:
    """Linear probe and alignment quality."""

    batch_size: int = option(8, "Images encoded at once.", how=True)
    seed: int = option(0, "Seed of every draw.")

    def __post_init__(self) -> None:
        _between("batch_size", self.batch_size, 1)
