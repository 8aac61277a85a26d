"""Runs on the same questions, compared: which questions of a data set each run has right, as one matrix.

Every difference is a contrast: the mean over questions of a sum over runs, each with a coefficient, of whether it is
right. So differences are paired, and the same bootstrap over questions (whole images, where an image has several)
serves a gap, a step and the effect of a factor. Where categories count alike, a question weighs 1 / (categories x
questions of its category). Means over data sets take these as independent, with standard errors from the widths of
their intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fgvr import metrics
from fgvr.analysis import intervals
from fgvr.analysis.columns import Predictions, same_answers
from fgvr.analysis.intervals import Figure
from fgvr.errors import FgvrError

if TYPE_CHECKING:
    from numpy import ndarray


@dataclass
class Answers:
    """What some runs got right of one data set.

    right: run -> (N,) 0 or 1, the questions in one order. weight: (N,), mean 1. units: run -> (N,) what its answers
    share (an image, a category); None: each question has its own. klass: (N,) categories where these count alike, else
    None.
    """

    right: dict[str, ndarray]
    weight: ndarray
    units: dict[str, ndarray | None]
    klass: ndarray | None

    def accuracy(self, run: str) -> Figure:
        """As fgvr.stages.score has it: the share of right answers, or its mean over categories."""
        right, unit = self.right[run] == 1, self.units[run]
        return intervals.share(right, unit) if self.klass is None else intervals.mean_per_class(self.klass, right, unit)

    def contrast(self, coefficients: Mapping[str, float]) -> Figure:
        """The weighted mean over questions of the sum of coefficient x right."""
        import numpy as np

        shared = [unit for run in coefficients if (unit := self.units[run]) is not None]
        wide = min(shared, key=lambda unit: len(np.unique(unit)), default=None)
        total = np.zeros(len(self.weight))
        for run, factor in coefficients.items():
            total += factor * self.right[run]
        return intervals.mean(total * self.weight, wide)

    def given(self, run: str, other: str, right: bool) -> Figure | None:
        """The share of its questions that a run has right among those that the other run has right (or wrong)."""
        where = self.right[other] == int(right)
        if not where.any():
            return None
        shared = self.units[run]
        unit = None if shared is None else intervals.units(shared[where])
        return intervals.share(self.right[run][where] == 1, unit)


def answers(
    dataset: str, runs: Mapping[str, Mapping[str, Predictions]], per_class: bool, measure: str = "correct"
) -> Answers:
    """Bring the runs of a data set together.

    Args:
        runs: run -> its predictions by kind; the choices among them count, or the only kind.
        measure: "correct", or "em": FINER's EM of open answers (gold in prediction).
    Raises:
        FgvrError: a run has several kinds and no choices, a question without an answer, none at one level for "em", or
            other questions than the first one.
    """
    import numpy as np

    tables = {run: _one_kind(dataset, run, kinds) for run, kinds in runs.items()}
    orders = {run: np.argsort(table["key"], kind="stable") for run, table in tables.items()}
    first = next(iter(tables))
    keys = tables[first]["key"][orders[first]]
    for run, table in tables.items():
        own = table["key"][orders[run]]
        if len(own) != len(keys) or (own != keys).any() or not intervals.all_differ(own):
            raise FgvrError(f"{dataset}: {run} and {first} answer other questions; evaluate both on one file")
        if run != first and not same_answers(tables[first], table, orders[first], orders[run]).all():
            raise FgvrError(f"{dataset}: {run} and {first} have other right answers to questions of one id; are both "
                            "of one data set? Evaluate both on one file")  # fmt: skip
        if (table["correct"] < 0).any():
            raise FgvrError(f"{dataset}: {run} has questions without an answer; leave them out")
    right = {run: _right(dataset, run, table, measure)[orders[run]] for run, table in tables.items()}
    klass = tables[first]["klass"][orders[first]].astype(np.int64) if per_class else None
    if klass is not None and (klass < 0).any():
        raise FgvrError(f"{dataset}: {first} has questions without `category`; leave it out of --per-class")
    units = {run: intervals.units(table["unit"][orders[run]]) for run, table in tables.items()}
    return Answers(right, _weights(klass, len(keys)), units, klass)


def _right(dataset: str, run: str, table: Predictions, measure: str) -> ndarray:
    import numpy as np

    found = ["correct"] if measure == "correct" else [name for name in table.graded() if name.startswith("em/")]
    if len(found) != 1 or np.isnan(table[found[0]]).any():
        raise FgvrError(f"{dataset}: {run} has no open answers at one level; leave --measure em out")
    return table[found[0]].astype(np.int64)


def _weights(klass: ndarray | None, count: int) -> ndarray:
    import numpy as np

    if klass is None:
        return np.ones(count)
    own = np.unique(klass, return_inverse=True)[1]
    sizes = np.bincount(own)
    return count / (len(sizes) * sizes[own])


def _one_kind(dataset: str, run: str, kinds: Mapping[str, Predictions]) -> Predictions:
    if "mcq" in kinds:
        return kinds["mcq"]
    if len(kinds) != 1:
        raise FgvrError(f"{dataset}: {run} has {', '.join(kinds) or 'no predictions'}; give choices, or one kind alone")
    return next(iter(kinds.values()))


def over_sets(figures: Sequence[Figure]) -> Figure:
    """The mean of figures of independent data sets, with an interval; n is their number. Of one its own interval."""
    if len(figures) == 1:
        return (*figures[0][:3], 1)
    value = sum(figure[0] for figure in figures) / len(figures)
    widths = [(high - low) for _, low, high, _ in figures if low is not None and high is not None]
    if len(widths) < len(figures):
        return value, None, None, len(figures)
    half = math.sqrt(sum((width / (2 * metrics.Z95)) ** 2 for width in widths)) * metrics.Z95 / len(figures)
    return value, value - half, value + half, len(figures)
