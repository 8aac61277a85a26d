"""Exact blocked top-k over cosine similarity, and the hard negatives of Finedefics (arXiv 2501.15140, section 3.2).

Why the figures do not depend on block size, device, thread count or library. Features are normalised in float64 and
rounded to multiples of 2^-26. A product of two such numbers is a multiple of 2^-52, and every partial sum of a dot
product of two vectors of length about 1 stays below 2 in size (Cauchy-Schwarz), so each step of a float64 matrix
product is exact: whatever order or fused instruction the library picks, the result is the same bits. (fp32 products
differ in the last bits from one block shape to the next, and so decide near-ties differently.) Equal features give
exactly equal similarities: ties are real and are broken by rule.
The price: float64 arithmetic (1.8 times the time of fp32 on a CPU core), and a cosine that differs from the unrounded
one by about 1e-8, at most 2^-26 sqrt(D); that of a vector with itself may exceed 1 by as much.

Memory: 8 (N + M) D bytes for the float64 features, a few blocks of block x block float64, and the result; never
N x M. Shapes: N queries or anchors, M keys or pool images, D width, C categories.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

GRID = 2.0**26
BY = ("image", "prototype")
Groups = tuple[Tensor, Tensor] | None


def unit(features: Tensor) -> Tensor:
    """(N, D) floating -> (N, D) float64 of length 1, rounded to multiples of 2^-26; see the module's text.

    Raises:
        ValueError: not (N, D >= 1) floating, or a row is zero or not finite (the message gives the row's number).
    """
    if features.ndim != 2 or not features.shape[1] or not features.is_floating_point():
        raise ValueError(f"features must be floating (N, D); got {features.dtype} {tuple(features.shape)}")
    x = features.detach().double()
    largest = x.abs().amax(dim=1, keepdim=True)
    bad = ~(torch.isfinite(largest) & (largest > 0)).flatten()
    if bad.any():
        raise ValueError(f"features: row {int(bad.nonzero()[0])} has no direction (zero or not finite)")
    x = x / largest                                          # squares can neither overflow nor vanish
    return torch.round(x / _length(x) * GRID) / GRID


def _length(x: Tensor) -> Tensor:
    """(N, D) -> (N, 1). Halves are added element by element: an order that does not depend on N, device or library."""
    squares = x * x
    while squares.shape[1] > 1:
        half = (squares.shape[1] + 1) // 2
        squares = squares[:, :half] + torch.nn.functional.pad(squares[:, half:], (0, 2 * half - squares.shape[1]))
    return squares.sqrt()


def topk(
    queries: Tensor, keys: Tensor, k: int, *, block: int = 2048, exclude: Groups = None
) -> tuple[Tensor, Tensor]:
    """The k nearest keys of each query: equal to a full stable sort by (cosine descending, key index ascending).

    Args:
        queries: (N, D), keys: (M, D), floating, any length (cosine is what counts), on one device.
        k: >= 1, may exceed M.
        block: rows of queries and of keys compared at a time; changes speed and memory, never the result.
        exclude: integer groups of the queries (N,) and of the keys (M,); a pair of equal groups is left out.
    Returns:
        indices (N, k) int64 and cosines (N, k) float64; -1 and -inf where fewer than k keys are allowed.
    Raises:
        ValueError: a shape is wrong, k or block < 1, or a feature row has no direction.
    """
    if k < 1 or block < 1:
        raise ValueError(f"k and block must be >= 1, got {k} and {block}")
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"need queries (N, D) and keys (M, D); got {tuple(queries.shape)} and {tuple(keys.shape)}")
    if exclude is not None and (exclude[0].shape != queries.shape[:1] or exclude[1].shape != keys.shape[:1]):
        raise ValueError("exclude needs one group for each query and each key")
    return _topk(unit(queries), unit(keys), k, block, exclude)


def _topk(queries: Tensor, keys: Tensor, k: int, block: int, exclude: Groups = None) -> tuple[Tensor, Tensor]:
    """`topk` of vectors that `unit` made."""
    found = [_topk_rows(queries, rows, keys, k, block, exclude) for rows in _blocks(len(queries), block)]
    none = torch.empty(0, k, dtype=torch.float64, device=keys.device)
    return torch.cat([none.long(), *(i for i, _ in found)]), torch.cat([none, *(s for _, s in found)])


def _topk_rows(
    queries: Tensor, rows: slice, keys: Tensor, k: int, block: int, exclude: Groups
) -> tuple[Tensor, Tensor]:
    """Running top-k of one block of queries over all blocks of keys."""
    some = queries[rows]
    best = torch.full((len(some), k), -torch.inf, dtype=torch.float64, device=keys.device)
    index = torch.full((len(some), k), -1, dtype=torch.long, device=keys.device)
    for columns in _blocks(len(keys), block):
        similarity = some @ keys[columns].T
        if exclude is not None:
            similarity.masked_fill_(exclude[0][rows, None] == exclude[1][None, columns], -torch.inf)
        values, positions = _first_k(similarity, min(k, similarity.shape[1]))
        # what was kept before has lower indices, so a stable sort of [before | now] breaks ties as the rule says
        values, order = torch.cat([best, values], dim=1).sort(dim=1, descending=True, stable=True)
        index = torch.cat([index, positions + columns.start], dim=1).gather(1, order)[:, :k]
        best = values[:, :k]
    return index, best                                       # the -1 of the start outlast every excluded key


def _first_k(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top-k of each row, ties to the lower column: torch.topk, then a repair of rows where a tie straddles rank k."""
    values, positions = similarity.topk(k, dim=1)
    least = values[:, -1:]
    tied = ((similarity >= least).sum(dim=1) > k).nonzero().flatten()
    if len(tied):
        rows, least = similarity[tied], least[tied]
        above, equal = rows > least, rows == least
        room = k - above.sum(dim=1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(dim=1) <= room))
        positions[tied] = chosen.nonzero()[:, 1].view(-1, k)
        values[tied] = rows.gather(1, positions[tied])
    positions, order = positions.sort(dim=1)
    values, rank = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, positions.gather(1, rank)


def similar_categories(
    features: Tensor, pool: Tensor, pool_categories: Sequence[str], *, by: str = "image", block: int = 2048
) -> tuple[list[str], Tensor]:
    """Cosine of each anchor image with each category of the pool.

    Args:
        features: (N, D) anchors. pool: (M, D), one category each in `pool_categories`, M >= 1.
        by: "image": the category's nearest image. "prototype": the mean of the category's unit features.
    Returns:
        the C category names, sorted, and (N, C) float64 similarities: N x C is held in memory.
    Raises:
        ValueError: a shape or `by` is wrong, a feature or a prototype has no direction.
    """
    names, codes = _categories(pool, pool_categories, by)
    keys = unit(pool)
    targets = _prototypes(keys, codes, len(names)) if by == "prototype" else keys
    anchors = unit(features)
    result = torch.empty(len(anchors), len(names), dtype=torch.float64, device=keys.device)
    for rows in _blocks(len(anchors), block):
        result[rows] = _to_categories(anchors[rows], targets, codes, len(names), by, block)
    return names, result


def hard_negatives(
    features: Tensor,
    categories: Sequence[str],
    pool: Tensor,
    pool_categories: Sequence[str],
    pool_ids: Sequence[str],
    per_anchor: int = 3,
    *,
    by: str = "image",
    block: int = 2048,
) -> tuple[Tensor, Tensor]:
    """For each anchor the most similar image of each of its `per_anchor` most similar wrong categories.

    A category is as similar as its nearest image, or its prototype (`by`, see `similar_categories`). The anchor's
    own category is left out, so an anchor may stand in the pool. Between categories of equal similarity the name
    decides, between images of one category the pool id (both in string order): the order of the input changes
    nothing but the indices.

    Args:
        features: (N, D) anchors and their N `categories`.
        pool: (M, D) candidates, their M `pool_categories` and M unique `pool_ids`.
        per_anchor: negatives wanted, >= 1 (Finedefics: 3).
    Returns:
        indices into the pool (N, per_anchor) int64 and cosines anchor-image (N, per_anchor) float64, hardest image
        first; -1 and -inf at the end of a row where there are fewer wrong categories than `per_anchor`.
    Raises:
        ValueError: lengths or shapes disagree, an id comes twice, `by` is unknown, a feature or prototype has no
        direction.
    """
    if len(categories) != len(features) or len(pool_ids) != len(pool) or per_anchor < 1 or block < 1:
        raise ValueError("one category an anchor, one id a pool image, per_anchor >= 1 and block >= 1 are needed")
    if len(set(pool_ids)) != len(pool_ids):
        raise ValueError("pool ids must be unique")
    names, codes = _categories(pool, pool_categories, by)
    order = sorted(range(len(pool_ids)), key=pool_ids.__getitem__)
    order_t = torch.tensor(order, dtype=torch.long, device=pool.device)
    keys, codes = unit(pool)[order_t], codes[order_t]        # in id order: "lower index first" is now "lower id first"
    anchors = unit(features)
    chosen = _wrong_categories(anchors, categories, keys, names, codes, per_anchor, by, block)
    position = torch.full_like(chosen, -1)
    cosine = torch.full(chosen.shape, -torch.inf, dtype=torch.float64, device=keys.device)
    for code in range(len(names)):
        rows, column = (chosen == code).nonzero(as_tuple=True)
        members = (codes == code).nonzero().flatten()
        near, value = _topk(anchors[rows], keys[members], 1, block)
        position[rows, column] = order_t[members[near.flatten()]]
        cosine[rows, column] = value.flatten()
    cosine, rank = cosine.sort(dim=1, descending=True, stable=True)
    return position.gather(1, rank), cosine


def _wrong_categories(
    anchors: Tensor,
    categories: Sequence[str],
    keys: Tensor,
    names: list[str],
    codes: Tensor,
    per_anchor: int,
    by: str,
    block: int,
) -> Tensor:
    """(N, per_anchor) codes of the most similar categories other than the anchor's own, -1 where there is none."""
    code_of = {name: code for code, name in enumerate(names)}
    own = torch.tensor([code_of.get(c, -1) for c in categories], dtype=torch.long, device=keys.device)
    codes_of_names = torch.arange(len(names), device=keys.device)
    targets = _prototypes(keys, codes, len(names)) if by == "prototype" else keys
    chosen = torch.full((len(anchors), per_anchor), -1, dtype=torch.long, device=keys.device)
    for rows in _blocks(len(anchors), block):
        similarity = _to_categories(anchors[rows], targets, codes, len(names), by, block)
        similarity.masked_fill_(own[rows, None] == codes_of_names[None, :], -torch.inf)
        values, found = _first_k(similarity, min(per_anchor, len(names)))
        chosen[rows, : found.shape[1]] = found.masked_fill(torch.isneginf(values), -1)
    return chosen


def _to_categories(anchors: Tensor, targets: Tensor, codes: Tensor, count: int, by: str, block: int) -> Tensor:
    """(n, C) cosine of n anchors with the categories; `targets`: the prototypes, or the images with their `codes`."""
    if by == "prototype":
        return anchors @ targets.T
    best = torch.full((len(anchors), count), -torch.inf, dtype=torch.float64, device=targets.device)
    for columns in _blocks(len(targets), block):
        similarity = anchors @ targets[columns].T
        best.scatter_reduce_(1, codes[columns].expand(len(anchors), -1), similarity, "amax")
    return best


def _prototypes(keys: Tensor, codes: Tensor, count: int) -> Tensor:
    """(C, D) unit mean of each category; sums of multiples of 2^-26 are exact, whatever the order of the pool."""
    sums = torch.zeros(count, keys.shape[1], dtype=torch.float64, device=keys.device).index_add_(0, codes, keys)
    return unit(sums)


def _categories(pool: Tensor, pool_categories: Sequence[str], by: str) -> tuple[list[str], Tensor]:
    """The sorted names and each pool image's code (M,)."""
    if by not in BY:
        raise ValueError(f"by must be one of {BY}, got {by!r}")
    if len(pool_categories) != len(pool) or not len(pool):
        raise ValueError(f"one category a pool image is needed: {len(pool_categories)} for {len(pool)} images")
    names = sorted(set(pool_categories))
    code_of = {name: code for code, name in enumerate(names)}
    return names, torch.tensor([code_of[c] for c in pool_categories], dtype=torch.long, device=pool.device)


def _blocks(count: int, block: int) -> Iterator[slice]:
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))
