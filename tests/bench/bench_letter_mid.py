"""Letter scoring as in bench_letter, on the larger model, whose time goes into reading image and prompt."""

from __future__ import annotations

from tests.bench import bench_letter
from tests.bench.harness import Benchmark


def benchmark() -> Benchmark:
    return bench_letter.benchmark({}, count=32)
