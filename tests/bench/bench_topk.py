"""Exact top-k: fgvr.topk in blocks against the whole similarity matrix and a full sort, both of one torch."""

from __future__ import annotations

import torch
from torch import Tensor

from fgvr.topk import topk, unit
from tests.bench.harness import Benchmark

QUERIES, KEYS, WIDTH, K = 2000, 8000, 128, 50


def features(count: int, seed: int) -> Tensor:
    """(count, WIDTH) random directions; every tenth key repeats an earlier one, so that there are ties to break."""
    found = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    found[9::10] = found[0::10][: len(found[9::10])]
    return found


def by_sorting(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The plain way, on the features that fgvr.topk compares: N x M similarities, stable argsort of each row."""
    similarity = unit(queries) @ unit(keys).T
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
    return order, similarity.gather(1, order)


def same(baseline: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(baseline[0], ours[0]), "other neighbours"
    assert torch.equal(baseline[1], ours[1]), "other similarities"


def benchmark() -> Benchmark:
    queries, keys = features(QUERIES, 0), features(KEYS, 1)
    return Benchmark(
        baseline=("full matrix + argsort (torch)", lambda: by_sorting(queries, keys, K)),
        ours=("fgvr.topk", lambda: topk(queries, keys, K)),
        same=same,
        bar=2,
    )
