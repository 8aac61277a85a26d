"""Settings of the stages: one frozen dataclass each. Defaults, units, help and range checks live here and nowhere else.

A command turns the fields into options (fgvr.cli.options.settings) and spreads them into plain arguments of the stage.
`how=True` marks a setting that changes speed or memory but not the result: it may differ on --resume and stays out of
run records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PARSERS = ("strict", "foci-prefix", "finedefics", "vlmevalkit", "mmmu", "substring")  # keys of fgvr.answers.STRATEGIES


def option(default: Any, help: str, *, how: bool = False, choices: tuple[str, ...] = ()) -> Any:
    """A field with the help text of its option."""
    return field(default=default, metadata={"help": help, "how": how, "choices": choices})


POOLS = ("eos", "last", "mean", "cls")
PROBES = ("logistic", "sweep", "knn", "few-shot", "best-epoch")


def listed(text: str) -> list[str]:
    """The words of a list with commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def between(name: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        span = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ValueError(f"--{name.replace('_', '-')} must be {span}, got {value}")


@dataclass(frozen=True)
class Generate:
    """What every stage that asks a model shares."""

    batch_size: int = option(8, "Questions asked at once.", how=True)
    max_new_tokens: int = option(64, "Longest reply, in tokens.")

    def __post_init__(self) -> None:
        between("batch_size", self.batch_size, 1)
        between("max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True)
class Discover:
    """Attribute names from a language model."""

    max_new_tokens: int = option(512, "Longest reply, in tokens.")
    samples: int = option(1, "Replies: one greedy one, or several drawn ones.")
    keep: int | None = option(None, "Keep what so many samples name; by default more than half of them.")
    temperature: float = option(1.0, "Of drawn replies.")
    seed: int = option(0, "Seed of every draw.")

    def __post_init__(self) -> None:
        between("max_new_tokens", self.max_new_tokens, 1)
        between("samples", self.samples, 1)
        if self.keep is not None:
            between("keep", self.keep, 1, self.samples)
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
        between("workers", self.workers, 1, 64)
        if self.group and self.confidence:
            raise ValueError("--confidence needs a reply for each answer, which --group does not give")


@dataclass(frozen=True)
class ConceptAttrs(Generate):
    """Required and likely attributes of categories."""

    max_new_tokens: int = option(512, "Longest reply, in tokens.")
    source: str = option("text", "Where they are from.", choices=("text", "image", "document", "truth"))


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
        between("noise", self.noise, 0, 1)
        if self.noise and (self.source == "class" or self.level == "none"):
            raise ValueError("--noise is for descriptions made of attributes; leave out --source class, --level none")


@dataclass(frozen=True)
class Mine:
    """Hard negatives."""

    per_anchor: int = option(3, "Negatives of each triple (Finedefics: 3).")
    per_category: int = option(1, "Most negatives from one category.")
    by: str = option("image", "Rank categories by their images, names, or both.", choices=("image", "text", "both"))
    of: str = option(
        "images", "Images of other categories, or their names alone (for FOCI's options).", choices=("images", "names")
    )
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
    dtype: str = option(
        "auto", "Precision of the model's weights; auto suits the device.", choices=("auto", "float32", "bfloat16")
    )
    seed: int = option(0, "Seed of every draw.")
    batch_size: int | None = option(None, "Images encoded at once (default: what suits the device).", how=True)
    threads: int | None = option(None, "Threads that read images (default: one a core).", how=True)
    block: int = option(2048, "Images compared at a time.", how=True)

    def __post_init__(self) -> None:
        for name in ("per_anchor", "per_category", "group_size", "block"):
            between(name, getattr(self, name), 1)
        bounds = {"batch_size": (1,), "threads": (1,), "hash_distance": (0, 64), "margin": (0, 2)}
        bounds |= {"duplicate": (-1, 1), "max_score": (-1, 1), "min_score": (-1, 1), "relative_margin": (0, 1)}
        for name, span in bounds.items():
            if getattr(self, name) is not None:
                between(name, getattr(self, name), *span)
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
    """Questions about images."""

    kinds: str | None = option(
        None,
        "Kinds of question, separated by commas: open, mcq, yesno, caption; FINER's granularity, knowledge, dialogue. "
        "[default: open,mcq; --options: mcq]",
    )
    question: str | None = option(
        None,
        "Its text; {superclass}, for yesno {option}, for granularity {concept} are filled in. [default: as "
        "docs/evaluation.md says]",
    )
    choices: int = option(4, "Options of a multiple-choice question, the right one included.")
    distractors: str = option(
        "negatives",
        "Which wrong categories are options.",
        choices=("negatives", "topwrong", "foci4", "same-coarse", "random"),
    )
    level: str | None = option(
        None, "Open and granularity questions ask for this label alone.", choices=("superordinate", "coarse", "fine")
    )
    concept: str = option("gold", "Granularity: whose label one level up.", choices=("gold", "predicted"))
    answers: str = option("finer", "Granularity: free-form or from a list.", choices=("finer", "free", "list"))
    variant: str = option("full", "Dialogue: what it asks for.", choices=("full", "no-answer", "direct"))
    per_class: int | None = option(None, "Most records of a category, drawn by the seed.")
    seed: int = option(0, "Seed of every draw.")

    def __post_init__(self) -> None:
        known = ("open", "mcq", "yesno", "caption", "granularity", "knowledge", "dialogue")
        if self.kinds is not None:
            chosen = self.chosen()
            if len(set(chosen)) != len(chosen) or not set(chosen) <= set(known):
                raise ValueError(f"--kinds must name {', '.join(known)}, each at most once, got {self.kinds!r}")
        if self.question is not None and self.kinds == "yesno" and "{option}" not in self.question:
            raise ValueError("--question of a yesno question must hold {option}")
        between("choices", self.choices, 2, 26)
        if self.distractors == "foci4" and self.choices != 4:
            raise ValueError(f"--distractors foci4 has 4 options, got --choices {self.choices}; use topwrong")
        if self.level is not None and "mcq" in self.chosen():
            raise ValueError("--level is for open questions; add --kinds open")
        if self.per_class is not None:
            between("per_class", self.per_class, 1)
        for name, default in (("concept", "gold"), ("answers", "finer")):
            if getattr(self, name) != default and "granularity" not in self.chosen():
                raise ValueError(f"--{name} is for granularity questions; add --kinds granularity")

    def chosen(self, default: str = "open,mcq") -> tuple[str, ...]:
        """The kinds, in the order given."""
        return tuple(kind.strip() for kind in (default if self.kinds is None else self.kinds).split(","))


@dataclass(frozen=True)
class Assemble:
    """A model out of its parts."""

    connector: str = option("mlp2x", "Two linear layers with GELU between.", choices=("mlp2x",))
    feature_layer: int = option(-2, "Layer of the vision tower that the connector takes, from the end.")
    seed: int = option(0, "Seed of the connector's weights and of new tokens' embeddings.")

    def __post_init__(self) -> None:
        between("feature_layer", self.feature_layer, -1000, -1)


@dataclass(frozen=True)
class Eval:
    """Answers to questions."""

    batch_size: int = option(8, "Questions asked at once.", how=True)
    max_new_tokens: int | None = option(None, "Longest reply, in tokens. [default: 32; --prompting cot: 512]")
    prompting: str = option(
        "direct",
        "The question alone, after a turn about attributes, or with thought before the answer.",
        choices=("direct", "attr-seek", "cot"),
    )
    opening_tokens: int = option(256, "Longest list of attributes of --prompting attr-seek, in tokens.")
    scoring: str | None = option(
        None,
        "Read a reply, or take the likeliest letter, option text or category name. [default: generate; CLIP: option]",
        choices=("generate", "letter", "option", "label"),
    )
    normalise: str = option(
        "mean",
        "What counts of a text's log-likelihood: sum or mean over its tokens, or the sum less that for a grey image.",
        choices=("sum", "mean", "prior"),
    )
    permutations: str = option(
        "none", "Ask a multiple-choice question once, or in each rotation of its options.", choices=("none", "cyclic")
    )
    parser: str = option("strict", "How an option is read out of a reply.", choices=PARSERS)
    template: str = option("a photo of a {}", "CLIP's text for a name; several, joined by |, are averaged.")
    workers: int = option(2, "Threads that decode images ahead.", how=True)

    def __post_init__(self) -> None:
        between("batch_size", self.batch_size, 1)
        between("workers", self.workers, 1, 64)
        between("opening_tokens", self.opening_tokens, 1)
        if self.max_new_tokens is not None:
            between("max_new_tokens", self.max_new_tokens, 1)
        if self.prompting == "cot" and self.scoring not in (None, "generate"):
            raise ValueError(f"--prompting cot writes its thoughts; it does not go with --scoring {self.scoring}")
        if self.prompting != "direct" and self.scoring == "label":
            raise ValueError(f"--scoring label asks the question alone; leave --prompting {self.prompting} out")
        if not all("{}" in part for part in self.template.split("|")):
            raise ValueError(f"--template must hold {{}}, the place of the name, got {self.template!r}")


@dataclass(frozen=True)
class Score:
    """Metrics of predictions."""

    format: str | None = option(
        None,
        "What the input is. [default: found out]",
        choices=("fgvr", "foci", "vlmevalkit", "lmms-eval", "finer"),
    )
    parser: str | None = option(
        None,
        "Read the replies of choices anew. [default: as recorded; strict where nothing is]",
        choices=PARSERS,
    )
    by: str | None = option(None, "The share of right answers also by this field, such as category or superclass.")
    confused: int = option(0, "Also the most confused pairs of names, so many.")
    confusion: bool = option(False, "Also the confusion matrix, a record a cell.")
    table: bool = option(False, "Write a table for people, not records; to -o FILE.md in Markdown.")
    columns: str | None = option(None, "The table has a row a run, and these figures: KIND METRIC, with commas.")
    seeds: bool = option(False, "Runs called NAME@SEED are one: mean and standard deviation.")
    write_format: str = option(
        "fgvr",
        "Write the run for another tool: its predictions or its metrics.",
        choices=("fgvr", "foci", "lmms-eval", "lmms-eval-samples"),
    )

    def __post_init__(self) -> None:
        between("confused", self.confused, 0)
        if self.table and self.write_format != "fgvr":
            raise ValueError(f"--table and --write-format {self.write_format} exclude each other")
        if self.columns is not None and not (self.table and listed(self.columns)):
            raise ValueError("--columns names figures of a --table; add --table")


@dataclass(frozen=True)
class Probe:
    """Probes and alignment quality."""

    at: str = option("output", "Where, with commas: tower, connector, output, layers, or layers' numbers.")
    pool: str = option("eos,last,mean", "Of which tokens, with commas: eos, last, mean, cls.")
    probes: str = option("logistic", "Which, with commas: logistic, sweep, knn, few-shot, best-epoch.")
    shots: str = option("1,2,4,8,16", "Training images a category of few-shot probes, with commas.")
    seeds: int = option(3, "Draws of each few-shot probe.")
    knowledge: int = option(0, "Descriptions drawn of each category, to be probed.")
    max_new_tokens: int = option(128, "Longest description, in tokens.")
    map_method: str = option("tsne", "How --map lays out.", choices=("tsne", "umap", "pca"))
    batch_size: int = option(8, "Images encoded at once.", how=True)
    seed: int = option(0, "Seed of every draw.")

    def __post_init__(self) -> None:
        between("batch_size", self.batch_size, 1)
        between("seeds", self.seeds, 1)
        between("max_new_tokens", self.max_new_tokens, 1)
        between("knowledge", self.knowledge, 0)
        if 0 < self.knowledge < 4:
            raise ValueError(f"--knowledge must be 0 or at least 4, halves to train and to test, got {self.knowledge}")
        for name, known in (("pool", POOLS), ("probes", PROBES)):
            given = listed(getattr(self, name))
            if not given or not set(given) <= set(known):
                raise ValueError(f"--{name} must name some of {', '.join(known)}, got {getattr(self, name)!r}")
        if not all(word.isdigit() and int(word) for word in listed(self.shots)):
            raise ValueError(f"--shots must be numbers from 1 with commas between them, got {self.shots!r}")

    @property
    def places(self) -> list[str]:
        return listed(self.at)

    @property
    def pools(self) -> list[str]:
        return listed(self.pool)

    @property
    def which(self) -> list[str]:
        return listed(self.probes)

    @property
    def shot_counts(self) -> list[int]:
        return [int(word) for word in listed(self.shots)]


@dataclass(frozen=True)
class Report:
    """The page about runs."""

    title: str = option("fgvr report", "Title of the page.")
    errors_shown: int = option(200, "Wrong answers shown of each run and kind of question.")
    thumbnail_px: int = option(160, "Longer side of the errors' images, in pixels.")
    parser: str | None = option(None, "Read the replies of choices anew, as in `fgvr score`.", choices=PARSERS)
    latex: bool = option(False, "Write the tables as LaTeX, not a page.")

    def __post_init__(self) -> None:
        between("errors_shown", self.errors_shown, 0)
        between("thumbnail_px", self.thumbnail_px, 16, 1024)
