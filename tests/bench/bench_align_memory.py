"""The peak of memory of an align step on 64 triples, each contender in a fresh process: fgvr, contrastive batch 64 in
micro-batches of MICRO (4), against the released procedure in its batches of 2, as in bench_align, by which their
losses are compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.bench import bench_align
from tests.bench.harness import Benchmark, Run

MICRO = os.environ.get("MICRO", "4")


def peak_mib(run: Run) -> float:
    """Of a fresh process, the model and torch included."""
    command = [sys.executable, "-m", "tests.bench.bench_align", "released" if run is bench_align.baseline else "ours"]
    told = subprocess.run([*command, MICRO], stdout=subprocess.PIPE, check=True, text=True).stdout
    found = re.search(r"peak (\d+) MiB", told)
    assert found, told
    return float(found[1])


def benchmark() -> Benchmark:
    contenders = ("released procedure, 2", bench_align.baseline), (f"micro-batch {MICRO}", bench_align.ours)
    return Benchmark(*contenders, bench_align.same, bar=1, measure=peak_mib)
