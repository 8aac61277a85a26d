"""Exact top-k, peak memory: the work of bench_topk, each time in a fresh process that says how far its peak rose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fgvr.topk import topk
from tests.bench import bench_topk
from tests.bench.harness import Benchmark, Run


def peak_bytes(which: str) -> int:
    """Rise of this process's peak resident memory over one top-k, in bytes (Linux)."""
    queries, keys = bench_topk.features(bench_topk.QUERIES, 0), bench_topk.features(bench_topk.KEYS, 1)
    search = {"baseline": bench_topk.by_sorting, "ours": topk}[which]
    search(queries[:8], keys[:64], 2)  # what torch sets up at first use is not the search's
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident now
    before = _status("VmRSS")
    search(queries, keys, bench_topk.K)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def in_process(run: Run) -> float:
    command = [sys.executable, "-m", __name__, "baseline" if run is BASELINE else "ours"]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


_PLAIN = bench_topk.benchmark()
BASELINE, OURS = _PLAIN.baseline[1], _PLAIN.ours[1]


def benchmark() -> Benchmark:
    return Benchmark(_PLAIN.baseline, _PLAIN.ours, bench_topk.same, bar=3, measure=in_process)


if __name__ == "__main__":
    print(peak_bytes(sys.argv[1]))
