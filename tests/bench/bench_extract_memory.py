"""Peak memory of extract-attrs over 2,000 records against 20,000, with a trivial model: streaming keeps it flat."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fgvr.models.base import Ask
from fgvr.stages.extract import extract
from tests.bench.harness import Benchmark, Run

FEW, MANY = 2_000, 20_000
QUESTIONS = {"bird": {f"part {n} colour": f"Part {n}?" for n in range(30)}}


class Trivial:
    def __init__(self) -> None:
        self.about = {"name": "trivial"}

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        return [f"{ask.prompt} {ask.image.size if ask.image else 0}" for ask in asks]


def count(records: int) -> int:
    """Extract and let go of every record; how many attributes there were."""
    with tempfile.TemporaryDirectory() as root:
        Image.new("RGB", (64, 64), "red").save(Path(root, "a.png"))
        items = ({"id": str(n), "image": "a.png", "superclass": "bird"} for n in range(records))
        made = extract(items, Trivial(), QUESTIONS, root, 64, 9)
        return sum(len(item["attributes"]) for item in made if isinstance(item, dict))


def few() -> int:
    return count(FEW) * MANY // FEW


def many() -> int:
    return count(MANY)


def peak_bytes(run: Run) -> float:
    """Peak resident memory of a fresh process that runs it."""
    command = [sys.executable, "-m", __name__, "few" if run is few else "many"]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def same(baseline: int, ours: int) -> None:
    assert baseline == ours == MANY * 30


def benchmark() -> Benchmark:
    return Benchmark((f"{FEW} records", few), (f"{MANY} records", many), same, bar=0.9, measure=peak_bytes)


if __name__ == "__main__":
    {"few": few, "many": many}[sys.argv[1]]()
    lines = Path("/proc/self/status").read_text().splitlines()
    print(1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")))
