"""test images, training images -> metrics records: what object features tell apart, and how near names they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fgvr.analysis import alignment, linear
from fgvr.errors import FgvrError
from fgvr.metrics import wilson
from fgvr.records import Record
from fgvr.stages.embed import embed, embed_all
from fgvr.stream import Item

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PROBED = ("last", "mean")  # Finedefics, Table 1
ALIGNED = "eos"  # the embedding that stage I aligns, Eqs 5-7
POOLS = (ALIGNED, *PROBED)
DIGITS = 4  # of a mean of cosines: float32 features differ in the last bits from batch size to batch size


class Embedder(Protocol):
    """What is asked of a vision-language model (fgvr.models.vlm.Vlm)."""

    about: dict[str, Any]

    def objects(self, images: Sequence[Image], pool: str = "eos") -> Tensor:
        """(N, D) float32 on the CPU, not normalised."""
        ...

    def texts(self, texts: Sequence[str], pool: str = "eos") -> Tensor:
        """(N, D) float32 on the CPU, not normalised."""
        ...


def features(
    items: Iterable[Item], vlm: Embedder, root: str | Path, batch: int
) -> tuple[list[Item], dict[str, Tensor]]:
    """All items, a Bad for each image that cannot be read, and the object features of the others: pool -> (N, D).

    Holds records and features, never the images.
    """
    kept, made = embed(items, lambda images: [vlm.objects(images, pool) for pool in POOLS], root, batch)
    return kept, _joined(POOLS, made)


def training_features(records: Sequence[Record], vlm: Embedder, root: str | Path, batch: int) -> dict[str, Tensor]:
    """The object features of the training images that a linear probe is fitted on: pool -> (N, D).

    Raises:
        FgvrError: an image cannot be read.
    """
    made = embed_all(records, lambda images: [vlm.objects(images, pool) for pool in PROBED], root, batch, "--train")
    return _joined(PROBED, made)


def _joined(pools: Sequence[str], made: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    import torch

    return {pool: torch.cat([found[i] for found in made]) for i, pool in enumerate(pools)} if made else {}


def probe(
    train: Sequence[Record],
    of_train: Mapping[str, Tensor],
    test: Sequence[Record],
    of_test: Mapping[str, Tensor],
    vlm: Embedder,
    seed: int,
) -> Iterator[Record]:
    """Metrics records of the test images' object features.

    Args:
        train, test: records with `category`; of_train, of_test: their features, pool -> (N, D).
        seed: decides which fifth of each category's training images chooses the probe's penalty.
    Raises:
        FgvrError: there is no test image, a test category has no training image, or no training category has two.
    Source: Finedefics (arXiv 2501.15140), Table 1 (linear probe), A.2 and A.3 (alignment and discriminability).
    """
    if not test:
        raise FgvrError("there are no test images; give records on stdin")
    categories = [record["category"] for record in test]
    for pool in PROBED:
        yield _linear(train, of_train[pool], categories, of_test[pool], pool, seed)
    names = sorted(set(categories))
    yield from _alignment(of_test[ALIGNED], categories, vlm.texts(names, ALIGNED), names)


def _linear(
    train: Sequence[Record], of_train: Tensor, categories: Sequence[str], of_test: Tensor, pool: str, seed: int
) -> Record:
    known = [record["category"] for record in train]
    fitted, held = linear.split([record["id"] for record in train], known, seed=seed)
    if not held:
        raise FgvrError("--train has one image a category; a probe needs two or more of some")
    rows = [[known[row] for row in part] for part in (fitted, held)]
    found = linear.fit(of_train[fitted], rows[0], of_train[held], rows[1])
    score = linear.evaluate(found, of_test, categories)
    return {**_metric("linear probe", "accuracy", score.accuracy, score.n, (score.low, score.high)), "pool": pool}


def _alignment(objects: Tensor, categories: Sequence[str], of_names: Tensor, names: Sequence[str]) -> Iterator[Record]:
    count = len(categories)
    quality, _ = alignment.alignment_quality(objects, categories, names, of_names)
    yield _mean("objects", "alignment quality", quality, count)
    if len(names) > 1:
        yield _mean("objects", "inter-class distance", alignment.inter_class_distance(objects, categories), count)
    yield _mean("objects", "intra-class variance", alignment.intra_class_variance(objects, categories), count)
    yield _recall("objects", alignment.retrieval_at_1(objects, categories, of_names, names), count)
    if len(names) > 1:
        yield _mean("names", "inter-class distance", alignment.inter_class_distance(of_names, names), len(names))
    yield _recall("names", alignment.retrieval_at_1(of_names, names, objects, categories), len(names))


def _mean(kind: str, metric: str, value: float, n: int) -> Record:
    return _metric(kind, metric, round(value, DIGITS), n)


def _recall(kind: str, share: float, n: int) -> Record:
    """R@1 of `n` queries of this kind against the other kind."""
    return _metric(kind, "retrieval R@1", share, n, wilson(round(share * n), n))


def _metric(kind: str, metric: str, value: float, n: int, between: tuple[float, float] | None = None) -> Record:
    low, high = between or (None, None)
    return {"kind": kind, "metric": metric, "value": value, "low": low, "high": high, "n": n}
