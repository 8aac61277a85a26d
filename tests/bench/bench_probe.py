"""A sweep of 52 linear probes at 20,000 x 768 features and 200 categories, against scikit-learn's LogisticRegression.

52 fits of scikit-learn take most of an hour, so each round times one of five fits (C from 1e-4 to 1, float32, 100
iterations of L-BFGS at most, its default) and counts it 52 times; ours is timed whole, its validation included. Before
that, test accuracy must be within 0.3 points of scikit-learn's at the C that is best on the same validation rows.
COUNT, WIDTH and CATEGORIES in the environment set other sizes, for a machine that has not half an hour.
"""

from __future__ import annotations

import functools
import itertools
import os
import warnings
from typing import Any

from tests.bench.harness import Benchmark, Run, seconds

COUNT, WIDTH, KINDS = (
    int(os.environ.get(name, default)) for name, default in (("COUNT", 20_000), ("WIDTH", 768), ("CATEGORIES", 200))
)
FITS = 52
OURS = f"sweep of {FITS} settings, {COUNT:,} x {WIDTH}, {KINDS} categories"
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@functools.cache
def features(count: int, seed: int) -> tuple[Any, Any]:
    """Blobs in 64 of 768 dimensions and noise in all, on scales that fall by e^2: about 97 % can be told apart."""
    import torch

    fixed = torch.Generator().manual_seed(99)
    centres, mix = torch.randn(KINDS, 64, generator=fixed), torch.randn(64, WIDTH, generator=fixed) / 8
    draw, codes = torch.Generator().manual_seed(seed), torch.arange(count) % KINDS
    x = (centres[codes] + 1.5 * torch.randn(count, 64, generator=draw)) @ mix
    return (x + 0.5 * torch.randn(count, WIDTH, generator=draw)) * torch.linspace(0, -2, WIDTH).exp(), codes


def parts() -> tuple[Any, Any]:
    import torch

    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    return order[COUNT // 5 :].sort().values, order[: COUNT // 5].sort().values


def tests() -> tuple[Any, Any]:
    return features(COUNT // 2, 1)


def accuracy(scores: Any, gold: Any) -> float:
    return float((scores.argmax(1) == gold).double().mean())


def fit(c: float) -> tuple[float, float]:
    """Validation and test accuracy of one of scikit-learn's fits."""
    from sklearn.linear_model import LogisticRegression

    (x, y), (test, gold), (train, val) = features(COUNT, 0), tests(), parts()
    mean, scale = x[train].mean(0), x[train].std(0)
    sides = [((part - mean) / scale).numpy() for part in (x[train], x[val], test)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 100 iterations may not be enough; they are what is timed
        model = LogisticRegression(C=c).fit(sides[0], y[train].numpy())
    return model.score(sides[1], y[val].numpy()), model.score(sides[2], gold.numpy())


def sweep() -> float:
    """Test accuracy of the best of our settings."""
    from fgvr.analysis.rows import Rows
    from fgvr.analysis.sweep import sweep

    (x, y), (test, gold), (train, val) = features(COUNT, 0), tests(), parts()
    found = sweep(Rows(x), y, train, val, [str(i) for i in range(KINDS)])
    assert len(found.settings) == FITS
    probe = found.probe
    return accuracy(((test.double() - probe.mean) / probe.scale) @ probe.weight.T + probe.bias, gold)


def same(best: float, ours: float) -> None:
    assert ours > best - 0.003, f"test accuracy {ours:.4f} here, {best:.4f} by scikit-learn"


def benchmark() -> Benchmark:
    penalties = itertools.cycle(PENALTIES)

    def baseline() -> float:
        return max(fit(c) for c in PENALTIES)[1]

    def measure(run: Run) -> float:
        if run is not baseline:
            return seconds(run)
        c = next(penalties)
        return FITS * seconds(lambda: fit(c))

    name = f"{FITS} fits of scikit-learn (one timed a round, of C {PENALTIES[0]:g} to {PENALTIES[-1]:g})"
    return Benchmark((name, baseline), (OURS, sweep), same, bar=8, measure=measure)
