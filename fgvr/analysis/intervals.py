"""Figures with 95 % intervals over N questions, some of which may share an image.

Questions on one image are not independent: wherever an image has several, whole images are resampled (Cameron, Gelbach
& Miller 2008), and shares get a bootstrap instead of Wilson's interval. A bootstrap draws how often each *kind* of
result occurs, which is one multinomial draw, and so costs the same for a hundred results and for a million. Same
numbers, same intervals: every generator starts from SEED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fgvr import metrics
from fgvr.records import Record

if TYPE_CHECKING:
    from numpy import ndarray

SEED = 0
MOST = 5_000  # different results; with more, resamples are drawn item by item
Figure = tuple[float, float | None, float | None, int]  # value, low, high, n; no interval for one single item


def units(keys: ndarray) -> ndarray | None:
    """Images as numbers 0, 1, ...: (N,); None when each question has an image of its own."""
    import numpy as np

    if all_differ(keys):
        return None
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))  # by first appearance: hashes differ from process to process
    return number[inverse]


def all_differ(keys: ndarray) -> bool:
    """Whether no two of (N,) keys are equal; many times faster than np.unique."""
    import numpy as np

    ordered = np.sort(keys)
    return not (ordered[1:] == ordered[:-1]).any()


def share(right: ndarray, unit: ndarray | None) -> Figure:
    """The share of True in (N,) bool, N >= 1: Wilson's interval, by images where `unit` says which ones. Of questions
    that are all right, or all wrong, every resample is alike: Wilson's interval of as many images then."""
    n, count = len(right), int(right.sum())
    if unit is None:
        return (count / n, *metrics.wilson(count, n), n)
    low, high = _bootstrap(right.astype(float), unit) if 0 < count < n else _wilson(count / n, right >= 0, unit)
    return count / n, low, high, n


def mean_per_class(klass: ndarray, right: ndarray, unit: ndarray | None) -> Figure:
    """The unweighted mean over classes, (N,) numbers >= 0, of the share of (N,) bool that is right; n are the classes.

    The interval is that of `statistic`. Resamples show nothing of how a class of one item (or image) varies, and
    nothing at all where everything is right or wrong; the interval then is Wilson's, at Kish's effective sample size,
    which errs on the wide side: it takes what lies between classes for chance as well.
    """
    import numpy as np

    klass = klass.astype(np.int64)
    cells, cell = np.unique(klass * 2 + right, return_inverse=True)
    value, low, high = statistic(cell, unit, mean_per_group(cells // 2, cells % 2))
    sizes = own = np.bincount(klass)
    if unit is not None:
        wide = int(unit.max()) + 1
        own = np.bincount(np.unique(klass * wide + unit) // wide)
    if value in (0.0, 1.0) or own[own > 0].min() == 1:
        low, high = _wilson(value, 1 / sizes[klass], unit)
    return value, low, high, int(np.count_nonzero(sizes))


def _wilson(share: float, weights: ndarray, unit: ndarray | None) -> tuple[float, float]:
    """Wilson's interval of a weighted share at the effective sample size (sum w)^2 / sum w^2 (Kish 1965, section 11.7);
    of the weights of whole units, as if all items of one were alike."""
    import numpy as np

    sums = weights.astype(float) if unit is None else np.bincount(unit, weights=weights)
    n = float(sums.sum() ** 2 / (sums**2).sum())
    return metrics.wilson(share * n, n)


def mean(values: ndarray, unit: ndarray | None) -> Figure:
    """The mean of (N,) values, N >= 1, with a percentile bootstrap."""
    value = float(values.mean())
    return (value, *_bootstrap(values, unit), len(values)) if len(values) > 1 else (value, None, None, 1)


def _bootstrap(values: ndarray, unit: ndarray | None, rounds: int = 10_000) -> tuple[float, float]:
    """Percentile interval of the mean; with `unit` of the ratio of sums over resampled units."""
    import numpy as np

    if unit is None:
        sums, sizes = values, np.ones(len(values))
    else:
        sums, sizes = np.bincount(unit, weights=values), np.bincount(unit).astype(float)
    kinds, counts = np.unique(np.stack([sums.round(12), sizes]), axis=1, return_counts=True)
    rng = np.random.Generator(np.random.PCG64(SEED))
    n = len(sums)
    if len(counts) <= MOST:
        rounds = max(1000, min(rounds, 20_000_000 // len(counts)))
        drawn = rng.multinomial(n, counts / n, size=rounds) @ kinds.T
    else:
        picks = (rng.integers(0, n, n) for _ in range(max(200, min(1000, 100_000_000 // n))))
        drawn = np.array([[sums[pick].sum(), sizes[pick].sum()] for pick in picks])
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(low), float(high)


def statistic(
    cell: ndarray, unit: ndarray | None, figure: Callable[[ndarray], float], least: float = 0.0
) -> tuple[float, float | None, float | None]:
    """A figure that depends on how often each of S cells occurs, with value ± 1.96 bootstrap standard errors; without
    an interval where it is the same on all resamples, which tell nothing then.

    A percentile interval would not do: figures such as NMI are larger on resamples, which repeat items.

    Args:
        cell: (N,) the cell of each question, 0 .. S - 1. figure: of (S,) weights >= 0.
        least: the interval is cut to [least, 1].
    """
    import numpy as np

    counts = np.bincount(cell).astype(float)
    value = figure(counts)
    drawn = [figure(weights) for weights in _weights(cell, counts, unit)]
    spread = metrics.Z95 * float(np.std(drawn, ddof=1))
    return (value, max(least, value - spread), min(1.0, value + spread)) if spread > 1e-9 else (value, None, None)


def _weights(cell: ndarray, counts: ndarray, unit: ndarray | None) -> Iterator[ndarray]:
    """(S,) bootstrap weights, 100 to 1000 times."""
    import numpy as np

    rng = np.random.Generator(np.random.PCG64(SEED))
    n, images = len(cell), 0 if unit is None else int(unit.max()) + 1
    rounds = max(100, min(1000, 4_000_000 // (images + len(counts))))
    for _ in range(rounds):
        if unit is None:  # many: each result is drawn for itself (Poisson bootstrap), three times faster
            yield (rng.multinomial(n, counts / n) if n < 10_000 else rng.poisson(counts)).astype(float)
        else:
            often = np.bincount(rng.integers(0, images, images), minlength=images)
            yield np.bincount(cell, weights=often[unit], minlength=len(counts))


def figure(kind: str, metric: str, figure: Figure) -> Record:
    return metric_record(kind, metric, *figure)


def metric_record(kind: str, metric: str, value: float, low: float | None, high: float | None, n: int) -> Record:
    return {"kind": kind, "metric": metric, "value": value, "low": low, "high": high, "n": n}


# --- what statistic() takes -------------------------------------------------------------------------------------------


def mean_per_group(group: ndarray, right: ndarray) -> Callable[[ndarray], float]:
    """Unweighted mean over groups of the share that is right. group, right: (S,) of each cell."""
    import numpy as np

    def figure(weights: ndarray) -> float:
        every = np.bincount(group, weights=weights)
        hits = np.bincount(group, weights=weights * right, minlength=len(every))
        return float((hits[every > 0] / every[every > 0]).mean())

    return figure


def macro_f1(gold: ndarray, said: ndarray) -> Callable[[ndarray], float]:
    """Unweighted mean of F1 = 2 tp / (said + gold) over the classes that occur as gold; -1 in `said` is no class.

    gold, said: (S,) classes of each cell, numbered alike.
    """
    import numpy as np

    size = int(max(gold.max(), said.max())) + 1
    hit, named = gold == said, said >= 0

    def figure(weights: ndarray) -> float:
        golds = np.bincount(gold, weights=weights, minlength=size)
        saids = np.bincount(said[named], weights=weights[named], minlength=size)
        tp = np.bincount(gold[hit], weights=weights[hit], minlength=size)
        there = golds > 0
        return float((2 * tp[there] / (golds[there] + saids[there])).mean())

    return figure


def nmi(gold: ndarray, said: ndarray) -> Callable[[ndarray], float]:
    """Normalised mutual information, 2 I(gold; said) / (H(gold) + H(said)): scikit-learn's default. 1 for one class."""
    import numpy as np

    def figure(weights: ndarray) -> float:
        p = weights / weights.sum()
        rows, columns = np.bincount(gold, weights=p), np.bincount(said, weights=p)
        there = p > 0
        information = (p[there] * np.log(p[there] / (rows[gold] * columns[said])[there])).sum()
        entropy = -sum((q[q > 0] * np.log(q[q > 0])).sum() for q in (rows, columns))
        return float(np.clip(2 * information / entropy, 0, 1)) if entropy > 0 else 1.0

    return figure


def ari(gold: ndarray, said: ndarray) -> Callable[[ndarray], float]:
    """Adjusted Rand index (Hubert & Arabie 1985), over pairs of items."""
    import numpy as np

    def pairs(counts: ndarray) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    def figure(weights: ndarray) -> float:
        rows, columns = pairs(np.bincount(gold, weights=weights)), pairs(np.bincount(said, weights=weights))
        both, every = pairs(weights), pairs(weights.sum())
        chance = rows * columns / every if every else 0.0
        return (both - chance) / ((rows + columns) / 2 - chance) if (rows + columns) / 2 != chance else 1.0

    return figure


def matching(gold: ndarray, said: ndarray, counts: ndarray) -> ndarray:
    """(S,) bool: the cells of the assignment of predicted clusters to classes, one to one, that holds the most items
    (Hungarian matching, FineR's cAcc). `said` < 0 is no cluster. Sparse, so that there may be many clusters."""
    import numpy as np
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    named = np.flatnonzero(said >= 0)
    chosen = np.zeros(len(gold), dtype=bool)
    if not len(named):
        return chosen
    clusters, row = np.unique(said[named], return_inverse=True)
    classes, column = np.unique(gold[named], return_inverse=True)
    # a column of its own for every cluster lets it stay unmatched; + 1 keeps those edges from weighing nothing
    rows = np.concatenate([row, np.arange(len(clusters))])
    columns = np.concatenate([column, len(classes) + np.arange(len(clusters))])
    weights = np.concatenate([counts[named] + 1, np.ones(len(clusters))])
    graph = csr_matrix((weights, (rows, columns)), shape=(len(clusters), len(classes) + len(clusters)))
    _, of_row = min_weight_full_bipartite_matching(graph, maximize=True)
    chosen[named] = of_row[row] == column
    return chosen
