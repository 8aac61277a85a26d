"""Intervals and figures over cells, against closed forms, slow loops and scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fgvr import metrics
from fgvr.analysis import intervals


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def cells(gold: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    both, cell, counts = np.unique(np.stack([gold, said]), axis=1, return_inverse=True, return_counts=True)
    return both[0], both[1], cell, counts


def test_a_share_has_wilsons_interval() -> None:
    right = np.array([True] * 6 + [False] * 5)
    assert intervals.share(right, None) == (6 / 11, *metrics.wilson(6, 11), 11)


def test_units_are_numbered_as_they_come() -> None:
    assert intervals.units(np.array([5, 3, 9])) is None
    assert intervals.units(np.array([5, 3, 5, -2, 3])).tolist() == [0, 1, 0, 2, 1]  # type: ignore[union-attr]


def test_questions_on_one_image_count_once(rng: np.random.Generator) -> None:
    """Four equal answers on each image say no more than one: the interval is that of the images."""
    once = rng.random(500) < 0.3
    unit = np.repeat(np.arange(500), 4)
    value, low, high, n = intervals.share(np.repeat(once, 4), unit)
    spread = 1.96 * math.sqrt(value * (1 - value) / 500)
    assert (value, n) == (once.mean(), 2000)
    assert (low, high) == pytest.approx((value - spread, value + spread), abs=0.1 * spread)
    shuffled = rng.permutation(2000)
    assert intervals.share(np.repeat(once, 4)[shuffled], unit[shuffled])[1:3] == (low, high), "whatever their order"
    _, low, high, _ = intervals.share(rng.random(2000) < 0.3, unit)
    assert (high - low) / 2 == pytest.approx(spread / 2, rel=0.2), "independent ones count as what they are"


@pytest.mark.parametrize("right", [False, True])
def test_all_right_or_all_wrong_is_not_certain(right: bool) -> None:
    unit = np.repeat(np.arange(30), 4)
    found = intervals.share(np.full(120, right), unit)
    assert found == (float(right), *metrics.wilson(30 * right, 30), 120) and found[2] - found[1] > 0.1


@pytest.mark.parametrize("graded", [False, True], ids=["few values", "many values"])
def test_a_mean_has_a_bootstrap_interval(rng: np.random.Generator, graded: bool) -> None:
    values = rng.normal(0.4, 0.2, 8000) if graded else rng.integers(0, 3, 900) / 2
    value, low, high, n = intervals.mean(values, None)
    spread = 1.96 * values.std() / math.sqrt(n)
    assert value == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((value - spread, value + spread), abs=0.15 * spread)
    assert intervals.mean(values, None) == (value, low, high, n), "equal numbers, equal interval"
    assert intervals.mean(np.array([0.5]), None) == (0.5, None, None, 1)


@pytest.mark.parametrize("size", [3000, 30_000], ids=["multinomial", "Poisson"])
@pytest.mark.parametrize("each", [1, 5])
def test_a_statistic_has_bootstrap_standard_errors(rng: np.random.Generator, size: int, each: int) -> None:
    right = np.repeat(rng.random(size // each) < 0.2, each).astype(int)
    unit = None if each == 1 else np.repeat(np.arange(size // each), each)
    value, low, high = intervals.statistic(right, unit, lambda weights: float(weights[1] / weights.sum()))
    spread = 1.96 * math.sqrt(value * (1 - value) / (size / each))
    assert value == right.mean()
    assert (value - low, high - value) == pytest.approx((spread, spread), rel=0.2)


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("sizes", ["alone", "some alone", "pairs"])
def test_mean_per_class_is_never_certain(rng: np.random.Generator, sizes: str, each: int) -> None:
    """All right, which says little of few items; equally many items in each class: Wilson's interval of the images."""
    count = {"alone": [1] * 12, "some alone": [1, 4, 4], "pairs": [2] * 6}[sizes]
    klass = np.repeat(np.repeat(np.arange(len(count)), count), each)
    unit = None if each == 1 else np.repeat(np.arange(sum(count)), each)
    value, low, high, n = intervals.mean_per_class(klass, np.ones(len(klass), dtype=bool), unit)
    assert (value, high, n) == (1, 1, len(count))
    assert low == pytest.approx(metrics.wilson(6, 6)[0] if sizes == "some alone" else metrics.wilson(12, 12)[0])
    assert intervals.mean_per_class(klass, np.zeros(len(klass), dtype=bool), unit)[2] == pytest.approx(1 - low)


def test_mean_per_class_of_classes_of_one_item_covers_what_is_true(rng: np.random.Generator) -> None:
    """Half the classes have one item; each class has its own share."""
    sizes, truth = np.repeat([1, 3], 20), np.tile([0.95, 0.7], 20)
    klass = np.repeat(np.arange(40), sizes)
    found = [intervals.mean_per_class(klass, rng.random(80) < truth[klass], None) for _ in range(150)]
    assert np.mean([low <= truth.mean() <= high for _, low, high, _ in found]) >= 0.93
    assert np.mean([high - low for _, low, high, _ in found]) < 0.3


def test_without_variation_there_is_no_interval() -> None:
    """But for shares, which have one by the number of images."""
    cell = np.zeros(7, dtype=int)
    assert intervals.statistic(cell, None, intervals.nmi(cell[:1], cell[:1])) == (1, None, None)
    unit = np.array([0, 0, 1, 1, 1, 2])
    value, low, high, _ = intervals.share(np.ones(6, dtype=bool), unit)
    assert (value, high) == (1, 1) and low == pytest.approx(metrics.wilson(36 / 14, 36 / 14)[0])


def test_mean_per_group_weighs_groups_equally(rng: np.random.Generator) -> None:
    group, right = rng.integers(0, 7, 200), rng.integers(0, 2, 200)
    want = np.mean([right[group == g].mean() for g in set(group.tolist())])
    found, hit, _, counts = cells(group, right)
    assert intervals.mean_per_group(found, hit)(counts.astype(float)) == pytest.approx(want)
    figure = intervals.mean_per_group(np.array([0, 1]), np.array([1, 0]))
    assert figure(np.array([3.0, 0.0])) == 1, "a class that a resample lacks is not counted"


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_scikit_learns(seed: int) -> None:
    from sklearn import metrics as sk

    draw = np.random.default_rng(seed)
    gold = draw.integers(0, 6, 300)
    said = np.where(draw.random(300) < 0.6, gold, draw.integers(0, 9, 300))
    golds, saids, _, counts = cells(gold, said)
    weights = counts.astype(float)
    assert intervals.nmi(golds, saids)(weights) == pytest.approx(sk.normalized_mutual_info_score(gold, said))
    assert intervals.ari(golds, saids)(weights) == pytest.approx(sk.adjusted_rand_score(gold, said))
    want = sk.f1_score(gold, said, labels=sorted(set(gold)), average="macro")
    assert intervals.macro_f1(golds, saids)(weights) == pytest.approx(want)
    one = np.zeros(1, dtype=int)
    assert intervals.nmi(one, one)(np.array([4.0])) == intervals.ari(one, one)(np.array([4.0])) == 1


def test_an_unreadable_reply_is_of_no_class() -> None:
    figure = intervals.macro_f1(np.array([0, 1]), np.array([0, -1]))
    assert figure(np.array([2.0, 2.0])) == 0.5


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("classes", "clusters"), [(4, 4), (3, 6), (5, 2)])
def test_matching_equals_trying_all_assignments(seed: int, classes: int, clusters: int) -> None:
    draw = np.random.default_rng(seed)
    gold, said = draw.integers(0, classes, 60), draw.integers(0, clusters, 60)
    golds, saids, _, counts = cells(gold, said)
    wide = max(classes, clusters)
    table = np.zeros((wide, wide), dtype=int)
    np.add.at(table, (said, gold), 1)
    best = max(sum(table[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(wide)))
    chosen = intervals.matching(golds, saids, counts)
    assert counts[chosen].sum() == best
    assert len(set(golds[chosen])) == len(set(saids[chosen])) == chosen.sum(), "one to one"


def test_what_is_unreadable_is_no_cluster() -> None:
    golds, saids, counts = np.array([0, 0, 1]), np.array([-1, 2, -1]), np.array([9, 1, 9])
    assert intervals.matching(golds, saids, counts).tolist() == [False, True, False]
    assert not intervals.matching(golds, np.array([-1, -1, -1]), counts).any()
