"""Four nearest labels of each image: fgvr.topk against a loop in the manner of FOCI's option mining: cosines in
batches of 512, handed over as Python lists, and a full argsort for each image."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fgvr.topk import topk, unit
from tests.bench.harness import Benchmark

IMAGES, LABELS, WIDTH, K, BATCH = int(os.environ.get("IMAGES", "50000")), 1000, 768, 4, 512


def features(count: int, seed: int) -> Tensor:
    return unit(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))).float()


def by_loop(images: Tensor, labels: Tensor) -> list[list[int]]:
    import numpy as np

    found = []
    for start in range(0, len(images), BATCH):
        for cosines in (images[start : start + BATCH] @ labels.T).tolist():
            found.append([int(i) for i in np.argsort(cosines)[-K:]][::-1])
    return found


def same(baseline: list[list[int]], ours: list[list[int]]) -> None:
    differing = sum(sorted(a) != sorted(b) for a, b in zip(baseline, ours, strict=True))
    assert differing <= len(ours) // 1000, f"{differing} images have other labels"


def benchmark() -> Benchmark:
    images, labels = features(IMAGES, 0), features(LABELS, 1)
    return Benchmark(
        baseline=("FOCI-style loop", lambda: by_loop(images, labels)),
        ours=(f"fgvr.topk, {IMAGES:,} x {LABELS:,}, k {K}", lambda: topk(images, labels, K)[0].tolist()),
        same=same,
        bar=10,
    )
