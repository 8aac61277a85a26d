"""fgvr score on a million predictions, in a process of its own, against a budget of 10 s.

What it finds is first compared with a plain loop over json.loads; that loop's time plays no part, the budget does.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fgvr import stream
from tests.bench.bench_startup import FGVR
from tests.bench.harness import Benchmark, Run

PREDICTIONS, CLASSES, BUDGET_S = 1_000_000, 200, 10.0
NAMES = [f"Black_footed_Albatross {number}" for number in range(CLASSES)]


def prediction(number: int, draw: random.Random) -> dict:
    """About what eval writes for a multiple-choice question: 0.5 kB."""
    options = draw.sample(NAMES, 4)
    said, right = (None, 0) if number % 50 == 0 else (draw.randrange(4), draw.randrange(4))
    return {
        "id": f"test/{number:07}/mcq",
        "image": f"test/Crested/{number:07}.png",
        "kind": "mcq",
        "question": "Which of these birds is shown in the image?",
        "options": options,
        "answer": options[right],
        "answer_index": right,
        "category": options[right],
        "superclass": "bird",
        "split": "test",
        "raw": "hm" if said is None else "ABCD"[said],
        "prediction": None if said is None else options[said],
        "correct": said == right,
    }


def write(path: Path) -> None:
    draw = random.Random(0)
    with path.open("wb") as file:
        for number in range(PREDICTIONS):
            file.write(stream.encode(prediction(number, draw)) + b"\n")


def plain(path: Path) -> dict[str, float]:
    """Accuracy, its mean over classes and the failure rate, by counting."""
    right: dict[str, list[int]] = {name: [0, 0] for name in NAMES}
    failed = 0
    with path.open() as file:
        for line in file:
            record = json.loads(line)
            right[record["category"]][0] += record["correct"]
            right[record["category"]][1] += 1
            failed += record["prediction"] is None
    found = [hits / count for hits, count in right.values()]
    accuracy = sum(hits for hits, _ in right.values()) / PREDICTIONS
    mean = sum(found) / CLASSES
    return {"accuracy": accuracy, "mean-per-class accuracy": mean, "failure rate": failed / PREDICTIONS}


def command(path: Path) -> list[str]:
    return [FGVR, "score", str(path)]


def scored(path: Path) -> dict[str, float]:
    lines = subprocess.run(command(path), stdout=subprocess.PIPE, check=True).stdout.splitlines()
    return {record["metric"]: record["value"] for record in map(json.loads, lines)}


def against(budget: float, cost: Callable[[Path], float], name: str) -> Benchmark:
    """The ratio budget / cost of `fgvr score` on the file."""
    folder = tempfile.TemporaryDirectory(prefix="fgvr-bench-")
    path = Path(folder.name, "predictions.jsonl")
    write(path)

    def baseline() -> dict[str, float]:
        return plain(path)

    def ours() -> dict[str, float]:
        return scored(path)

    def measure(run: Run) -> float:
        return budget if run is baseline else cost(path)

    def same(left: dict[str, float], right: dict[str, float]) -> None:
        _ = folder  # removed with the last function that needs it
        for metric, value in left.items():
            assert abs(value - right[metric]) < 1e-12, f"{metric}: {value} by counting, {right[metric]} by fgvr score"

    return Benchmark((name, baseline), ("fgvr score", ours), same, bar=1, measure=measure)


def seconds(path: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command(path), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def benchmark() -> Benchmark:
    return against(BUDGET_S, seconds, f"a budget of {BUDGET_S:g} s")
