"""A sweep of 52 linear probes against CLIP_benchmark's procedure, on the features of bench_probe and its sizes.

That procedure (its documentation and pull request 107): features of length one; AdamW at a rate of 0.1 that falls to 0
along a cosine, batches of 512, 20 epochs; the weight decay is searched among 97 from 1e-6 to 100, first seven of them,
then four times the best and its neighbours 8, 4, 2, 1 places off, each trained from nothing, 19 in all; the best on the
validation rows is trained once more on all rows. All trainings cost the same, so a round times one and counts it 20
times; the search itself is done once, for the accuracy that ours must reach.
"""

from __future__ import annotations

import math
from typing import Any

from tests.bench import bench_probe
from tests.bench.bench_probe import KINDS, accuracy, features, sweep
from tests.bench.harness import Benchmark, Run, seconds

RATE, BATCH, EPOCHS = 0.1, 512, 20
DECAYS = [10 ** (-6 + n / 12) for n in range(97)]
FIRST, SPANS = range(0, 97, 16), (8, 4, 2, 1)
TRAININGS = len(FIRST) + 3 * len(SPANS) + 1


def unit(rows: Any) -> Any:
    import torch

    return torch.nn.functional.normalize(rows, dim=1)


def trained(x: Any, y: Any, decay: float) -> Any:
    """One linear layer, trained alone."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(x.shape[1], KINDS)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=decay)
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    pace = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: 0.5 * (1 + math.cos(math.pi * n / steps)))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimiser.step()
            pace.step()
    return layer.requires_grad_(False)


def searched() -> float:
    """Test accuracy of the decay that the search ends at."""
    (x, y), (test, gold), (train, val) = features(bench_probe.COUNT, 0), bench_probe.tests(), bench_probe.parts()
    x = unit(x)

    def best(places: list[int]) -> int:
        return max(places, key=lambda place: accuracy(trained(x[train], y[train], DECAYS[place])(x[val]), y[val]))

    place = best([*FIRST])
    for span in SPANS:
        place = best([max(place - span, 0), place, min(place + span, len(DECAYS) - 1)])
    return accuracy(trained(x, y, DECAYS[place])(unit(test)), gold)


def same(theirs: float, ours: float) -> None:
    assert ours >= theirs, f"test accuracy {ours:.4f} here, {theirs:.4f} by CLIP_benchmark's procedure"


def benchmark() -> Benchmark:
    def measure(run: Run) -> float:
        if run is not searched:
            return seconds(run)
        (x, y), (train, _) = features(bench_probe.COUNT, 0), bench_probe.parts()
        x, y = unit(x[train]), y[train]
        return TRAININGS * seconds(lambda: trained(x, y, DECAYS[48]))

    name = f"CLIP_benchmark's search ({TRAININGS} trainings, one timed a round)"
    return Benchmark((name, searched), (bench_probe.OURS, sweep), same, bar=3, measure=measure)
