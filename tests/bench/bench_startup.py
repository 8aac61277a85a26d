"""Start-up: `fgvr --help`, which builds the help of every command, against importing torch alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.harness import Benchmark

FGVR = shutil.which("fgvr", path=str(Path(sys.executable).parent)) or "fgvr"


def benchmark() -> Benchmark:
    def help_text() -> int:
        return subprocess.run([FGVR, "--help"], stdout=subprocess.DEVNULL, check=True).returncode

    def import_torch() -> int:
        return subprocess.run([sys.executable, "-c", "import torch"], check=True).returncode

    def same(baseline: int, ours: int) -> None:
        assert baseline == ours == 0, "a command failed"

    return Benchmark(
        baseline=("python -c 'import torch'", import_torch), ours=("fgvr --help", help_text), same=same, bar=5, rounds=9
    )
