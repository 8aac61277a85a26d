"""Image features as in bench_features, of photographs as cameras make them."""

from __future__ import annotations

from tests.bench import bench_features
from tests.bench.harness import Benchmark


def benchmark() -> Benchmark:
    return bench_features.benchmark((2000, 1500))
