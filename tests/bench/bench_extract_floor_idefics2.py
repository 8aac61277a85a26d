"""24 questions on one image: as bench_extract_floor, on Idefics2."""

from __future__ import annotations

from tests.bench.bench_extract import against_floor, idefics2
from tests.bench.harness import Benchmark


def benchmark() -> Benchmark:
    return against_floor(idefics2)
