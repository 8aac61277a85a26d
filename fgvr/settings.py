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

    def __post_init__(self) -> None:
        _between("max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True)
class Extract(Generate):
    """Answers to attribute questions."""

    batch_size: int = option(64, "Questions asked at once; those on one image share its encoding.", how=True)
    max_new_tokens: int = option(128, "Longest reply, in tokens.")


@dataclass(frozen=True)
class Summarise(Generate):
    """Descriptions from attributes."""

    max_new_tokens: int = option(256, "Longest reply, in tokens.")


@dataclass(frozen=True)
class Mine:
    """Hard negatives."""

    per_anchor: int = option(3, "Negatives of each triple (Finedefics: 3).")
    per_category: int = option(1, "Most negatives from one category.")
    by: str = option("image", "Rank categories by their images, names, or both.", choices=("image", "text", "both"))
    ranked_by: str = option(
        "nearest", "By image: the category's nearest image, or its mean.", choices=("nearest", "prototype")
    )
    strategy: str = option(
        "hard", "First categories of the ranking, any, or any of --band.", choices=("hard", "random", "band")
    )
    band: str | None = option(None, "Ranks FIRST:LAST of categories for --strategy band, from 1.")
    templates: str = option("an image of a {}", "Prompts for category names, separated by | (FOCI's).")
    duplicate: float | None = option(None, "Refuse pictures of this cosine or more: near-duplicates.")
    hash_distance: int | None = option(None, "Refuse pictures whose perceptual hashes differ in at most N of 64 bits.")
    max_score: float | None = option(None, "Refuse greater scores.")
    min_score: float | None = option(None, "Refuse lesser scores.")
    margin: float | None = option(None, "Keep scores below the own category's minus this.")
    relative_margin: float | None = option(None, "Keep scores below the own category's times (1 - this).")
    group_size: int = option(8, "Most categories in a group of --groups.")
    dtype: str = option("auto", "Weights of the encoder.", choices=("auto", "float32", "bfloat16"))
    seed: int = option(0, "Seed of every draw.")
    batch_size: int | None = option(None, "Images encoded at once (default: what suits the device).", how=True)
    threads: int | None = option(None, "Threads that read images (default: one a core).", how=True)
    block: int = option(2048, "Images compared at a time.", how=True)

    def __post_init__(self) -> None:
        for name in ("per_anchor", "per_category", "group_size", "block"):
            _between(name, getattr(self, name), 1)
        bounds = {"batch_size": (1,), "threads": (1,), "hash_distance": (0, 64), "margin": (0, 2)}
        bounds |= {"duplicate": (-1, 1), "max_score": (-1, 1), "min_score": (-1, 1), "relative_margin": (0, 1)}
        for name, span in bounds.items():
            if getattr(self, name) is not None:
                _between(name, getattr(self, name), *span)
        if (self.band is None) == (self.strategy == "band"):
            raise ValueError("--strategy band and --band FIRST:LAST need each other")
        if not all("{}" in template for template in self.templates.split("|")):
            raise ValueError(f"--templates needs {{}} in every prompt, got {self.templates!r}")
        _ = self.ranks

    @property
    def ranks(self) -> tuple[int, int] | None:
        """--band as numbers."""
        if self.band is None:
            return None
        first, _, last = self.band.partition(":")
        if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
            raise ValueError(f"--band must be FIRST:LAST with 1 <= FIRST <= LAST, got {self.band!r}")
        return int(first), int(last)


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
