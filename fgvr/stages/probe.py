"""test images, training images -> metrics records: what features tell apart, and how near to names they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fgvr.analysis import alignment, linear, probes
from fgvr.analysis.linear import Score
from fgvr.errors import FgvrError
from fgvr.metrics import wilson
from fgvr.records import Record
from fgvr.stream import Bad, Item

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ALIGNED = "eos"  # the pool that stage I aligns, Eqs 5-7
DIGITS = 4  # of a mean of cosines: float32 features differ in the last bits from batch size to batch size
TEXTS = 64  # encoded at once


class Embedder(Protocol):
    """What is asked of a model (fgvr.models.places.Places)."""

    about: dict[str, Any]

    def images(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """ "output/eos" (place/pool) -> (N, D) float32 on the CPU, not normalised."""
        ...

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The same of texts, at the places that texts have."""
        ...


@dataclass(frozen=True)
class Which:
    """Which probes: logistic (L-BFGS), sweep (SGD), knn, few-shot, best-epoch; `shots` and `seeds` are for few-shot."""

    probes: Sequence[str] = ("logistic",)
    shots: Sequence[int] = (1, 2, 4, 8, 16)
    seeds: int = 3
    seed: int = 0


class Features:
    """The features of images, each file encoded once, at all places in one pass.

    Args:
        about: what makes features equal, for the cache; cache: its folder, or None.
    """

    def __init__(
        self, model: Embedder, root: str | Path, batch: int, cache: str | None = None, about: Mapping[str, Any] = {}
    ) -> None:
        import torch
        from PIL import Image

        from fgvr.features import Extractor
        from fgvr.models.encoders import Parts

        # all places in one row; how wide each is shows in a first image
        first = model.images([Image.new("RGB", (64, 64))])
        self.widths = {name: rows.shape[1] for name, rows in first.items()}

        def encode(images: list[Image.Image]) -> Tensor:
            return torch.cat(list(model.images(images).values()), dim=1)

        known = {"model": model.about, "places": list(self.widths), **about}
        self.extract = Extractor(Parts(lambda image: image, encode, known), root, cache, batch=batch, threads=1)

    def __call__(self, items: Iterable[Item]) -> tuple[list[Item], dict[str, Tensor]]:
        """All items, a Bad for each image that cannot be read, and the features of the others: place/pool -> (N, D)."""
        kept, found = self.extract(items)
        return kept, self._split(found.features)

    def whole(self, records: Sequence[Record], option: str) -> dict[str, Tensor]:
        """Of a side input. Raises FgvrError, beginning with `option`, when an image cannot be read."""
        return self._split(self.extract.whole(records, option).features)

    def _split(self, rows: Tensor) -> dict[str, Tensor]:
        if not len(rows):
            return {}
        return dict(zip(self.widths, rows.split(list(self.widths.values()), dim=1), strict=True))


class Stored:
    """Features that were made elsewhere, in place of a model: FILE.safetensors (fgvr.features.load), by record id."""

    vlm = None

    def __init__(self, names: str) -> None:
        from fgvr.features import load
        from fgvr.provenance import describe

        self.names, self.found = names, load(names)
        self.about = {"features": [describe(name) for name in names.split(",")]}

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        return {}

    def __call__(self, items: Iterable[Item]) -> tuple[list[Item], dict[str, Tensor]]:
        kept = list(items)
        return kept, self.whole([item for item in kept if not isinstance(item, Bad)], "input")

    def whole(self, records: Sequence[Record], option: str) -> dict[str, Tensor]:
        """Raises FgvrError when a record has no features."""
        from fgvr.features import of

        return {"output/features": of(self.found, records, f"{option}: {self.names}")}


def constant(features: Mapping[str, Tensor], records: Sequence[Record]) -> list[str]:
    """The places whose features are equal for all records.

    Raises:
        FgvrError: features of a record are not finite.
    """
    for name, rows in features.items():
        bad = ~rows.isfinite().all(dim=1)
        if bad.any():
            key = records[int(bad.nonzero()[0])]["id"]
            raise FgvrError(f"{key}: features at {name} are not finite; use another --at, or a model in float32")
    return [name for name, rows in features.items() if len(rows) > 1 and bool((rows == rows[0]).all())]


def texts(model: Embedder, some: Sequence[str]) -> dict[str, Tensor]:
    """The features of texts."""
    import torch

    parts = [model.texts(some[start : start + TEXTS]) for start in range(0, len(some), TEXTS)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


def held_back(train: Sequence[Record], seed: int) -> tuple[list[int], list[int]]:
    """Rows that probes are fitted on, and a fifth of each category's that chooses their penalty.

    Raises:
        FgvrError: there is no record, or no category has two images.
    """
    if not train:
        raise FgvrError("--train has no record; name the training images' records")
    fitted, held = linear.split([r["id"] for r in train], [r["category"] for r in train], seed=seed)
    if not held:
        raise FgvrError("--train has one image a category; a probe needs two or more of some")
    return fitted, held


def probe(
    train: Sequence[Record], of_train: Mapping[str, Tensor], test: Sequence[Record], of_test: Mapping[str, Tensor],
    of_names: Mapping[str, Tensor], which: Which = Which(),
    val: tuple[Sequence[Record], Mapping[str, Tensor]] | None = None,
) -> Iterator[Record]:  # fmt: skip
    """Metrics records of the test images' features, place by place.

    Args:
        train, test: records with `category`; of_train, of_test: their features, place/pool -> (N, D).
        of_names: of the test categories' sorted names. val: records that choose penalties; None: `held_back`.
    Raises:
        FgvrError: there is no test image, a test category has no training image, or no training category has two.
    Source: Finedefics (arXiv 2501.15140), Table 1 (linear probe), A.2 and A.3 (alignment and discriminability).
    """
    if not test:
        raise FgvrError("there are no test images; give records on stdin")
    if val is not None and not val[0]:
        raise FgvrError("--val has no record; name another file, or leave it out")
    categories = [record["category"] for record in test]
    names = sorted(set(categories))
    fitted, held = (list(range(len(train))), []) if val else held_back(train, which.seed)
    for place in dict.fromkeys(name.partition("/")[0] for name in of_test):
        where = {} if place == "output" else {"place": place}
        pools = [name.partition("/")[2] for name in of_test if name.startswith(f"{place}/")]
        for pool in [pool for pool in pools if pool != ALIGNED] or pools:
            key = f"{place}/{pool}"
            known = of_train[key]
            chosen = ([train[i] for i in held], known[held]) if val is None else (val[0], val[1][key])
            sides = _Sides([train[i] for i in fitted], known[fitted], *chosen, categories, of_test[key])
            for found in _probed(sides, train, known, which, val is None):
                yield {**found, **where, "pool": pool}
        key = f"{place}/{ALIGNED}"
        if key in of_test and key in of_names:
            for found in _alignment(of_test[key], categories, of_names[key], names):
                yield {**found, **where}


@dataclass(frozen=True)
class _Sides:
    """Fitted, choosing and test rows with their categories."""

    fitted: Sequence[Record]
    x: Tensor
    chosen: Sequence[Record]
    val: Tensor
    categories: Sequence[str]
    test: Tensor

    def names(self) -> tuple[list[str], list[str]]:
        return [r["category"] for r in self.fitted], [r["category"] for r in self.chosen]


def _probed(
    sides: _Sides, train: Sequence[Record], of_train: Tensor, which: Which, held: bool
) -> Iterator[Record]:
    """One record a probe. held: the rows that choose are training rows."""
    fitted, chosen = sides.names()
    every = [record["category"] for record in train]
    for name in which.probes:
        if name == "logistic":
            found = linear.fit(sides.x, fitted, sides.val, chosen)
            yield _score("linear probe", linear.evaluate(found, sides.test, sides.categories))
        elif name == "sweep":
            yield _swept(sides, fitted, chosen, which.seed, held)
        elif name == "knn":
            score, k = probes.knn(sides.x, fitted, sides.val, chosen, sides.test, sides.categories)
            yield {**_score("kNN probe", score), "k": k}
        elif name == "few-shot":
            ids = [record["id"] for record in train]
            for shots in which.shots:
                score = probes.few_shot(of_train, every, ids, sides.test, sides.categories, shots, which.seeds)
                yield {**_score("few-shot probe", score), "shots": shots}
        else:
            score = probes.best_test_epoch(of_train, every, sides.test, sides.categories, seed=which.seed)
            yield _metric("linear probe", "accuracy of the best test epoch (VLMClassifier)", score.accuracy, score.n)


def _swept(sides: _Sides, fitted: Sequence[str], chosen: Sequence[str], seed: int, held: bool) -> Record:
    """held: what chooses was held back from training, and goes back."""
    import torch

    from fgvr.analysis.rows import Rows
    from fgvr.analysis.sweep import sweep

    names = sorted(set(fitted))
    place = {name: i for i, name in enumerate(names)}
    if unknown := sorted(set(chosen) - set(names)):
        raise FgvrError(f"{len(unknown)} validation categories have no training image, the first is {unknown[0]!r}")
    codes = torch.tensor([place[name] for name in (*fitted, *chosen)])
    rows, count = Rows(torch.cat([sides.x, sides.val])), len(fitted)
    every = torch.arange(len(codes))
    found = sweep(rows, codes, every[:count], every[count:], names, seed=seed, refit=held)
    score = linear.evaluate(found.probe, sides.test, sides.categories)
    return {**_score("swept probe", score), "settings": len(found.settings)}


def _alignment(objects: Tensor, categories: Sequence[str], of_names: Tensor, names: Sequence[str]) -> Iterator[Record]:
    count = len(categories)
    quality, _ = alignment.alignment_quality(objects, categories, names, of_names)
    yield _mean("objects", "alignment quality", quality, count)
    yield _mean("objects", "modality gap", alignment.modality_gap(objects, of_names), count)
    if len(names) > 1:
        yield _mean("objects", "inter-class distance", alignment.inter_class_distance(objects, categories), count)
    yield _mean("objects", "intra-class variance", alignment.intra_class_variance(objects, categories), count)
    yield from _recall("objects", objects, categories, of_names, names)
    if len(names) > 1:
        yield _mean("names", "inter-class distance", alignment.inter_class_distance(of_names, names), len(names))
    yield from _recall("names", of_names, names, objects, categories)


def _recall(kind: str, queries: Tensor, own: Sequence[str], keys: Tensor, theirs: Sequence[str]) -> Iterator[Record]:
    """R@1 and R@5 of queries of this kind against the other kind."""
    for k in (1, 5):
        share, n = alignment.retrieval(queries, own, keys, theirs, k), len(own)
        yield _metric(kind, f"retrieval R@{k}", share, n, wilson(round(share * n), n))


def _mean(kind: str, metric: str, value: float, n: int) -> Record:
    return _metric(kind, metric, round(value, DIGITS), n)


def _score(kind: str, score: Score) -> Record:
    return _metric(kind, "accuracy", score.accuracy, score.n, (score.low, score.high))


def _metric(kind: str, metric: str, value: float, n: int, between: tuple[float, float] | None = None) -> Record:
    low, high = between or (None, None)
    return {"kind": kind, "metric": metric, "value": value, "low": low, "high": high, "n": n}
