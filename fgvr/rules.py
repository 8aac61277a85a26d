"""What may be a hard negative: images as mining knows them, its choices, its rules, and what they removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

BY = ("image", "text", "both")
RANKED_BY = ("nearest", "prototype")
STRATEGIES = ("hard", "random", "band")
NONE = -torch.inf
Shared = dict[int, list[int]]


@dataclass(frozen=True)
class Images:
    """Images as mining knows them.

    Args:
        features: (N, D) floating, any length, on the CPU.
        same: what tells image files apart (path, digest): images that share one of an image's keys are the same.
        hashes: (N, B) int8 of -1 and 1, perceptual hashes, or None.
    """

    features: Tensor
    categories: Sequence[str]
    ids: Sequence[str]
    same: Sequence[tuple[str, ...]] = ()
    hashes: Tensor | None = None


@dataclass(frozen=True)
class Rules:
    """Which pairs may not be negatives. None: the rule is off.

    Args:
        duplicate: cosine of two images from which on they count as one picture.
        hash_distance: differing bits of two perceptual hashes up to which they count as one picture.
        max_score, min_score: bounds of the score, both allowed themselves.
        margin: keep <=> score < positive - margin.
        relative_margin: keep <=> score < (1 - relative_margin) * positive, where positive > 0; NV-Retriever's
            "TopK-PercPos" (arXiv 2407.15831).
    """

    duplicate: float | None = None
    hash_distance: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    margin: float | None = None
    relative_margin: float | None = None

    @property
    def pictures(self) -> bool:
        """Whether a rule about two pictures is on."""
        return self.duplicate is not None or self.hash_distance is not None

    @property
    def positives(self) -> bool:
        return self.margin is not None or self.relative_margin is not None


@dataclass(frozen=True)
class Choice:
    """How categories are ranked and negatives taken from the ranking (docs/mining.md)."""

    per_anchor: int = 3
    per_category: int = 1
    by: str = "image"
    ranked_by: str = "nearest"
    strategy: str = "hard"
    band: tuple[int, int] | None = None
    seed: int = 0


@dataclass
class Found:
    """indices into the pool (N, K) int64 and cosines (N, K) float64 of anchor and image, hardest first, -1 and -inf
    where there are fewer; how many pairs each rule removed; anchors without a positive for the margins."""

    index: Tensor
    cosine: Tensor
    removed: Counter[str] = field(default_factory=Counter)
    without_positive: int = 0

    def remove(self, scores: Tensor, hit: Tensor, rule: str) -> None:
        """Set the scores that `hit` marks to -inf, in place, and count those that were not so already."""
        hit = hit & (scores > NONE)
        self.count(hit, rule)
        scores.masked_fill_(hit, NONE)

    def count(self, hit: Tensor, rule: str) -> None:
        number = int(hit.sum())
        if number:
            self.removed[rule] += number


def nothing(*shape: int) -> tuple[Tensor, Tensor]:
    """Indices of -1 and cosines of -inf."""
    return torch.full(shape, -1), torch.full(shape, NONE, dtype=torch.float64)


def bound(scores: Tensor, positive: Tensor | None, rules: Rules, found: Found) -> None:
    """Set scores out of bounds to -inf, in place. `positive`: (n, 1) score of each anchor with its own category, -inf
    where it has none; needed for the margins."""
    if rules.max_score is not None:
        found.remove(scores, scores > rules.max_score, "max score")
    if rules.min_score is not None:
        found.remove(scores, scores < rules.min_score, "min score")
    if positive is None:
        return
    if rules.margin is not None:
        found.remove(scores, (positive > NONE) & (scores >= positive - rules.margin), "margin")
    if rules.relative_margin is not None:
        limit = (1 - rules.relative_margin) * positive
        found.remove(scores, (positive > 0) & (scores >= limit), "relative margin")


def same_files(anchors: Images, pool: Images, order: Sequence[int]) -> tuple[Shared, Shared]:
    """anchor -> places in the sorted pool where the anchor's own file stands, in its own category and in others."""
    holders: dict[str, list[int]] = {}
    for place, i in enumerate(order):
        for key in pool.same[i] if pool.same else (pool.ids[i],):
            holders.setdefault(key, []).append(place)
    own: Shared = {}
    others: Shared = {}
    for number, category in enumerate(anchors.categories):
        keys = anchors.same[number] if anchors.same else (anchors.ids[number],)
        for place in sorted({place for key in keys for place in holders.get(key, ())}):
            found = own if pool.categories[order[place]] == category else others
            found.setdefault(number, []).append(place)
    return own, others


def check(
    anchors: Images, pool: Images, choice: Choice, texts: tuple[Sequence[str], Tensor] | None, block: int
) -> None:
    """Raise ValueError for what `negatives.hard_negatives` refuses."""
    for images in (anchors, pool):
        if not len(images.features) == len(images.categories) == len(images.ids):
            raise ValueError("one feature row, one category and one id an image are needed")
    if not pool.ids or len(set(pool.ids)) != len(pool.ids):
        raise ValueError("a pool of unique ids is needed")
    if anchors.features.shape[1:] != pool.features.shape[1:]:
        raise ValueError(f"anchors are {anchors.features.shape[1]} wide, the pool {pool.features.shape[1]}")
    if choice.per_anchor < 1 or choice.per_category < 1 or block < 1:
        raise ValueError("per_anchor, per_category and block must be >= 1")
    known = ((choice.by, BY), (choice.ranked_by, RANKED_BY), (choice.strategy, STRATEGIES))
    if any(value not in values for value, values in known):
        raise ValueError(f"unknown choice among {[value for value, _ in known]}")
    if choice.by != "image" and (texts is None or not set(pool.categories) <= set(texts[0])):
        raise ValueError(f"by {choice.by} needs a text for every category of the pool")
    if choice.by != "image" and texts is not None and texts[1].shape[1:] != pool.features.shape[1:]:
        raise ValueError(f"texts are {texts[1].shape[1]} wide, the pool {pool.features.shape[1]}")
