"""fgvr score on a million predictions: the peak of its resident memory, against a budget of 1 GiB."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench import bench_score
from tests.bench.harness import Benchmark


def peak_bytes(path: Path) -> float:
    """Peak resident memory of one run, in bytes (Linux)."""
    argv = bench_score.command(path)
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    _, status, used = os.wait4(os.posix_spawn(argv[0], argv, os.environ, file_actions=quiet), 0)
    assert status == 0, "fgvr score failed"
    return 1024 * used.ru_maxrss


def benchmark() -> Benchmark:
    return bench_score.against(2**30, peak_bytes, "a budget of 1 GiB")
