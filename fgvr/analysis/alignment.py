"""How well objects, descriptions and category names share a space, and how separable categories are in it.

Finedefics (arXiv 2501.15140) prints three such figures and defines one of them. `alignment_quality` is its definition
(A.2, Table 8). For inter-class distance and intra-class variance (A.3, Table 10) it gives no formula: what stands here
is our reading, on unit vectors, so that figures of different models compare; expect its order of data sets, not its
values. All figures are on L2-normalised features in float64 (`fgvr.topk.unit`).
Shapes: N objects, C categories, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fgvr.errors import FgvrError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1024    # rows compared at a time


def alignment_quality(
    objects: Tensor, categories: Sequence[str], names: Sequence[str], name_features: Tensor
) -> tuple[float, dict[str, float]]:
    """Mean cosine of an object and its own category's name: over the images of a category, then over categories.

    quality = mean_c mean_{i in c} cos(o_i, n_c)            Finedefics Table 8 (Idefics2 0.13, Finedefics 0.27)

    Args:
        objects: (N, D) and the N `categories`. names: C unique names; name_features: (C, D).
    Returns:
        the mean over categories in [-1, 1], and each category's own mean, by name.
    Raises:
        FgvrError: a category without a name. ValueError: shapes disagree, no object, a row without direction.
    """
    number = {name: i for i, name in enumerate(names)}
    if len(number) != len(names):
        raise ValueError("category names must be unique")
    keys, _ = _unit(name_features, names, number)
    x, codes = _unit(objects, categories, number)
    cosine = (x * keys[codes]).sum(dim=1)
    members: dict[str, list[float]] = {}
    for category, value in zip(categories, cosine.tolist(), strict=True):
        members.setdefault(category, []).append(value)
    means = {category: sum(values) / len(values) for category, values in sorted(members.items())}
    return sum(means.values()) / len(means), means


def inter_class_distance(features: Tensor, categories: Sequence[str]) -> float:
    """Mean cosine distance between the centres of two categories, over all unordered pairs of categories, in [0, 2].

    distance = mean_{c < d} (1 - cos(m_c, m_d)),  m_c = mean of the category's unit features

    For names, give one row a category: its centre is its own vector. Larger is easier to tell apart.

    Raises:
        ValueError: shapes disagree, fewer than two categories, a row or a centre without direction.
    """
    from fgvr.topk import unit

    centres = unit(_centres(features, categories))
    if len(centres) < 2:
        raise ValueError("inter-class distance needs two categories or more")
    total = centres.sum(dim=0)
    pairs = len(centres) * (len(centres) - 1) / 2
    # sum_{c<d} m_c.m_d = (|sum m|^2 - sum |m|^2) / 2: no C x C matrix
    cosines = ((total * total).sum() - (centres * centres).sum()) / 2
    return 1 - cosines.item() / pairs


def intra_class_variance(features: Tensor, categories: Sequence[str]) -> float:
    """Mean over categories of the mean squared distance of their unit features to their centre, in [0, 1].

    variance = mean_c mean_{i in c} |x_i - m_c|^2 = mean_c (1 - |m_c|^2)

    A category of one image has 0. Smaller is tighter.

    Raises:
        ValueError: shapes disagree, no row, or a row without direction.
    """
    centres = _centres(features, categories)
    return max(0.0, 1 - (centres * centres).sum(dim=1).mean().item())


def modality_gap(objects: Tensor, name_features: Tensor) -> float:
    """Distance between the mean unit object and the mean unit name, in [0, 2] (Liang et al. 2022, section 2)."""
    from fgvr.topk import unit

    return float((unit(objects).mean(dim=0) - unit(name_features).mean(dim=0)).norm())


def retrieval(
    queries: Tensor, query_categories: Sequence[str], keys: Tensor, key_categories: Sequence[str], k: int = 1
) -> float:
    """R@k: share of queries that have a key of their own category among their k most similar, in [0, 1].

    Objects as queries and names as keys ask whether an object finds its name among all; the other way round, whether a
    name finds an object of its kind. A key of another category that is just as similar stands before it, so equal
    features score 0 (with more than k keys of other categories).

    Raises:
        FgvrError: a query category that no key has. ValueError: shapes disagree, no query, a row without direction.
    """
    number = {name: i for i, name in enumerate(dict.fromkeys(key_categories))}
    x, codes = _unit(queries, query_categories, number)
    y, key_codes = _unit(keys, key_categories, number)
    right = 0
    for start in range(0, len(x), BLOCK):
        cosine = x[start : start + BLOCK] @ y.T
        own = codes[start : start + BLOCK, None] == key_codes[None, :]
        best_own = cosine.masked_fill(~own, -2.0).amax(dim=1)
        before = (cosine.masked_fill(own, -2.0) >= best_own[:, None]).sum(dim=1)
        right += int((before < k).sum())
    return right / len(x)


def _centres(features: Tensor, categories: Sequence[str]) -> Tensor:
    """(C, D) mean of the unit features of each category, in order of the sorted names."""
    import torch

    number = {name: i for i, name in enumerate(sorted(set(categories)))}
    x, codes = _unit(features, categories, number)
    sums = torch.zeros(len(number), x.shape[1], dtype=torch.float64, device=x.device).index_add_(0, codes, x)
    return sums / torch.bincount(codes, minlength=len(number))[:, None]


def _unit(features: Tensor, categories: Sequence[str], number: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Unit features and the code (N,) of each row's category."""
    import torch

    from fgvr.topk import unit

    if features.ndim != 2 or len(features) != len(categories) or not len(features):
        raise ValueError(f"features {tuple(features.shape)} for {len(categories)} categories")
    missing = sorted(set(categories) - set(number))
    if missing:
        raise FgvrError(f"{len(missing)} categories have no name to compare with, the first is {missing[0]!r}")
    codes = torch.tensor([number[c] for c in categories], dtype=torch.long, device=features.device)
    return unit(features), codes
