"""triple -> mined: the images most easily confused with each one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fgvr.errors import FgvrError
from fgvr.names import Aliases
from fgvr.records import Record
from fgvr.settings import Mine
from fgvr.stream import Bad, Item

if TYPE_CHECKING:
    from torch import Tensor

    from fgvr.features import Encoded
    from fgvr.models.encoders import Parts
    from fgvr.rules import Found, Images
    from fgvr.tensors import Features

DIGITS = 4  # of a similarity: an image's float32 features differ in the last bits from batch size to batch size
TEXTS = 256  # prompts encoded at once


class Source(Protocol):
    """Where features come from."""

    def __call__(self, items: Iterable[Item]) -> tuple[list[Item], Encoded]:
        """All items, with a Bad for each image without features, and the others' features."""
        ...

    def whole(self, records: Sequence[Record], option: str) -> Encoded: ...

    def texts(self, texts: list[str]) -> Tensor: ...


@dataclass
class Report:
    """What mining did. `paths` (id -> image) is filled when it is a dict."""

    anchors: int = 0
    short: int = 0
    without_positive: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    paths: dict[str, str] | None = None

    def summary(self) -> dict[str, Any]:
        """For the run record."""
        return {"anchors": self.anchors, "with_too_few": self.short, "without_positive": self.without_positive,
                "removed_pairs": self.removed}  # fmt: skip

    def words(self, settings: Mine) -> str:
        """For people; "" when there is nothing to tell."""
        said = [f"{rule} removed {count}" for rule, count in self.removed.items()]
        if self.without_positive:
            said.append(f"{self.without_positive} records have no positive for a margin")
        if self.short:
            why = "" if self.removed else ": too few other categories"
            said.append(f"{self.short} of {self.anchors} records have fewer than {settings.per_anchor} negatives{why}")
        return "; ".join(said)


def mine(
    items: Iterable[Item],
    source: Source,
    settings: Mine,
    pool: Sequence[Record] | None = None,
    *,
    aliases: Aliases | None = None,
    wanted: Callable[[Record], bool] = lambda record: True,
    report: Report | None = None,
    device: str = "cpu",
) -> Iterator[Item]:
    """Add `negatives`, hardest first; docs/mining.md has the rules in their order.

    Needs the whole stream; holds its records and one feature row for each image, never the images.

    Args:
        items: records with `image` and `category`, and with `description` where they are the pool.
        pool: triples that negatives are taken from; None: the stream itself.
        wanted: the records to mine for (a shard); the others only serve as candidates and do not come out.
        report: gets the counts.
        device: where features are compared.
    Raises:
        FgvrError: an image of `pool` cannot be read; widths differ; a feature is zero or not finite.
    Source: Finedefics (arXiv 2501.15140), section 3.2: three most similar but incorrect categories, one image each.
    """
    report = report or Report()
    kept, encoded = source(items)
    records = [item for item in kept if not isinstance(item, Bad)]
    candidates, of_pool = records, encoded
    if pool is not None:
        candidates, of_pool = list(pool), source.whole(pool, "--from")
    if report.paths is not None:
        report.paths |= {record["id"]: record["image"] for record in candidates}
    chosen = [n for n, record in enumerate(records) if wanted(record)]
    anchors = [records[n] for n in chosen]
    report.anchors = len(anchors)
    negatives: list[list[Record]] = [[] for _ in anchors]
    if anchors and candidates:
        images = _images(anchors, encoded, chosen)
        found = _found(anchors, images, candidates, of_pool, source, settings, aliases, device)
        report.removed, report.without_positive = dict(found.removed), found.without_positive
        rows = zip(found.index.tolist(), found.cosine.tolist(), strict=True)
        negatives = [[_negative(candidates[i], s) for i, s in zip(*row, strict=True) if i >= 0] for row in rows]
    report.short = sum(len(some) < settings.per_anchor for some in negatives)
    results = {record["id"]: some for record, some in zip(anchors, negatives, strict=True)}
    for item in kept:
        if isinstance(item, Bad):
            yield item
        elif item["id"] in results:
            yield {**item, "negatives": results[item["id"]]}


def mine_names(
    items: Iterable[Item], source: Source, settings: Mine, pool: Sequence[Record] = (), *, report: Report | None = None
) -> Iterator[Item]:
    """Add the zero-shot classifier's view of each image: `category_similarity` of its own category, its
    `category_rank` (1: the most similar of all), and as `negatives` the names of the most similar wrong categories.

    Args:
        items: records with `image` and `category`; the categories are theirs and those of `pool`.
    Source: FOCI's options_generation.py: CLIP, "an image of a {label}". Ties: the right category first, then by name.
    """
    from torch.nn.functional import normalize

    report = report or Report()
    kept, encoded = source(items)
    records = [item for item in kept if not isinstance(item, Bad)]
    report.anchors = len(records)
    names = sorted({record["category"] for record in (*records, *pool)})
    found: Iterator[Record] = iter(())
    if records:
        columns = normalize(_prompted(names, settings.templates.split("|"), source), dim=1).T
        report.short = len(records) if len(names) <= settings.per_anchor else 0
        found = _ranked(records, encoded.features, names, columns, settings)
    for item in kept:
        yield item if isinstance(item, Bad) else {**item, **next(found)}


def _ranked(
    records: list[Record], features: Tensor, names: list[str], columns: Tensor, settings: Mine
) -> Iterator[Record]:
    """What `mine_names` adds to each record, in their order; one block of similarities in memory at a time."""
    place = {name: i for i, name in enumerate(names)}
    for start in range(0, len(records), settings.block):
        cosine = features[start : start + settings.block] @ columns
        best = cosine.sort(dim=1, descending=True, stable=True).indices[:, : settings.per_anchor + 1].tolist()
        for record, line, order in zip(records[start:], cosine, best, strict=False):
            gold = place[record["category"]]
            wrong = [i for i in order if i != gold][: settings.per_anchor]
            yield {
                "category_similarity": round(line[gold].item(), DIGITS),
                "category_rank": 1 + int((line > line[gold]).sum()),
                "negatives": [{"category": names[i], "similarity": round(line[i].item(), DIGITS)} for i in wrong],
            }


def _found(
    anchors: list[Record],
    images: Images,
    candidates: list[Record],
    of_pool: Encoded,
    source: Source,
    settings: Mine,
    aliases: Aliases | None,
    device: str,
) -> Found:
    from fgvr.models.loading import pick_device
    from fgvr.negatives import hard_negatives
    from fgvr.rules import Choice, Rules

    texts = None
    if settings.by != "image":
        names = sorted({record["category"] for record in (*anchors, *candidates)})
        texts = names, _prompted(names, settings.templates.split("|"), source)
    try:
        return hard_negatives(
            images,
            _images(candidates, of_pool, range(len(candidates))),
            Choice(settings.per_anchor, settings.per_category, settings.by, settings.ranked_by, settings.strategy,
                   settings.ranks, settings.seed),
            Rules(settings.duplicate, settings.hash_distance, settings.max_score, settings.min_score, settings.margin,
                  settings.relative_margin),
            texts=texts,
            aliases=aliases,
            block=settings.block,
            device=pick_device(device),
        )  # fmt: skip
    except ValueError as error:
        raise FgvrError(f"cannot compare these features: {error}; correct them or use another model") from error


def _prompted(names: list[str], templates: list[str], source: Source) -> Tensor:
    """(T, D) the mean of each name's prompts, as CLIP's prompt ensembles (arXiv 2103.00020, section 3.1.4)."""
    import torch

    total = None
    for template in templates:
        prompts = [template.replace("{}", name) for name in names]
        rows = torch.cat([source.texts(prompts[n : n + TEXTS]) for n in range(0, len(prompts), TEXTS)])
        total = rows if total is None else total + rows
    assert total is not None
    return total


def _images(records: Sequence[Record], encoded: Encoded, rows: Sequence[int]) -> Images:
    from fgvr.rules import Images

    digests = [encoded.digests[n] for n in rows] if encoded.digests else [""] * len(records)
    pairs = zip(records, digests, strict=True)
    same = [(record["image"], digest) if digest else (record["image"],) for record, digest in pairs]
    take = slice(None) if len(rows) == len(encoded.features) else list(rows)
    return Images(
        encoded.features[take],
        [record["category"] for record in records],
        [record["id"] for record in records],
        same,
        None if encoded.hashes is None else encoded.hashes[take],
    )


def _negative(record: Record, similarity: float) -> Record:
    chosen = {name: record[name] for name in ("id", "category", "description")}
    return {**chosen, "similarity": round(similarity, DIGITS)}


class FromModel:
    """Features by an open encoder, its images through fgvr.features.Extractor."""

    def __init__(self, encoder: Any, model: Parts, root: str | Path, **options: Any) -> None:
        from fgvr.features import Extractor

        self.extract = Extractor(model, root, **options)
        self.texts = encoder.texts

    def __call__(self, items: Iterable[Item]) -> tuple[list[Item], Encoded]:
        return self.extract(items)

    def whole(self, records: Sequence[Record], option: str) -> Encoded:
        return self.extract.whole(records, option)


class FromFile:
    """Features that were made elsewhere (fgvr.features.load); no image is read."""

    def __init__(self, features: Features, name: str) -> None:
        self.features, self.name = features, name

    def __call__(self, items: Iterable[Item]) -> tuple[list[Item], Encoded]:
        kept = list(items)
        return kept, self.whole([item for item in kept if not isinstance(item, Bad)], "")

    def whole(self, records: Sequence[Record], option: str) -> Encoded:
        from fgvr.features import Encoded, of

        return Encoded(of(self.features, records, self.name), [])

    def texts(self, texts: list[str]) -> Tensor:
        raise FgvrError(f"{self.name}: a feature file has no texts; use --by image, or an encoder")
