"""24 questions on one image: how far the shared prefix is from the least work."""

from __future__ import annotations

from tests.bench.bench_extract import against_floor, llava
from tests.bench.harness import Benchmark


def benchmark() -> Benchmark:
    return against_floor(llava)
