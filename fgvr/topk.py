"""Exact blocked top-k over cosine similarity.

Why the figures do not depend on block size, device, thread count or library. Features are normalised in float64 and
rounded to multiples of 2^-26. A product of two such numbers is a multiple of 2^-52, and every partial sum of a dot
product of two vectors of length about 1 stays below 2 in size (Cauchy-Schwarz), so each step of a float64 matrix
product is exact: whatever order or fused instruction the library picks, the result is the same bits. (fp32 products
differ in the last bits from one block shape to the next, and so decide near-ties differently.) Equal features give
exactly equal similarities: ties are real and are broken by rule.
The price: a cosine that differs from the unrounded one by about 1e-8, at most 2^-26 sqrt(D); that of a vector with
itself may exceed 1 by as much.

Why it is fast all the same. On a CPU a rough matrix product (bfloat16 where the CPU multiplies it, else float32) goes
first, and only pairs that may still be among the best are computed in float64. What "may" means is a bound, not a
guess: with x' the rough x, |x.y - x'.y'| <= |x - x'||y| + |x'||y - y'|, whose lengths are known, plus what adding D
products in float32 and rounding the sum can lose. The k-th largest maximum of disjoint groups of keys is a lower bound
of the k-th largest similarity. Rows that leave too many pairs are computed in float64 as a whole.

Memory: a few blocks, the result, and the keys in float64 as far as KEPT_BYTES go (beyond, each block of keys is
converted when its turn comes); never N x M, and of the queries one block. Shapes: N queries, M keys, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

GRID = 2.0**26
WIDE = 8                     # a block of keys has up to WIDE * block rows
KEPT_BYTES = 1 << 30         # converted keys that are kept
CACHED = 1 << 17             # numbers that are converted at a time on a CPU
GROUP = 32                   # keys in a group of the lower bound
Groups = tuple[Tensor, Tensor] | None


def unit(features: Tensor) -> Tensor:
    """(N, D) floating -> (N, D) float64 of length 1, rounded to multiples of 2^-26; see the module's text.

    Raises:
        ValueError: not (N, D >= 1) floating, or a row is zero or not finite (the message gives the row's number).
    """
    if features.ndim != 2 or not features.shape[1] or not features.is_floating_point():
        raise ValueError(f"features must be floating (N, D); got {features.dtype} {tuple(features.shape)}")
    if not len(features):
        return features.double()
    if features.device.type != "cpu":
        return _unit(features.detach(), 0, None)
    made = torch.empty(features.shape, dtype=torch.float64)
    for rows in _cached(features):
        _unit(features[rows].detach(), rows.start, made[rows])
    return made


def _cached(features: Tensor) -> Iterator[slice]:
    """Slices of so few rows that float64 copies of them stay in a core's cache from one step to the next."""
    return blocks(len(features), max(1, CACHED // features.shape[1]))


def _unit(features: Tensor, first: int, out: Tensor | None) -> Tensor:
    """`unit` of some rows, of which the first has the number `first`, into `out`."""
    x = features.double()
    length = _length(x)
    if not bool(((length > 1e-100) & (length < 1e100)).all()):  # also where squares overflowed or vanished
        largest = x.abs().amax(dim=1, keepdim=True)
        bad = ~(torch.isfinite(largest) & (largest > 0)).flatten()
        if bad.any():
            number = first + int(bad.nonzero()[0])
            raise ValueError(f"features: row {number} has no direction (zero or not finite)")
        x = x / torch.where((length > 1e-100) & (length < 1e100), 1.0, largest)
        length = _length(x)
    return torch.div(x, length / GRID, out=out).round_().mul_(1 / GRID)


def _length(x: Tensor) -> Tensor:
    """(N, D) -> (N, 1). Halves are added element by element: an order that does not depend on N, device or library."""
    squares = x * x
    width = squares.shape[1]
    while width > 1:
        half = (width + 1) // 2
        squares[:, : width - half] += squares[:, half:width]
        width = half
    return squares[:, :1].sqrt()


def topk(
    queries: Tensor, keys: Tensor, k: int, *, block: int = 2048, exclude: Groups = None,
    rough: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest keys of each query: equal to a full stable sort by (cosine descending, key index ascending).

    Args:
        queries: (N, D), keys: (M, D), floating, any length (cosine is what counts), on one device.
        k: >= 1, may exceed M.
        block: rows of queries compared at a time; changes speed and memory, never the result.
        exclude: integer groups of the queries (N,) and of the keys (M,); a pair of equal groups is left out.
        rough: type of the first product on a CPU (default: what this CPU multiplies fastest); never changes the result.
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
    # on a GPU float64 products of everything are as quick
    rough = (rough or fast_dtype()) if keys.device.type == "cpu" else None
    index = torch.full((len(queries), k), -1, dtype=torch.long, device=keys.device)
    best = torch.full((len(queries), k), -torch.inf, dtype=torch.float64, device=keys.device)
    columns = list(blocks(len(keys), WIDE * block))
    key_block = kept(lambda n: Vectors.of(keys[columns[n]], rough), len(keys) * keys.shape[1])
    for rows in blocks(len(queries), block):
        some = Vectors.of(queries[rows], rough)
        for number, span in enumerate(columns):
            groups = None if exclude is None else (exclude[0][rows], exclude[1][span])
            _join(index[rows], best[rows], span.start, *_block(some, key_block(number), k, best[rows], groups, block))
    return index, best


def fast_dtype() -> torch.dtype:
    """What this CPU multiplies fastest: bfloat16 where it has instructions for it, else float32."""
    has = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return torch.bfloat16 if any(asked() for asked in has if asked is not None) else torch.float32


def blocks(count: int, block: int) -> Iterator[slice]:
    """Slices of at most `block` that cover range(count)."""
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))


def kept(make: Callable[[int], Vectors], numbers: int) -> Callable[[int], Vectors]:
    """`make`, remembering what it made if all of it, `numbers` in float64, takes at most KEPT_BYTES."""
    made: dict[int, Vectors] = {}

    def get(n: int) -> Vectors:
        if n in made:
            return made[n]
        found = make(n)
        if numbers * 8 <= KEPT_BYTES:
            made[n] = found
        return found

    return get


@dataclass(frozen=True)
class Vectors:
    """A block of vectors: exact (n, D) float64 as `unit` makes them; the rough form, a bound of its rows' lengths, and
    (n, 1) the length of what each row lost."""

    exact: Tensor
    rough: Tensor | None = None
    longest: float = 1.0
    lost: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor, rough: torch.dtype | None) -> Vectors:
        exact = unit(features)
        if rough is None:
            return cls(exact)
        near = torch.empty(exact.shape, dtype=rough)
        lost = torch.empty(len(exact), 1, dtype=torch.float64)
        for rows in _cached(exact):
            near[rows] = exact[rows]
            lost[rows] = torch.linalg.vector_norm(exact[rows] - near[rows].double(), dim=1, keepdim=True)
        return cls(exact, near, 1.00001 + lost.max().item(), lost)


def _block(
    queries: Vectors, keys: Vectors, k: int, best: Tensor, groups: Groups, block: int
) -> tuple[Tensor, Tensor]:
    """For each query values and columns (n, w), w <= k, that hold every key of this block among the k best so far;
    equal values by column. -inf where there are fewer."""
    n, count = len(queries.exact), len(keys.exact)
    k = min(k, count)
    if queries.rough is None or count < 4 * k or count < 4 * GROUP:
        return _dense(queries.exact, keys.exact, k, groups, block)
    found = _candidates(queries, keys, k, best[:, -1:], groups)
    each = torch.bincount(found[:, 0], minlength=n)
    light = each <= count // 8
    values = torch.full((n, k), -torch.inf, dtype=torch.float64)
    columns = torch.zeros(n, k, dtype=torch.long)
    if not light.all():
        heavy = (~light).nonzero().flatten()
        some = None if groups is None else (groups[0][heavy], groups[1])
        values[heavy], columns[heavy] = _dense(queries.exact[heavy], keys.exact, k, some, block)
        found = found[light[found[:, 0]]]
        each = each * light
    row, column = found[:, 0], found[:, 1].contiguous()
    starts = torch.nn.functional.pad(each.cumsum(0), (1, 0))
    place = torch.arange(len(row)) - starts[row]
    width = max(k, int(each.max()))
    padded = torch.full((n, width), -torch.inf, dtype=torch.float64)
    padded[row, place] = _pairs(queries.exact, keys.exact, row, column)
    names = torch.zeros(n, width, dtype=torch.long)
    names[row, place] = column
    first, at = first_k(padded, k)
    rows = light.nonzero().flatten()
    values[rows], columns[rows] = first[rows], names.gather(1, at)[rows]
    return values, columns


def _candidates(queries: Vectors, keys: Vectors, k: int, least: Tensor, groups: Groups) -> Tensor:
    """(row, column) pairs, in that order, which hold all that can be among a row's k best; `least` (n, 1) float64 is
    what its k-th best has so far."""
    assert queries.rough is not None and keys.rough is not None
    assert queries.lost is not None and keys.lost is not None
    width, count = keys.exact.shape[1], len(keys.exact)
    rounding = 0.51 * torch.finfo(keys.rough.dtype).eps      # of the sum, relative
    off = 1.00001 * queries.lost + queries.longest * (keys.lost.max() + width * 2.0**-22 * keys.longest)
    rough = queries.rough @ keys.rough.T
    if groups is not None:
        rough.masked_fill_(groups[0][:, None] == groups[1][None, :], -torch.inf)
    bound = _maxima(rough, min(GROUP, count // (2 * k))).topk(k, dim=1).values[:, -1:].double()
    bound = bound - off - rounding * bound.abs().clamp(max=2)                    # -inf stays -inf
    limit = torch.maximum(least, bound) - off
    limit = limit / torch.where(limit > 0, 1 + rounding, 1 - rounding)
    line = limit.to(rough.dtype)
    line = torch.where(line.double() > limit, torch.nextafter(line, torch.full_like(line, -torch.inf)), line)
    passed = rough >= line
    if groups is not None:
        passed &= rough > -torch.inf
    return passed.nonzero()


def _maxima(rough: Tensor, group: int) -> Tensor:
    """(n, M) -> the maxima of disjoint groups of at most `group` columns, all columns that are in one."""
    while group > 1:
        half = rough.shape[1] // 2
        rough = torch.maximum(rough[:, :half], rough[:, half : 2 * half])
        group //= 2
    return rough


def _pairs(queries: Tensor, keys: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Dot products queries[row[i]] . keys[column[i]], `row` in order, without copying vectors together. It goes through
    the larger side once, in order, and jumps in the smaller one, which is likelier to be in a cache."""
    if len(keys) > len(queries):
        column, order = column.sort(stable=True)
        found = _pairs(keys, queries, column, row[order])
        return torch.empty_like(found).scatter_(0, order, found)
    starts = torch.nn.functional.pad(torch.bincount(row, minlength=len(queries)).cumsum(0), (1, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                      # torch calls its CSR tensors a beta
        wanted = torch.sparse_csr_tensor(
            starts, column, torch.zeros(len(row), dtype=torch.float64), (len(queries), len(keys)),
            check_invariants=False,
        )  # fmt: skip
        return torch.sparse.sampled_addmm(wanted, queries, keys.T, beta=0).values()


def _dense(queries: Tensor, keys: Tensor, k: int, groups: Groups, block: int) -> tuple[Tensor, Tensor]:
    """All products in float64, so many rows at a time that block x block numbers are held."""
    found = []
    for rows in blocks(len(queries), max(1, block * block // len(keys))):
        similarity = queries[rows] @ keys.T
        if groups is not None:
            similarity.masked_fill_(groups[0][rows, None] == groups[1][None, :], -torch.inf)
        found.append(first_k(similarity, k))
    return torch.cat([v for v, _ in found]), torch.cat([c for _, c in found])


def _join(index: Tensor, best: Tensor, start: int, values: Tensor, columns: Tensor) -> None:
    """Merge a block's best into the running ones, in place."""
    # what was kept before has lower indices, so a stable sort of [before | now] breaks ties as the rule says
    k = best.shape[1]
    values, order = torch.cat([best, values], dim=1).sort(dim=1, descending=True, stable=True)
    index.copy_(torch.cat([index, columns + start], dim=1).gather(1, order)[:, :k])
    best.copy_(values[:, :k])                                # the -1 of the start outlast every excluded key


def first_k(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top-k of each row, ties to the lower column: torch.topk, then a repair of rows where a tie straddles rank k.

    Returns:
        values and columns, (n, k).
    """
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
