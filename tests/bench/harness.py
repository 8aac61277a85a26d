"""How a benchmark runs: equal outputs first, interleaved rounds, then one line with the median ratio and its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Run = Callable[[], Any]


def seconds(run: Run) -> float:
    """Wall time of one call, in s."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Benchmark:
    """Two contenders that do the same work. The ratio is baseline / ours: above 1, ours needs less.

    Args:
        baseline, ours: what each is called in the report, and the work; both return what `same` compares.
        same: raises AssertionError when the two outputs differ. It is called before anything is measured.
        bar: the ratio that ours must reach.
        measure: runs a contender once and returns its cost, > 0 (default: seconds).
        rounds: interleaved rounds, >= 5.
    """

    baseline: tuple[str, Run]
    ours: tuple[str, Run]
    same: Callable[[Any, Any], None]
    bar: float
    measure: Callable[[Run], float] = seconds
    rounds: int = 5

    def __post_init__(self) -> None:
        if self.rounds < 5:
            raise ValueError(f"rounds must be >= 5, got {self.rounds}")


def ratios(benchmark: Benchmark) -> list[float]:
    """One ratio baseline / ours a round. The one that goes first changes from round to round, so that a drift of the
    machine (heat, other users) meets both.

    Raises:
        AssertionError: the outputs differ; nothing was measured.
    """
    (_, baseline), (_, ours) = benchmark.baseline, benchmark.ours
    benchmark.same(baseline(), ours())
    found = []
    for number in range(benchmark.rounds):
        pair = (baseline, ours) if number % 2 == 0 else (ours, baseline)
        first, second = (benchmark.measure(run) for run in pair)
        found.append(first / second if number % 2 == 0 else second / first)
    return found


def line(name: str, benchmark: Benchmark, found: list[float]) -> str:
    """The report of one benchmark: name, contenders, median ratio (least to greatest), bar, `holds` or `short`."""
    median = statistics.median(found)
    return (
        f"{name}: {benchmark.ours[0]} vs {benchmark.baseline[0]}: {median:.2f}x ({min(found):.2f} to {max(found):.2f}, "
        f"{len(found)} rounds), bar {benchmark.bar:g}x: {'holds' if median >= benchmark.bar else 'short'}"
    )
