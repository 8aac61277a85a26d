"""24 questions on one image: as bench_extract, on a random mid-sized Idefics2 of the real classes."""

from __future__ import annotations

from tests.bench.bench_extract import against_repeated, idefics2
from tests.bench.harness import Benchmark


def benchmark() -> Benchmark:
    return against_repeated(idefics2)
