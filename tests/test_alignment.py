"""Alignment and separability figures against plain loops over made-up features."""

import math
import random

import pytest
import torch

from fgvr.analysis.alignment import alignment_quality, inter_class_distance, intra_class_variance, retrieval
from fgvr.errors import FgvrError


def features(rows, width=5, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def plain(x):
    """Unit rows as lists."""
    return [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in x.tolist()]


def dot(x, y):
    return sum(p * q for p, q in zip(x, y, strict=True))


NAMES = ["heron", "crow", "auk"]
KINDS = ["crow", "crow", "crow", "heron", "heron", "auk", "crow", "auk", "auk"]


def centres(x, kinds):
    rows = plain(x)
    found = {}
    for kind in sorted(set(kinds)):
        own = [r for r, k in zip(rows, kinds, strict=True) if k == kind]
        found[kind] = [sum(column) / len(own) for column in zip(*own, strict=True)]
    return found


def test_alignment_quality_is_the_mean_over_classes_of_their_mean_cosine():
    objects, names = features(9), features(3, seed=1)
    quality, each = alignment_quality(objects, KINDS, NAMES, names)
    o, n = plain(objects), dict(zip(NAMES, plain(names), strict=True))
    want = {}
    for kind in NAMES:
        cosines = [dot(row, n[kind]) for row, k in zip(o, KINDS, strict=True) if k == kind]
        want[kind] = sum(cosines) / len(cosines)
    assert each == pytest.approx(want, abs=1e-6) and list(each) == sorted(NAMES)
    assert quality == pytest.approx(sum(want.values()) / 3, abs=1e-6)
    assert alignment_quality(objects * 50, KINDS, NAMES, names / 9)[0] == pytest.approx(quality, abs=1e-7)


def test_alignment_quality_at_its_ends():
    basis = torch.eye(3)
    assert alignment_quality(basis, NAMES, NAMES, basis)[0] == 1
    assert alignment_quality(basis, NAMES, NAMES, -basis)[0] == -1
    assert alignment_quality(basis, NAMES, NAMES, basis.roll(1, 0))[0] == 0


def test_a_rare_class_weighs_as_much_as_a_common_one():
    objects = torch.tensor([[1.0, 0]] * 9 + [[1.0, 0]])
    quality, _ = alignment_quality(objects, ["a"] * 9 + ["b"], ["a", "b"], torch.eye(2))
    assert quality == 0.5


def test_inter_class_distance_equals_a_loop_over_pairs():
    x = features(9, seed=3)
    c = list(centres(x, KINDS).values())
    distances = [
        1 - dot(c[p], c[q]) / math.sqrt(dot(c[p], c[p]) * dot(c[q], c[q])) for p in range(3) for q in range(p)
    ]
    assert inter_class_distance(x, KINDS) == pytest.approx(sum(distances) / 3, abs=1e-7)
    assert inter_class_distance(torch.eye(3), NAMES) == pytest.approx(1)
    assert inter_class_distance(torch.ones(3, 2), NAMES) == pytest.approx(0, abs=1e-7)
    assert inter_class_distance(torch.tensor([[1.0], [-1.0]]), ["a", "b"]) == pytest.approx(2)


def test_intra_class_variance_equals_a_loop_over_images():
    x = features(9, seed=4)
    middle, rows = centres(x, KINDS), plain(x)
    variances = []
    for kind in NAMES:
        own = [r for r, k in zip(rows, KINDS, strict=True) if k == kind]
        spread = [sum((v - m) ** 2 for v, m in zip(r, middle[kind], strict=True)) for r in own]
        variances.append(sum(spread) / len(own))
    assert intra_class_variance(x, KINDS) == pytest.approx(sum(variances) / 3, abs=1e-6)
    assert intra_class_variance(torch.ones(3, 2), ["a"] * 3) == pytest.approx(0, abs=1e-7)
    assert intra_class_variance(torch.tensor([[1.0], [-1.0]]), ["a", "a"]) == pytest.approx(1)
    assert intra_class_variance(features(2), ["a", "b"]) == pytest.approx(0, abs=1e-7)


def test_the_order_of_the_images_does_not_matter():
    x, turned = features(9, seed=5), random.Random(0).sample(range(9), 9)
    kinds = [KINDS[i] for i in turned]
    for figure in (inter_class_distance, intra_class_variance):
        assert figure(x[turned], kinds) == pytest.approx(figure(x, KINDS), abs=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_equals_a_loop(seed):
    queries, keys = features(9, 3, seed), features(6, 3, seed + 50)
    key_kinds = [*NAMES, "auk", "heron", "crow"]
    right = 0
    for q, kind in zip(plain(queries), KINDS, strict=True):
        best = max(range(6), key=lambda j: dot(q, plain(keys)[j]))
        right += key_kinds[best] == kind
    assert retrieval(queries, KINDS, keys, key_kinds) == pytest.approx(right / 9)


def test_retrieval_where_everything_is_far_away():
    keys = torch.tensor([[-1.0, 0.1], [-1.0, 0.5]])
    assert retrieval(torch.tensor([[1.0, 0.0]]), ["b"], keys, ["a", "b"]) == 1
    assert retrieval(torch.tensor([[1.0, 0.0]]), ["a"], keys, ["a", "b"]) == 0


def test_retrieval_counts_a_tie_with_a_wrong_key_as_a_miss():
    query = torch.tensor([[1.0, 1.0]])
    assert retrieval(query, ["a"], torch.eye(2), ["a", "b"]) == 0
    assert retrieval(query, ["b"], torch.eye(2), ["a", "b"]) == 0
    assert retrieval(query, ["a"], torch.eye(2), ["a", "a"]) == 1
    assert retrieval(torch.ones(4, 2), list("abab"), torch.ones(2, 2), ["a", "b"]) == 0


def test_retrieval_in_blocks(monkeypatch):
    queries, keys = features(9, 3, 1), features(3, 3, 7)
    whole = retrieval(queries, KINDS, keys, NAMES)
    assert whole > 2 / 9
    for block in (1, 2, 4):
        monkeypatch.setattr("fgvr.analysis.alignment.BLOCK", block)
        assert retrieval(queries, KINDS, keys, NAMES) == whole


def test_wrong_arguments_are_refused():
    x = features(9)
    with pytest.raises(FgvrError, match="1 categories have no name to compare with, the first is 'auk'"):
        alignment_quality(x, KINDS, NAMES[:2], features(2))
    with pytest.raises(FgvrError, match="no name to compare with"):
        retrieval(x, KINDS, features(1), ["crow"])
    with pytest.raises(ValueError, match="unique"):
        alignment_quality(x, KINDS, [*NAMES, "auk"], features(4))
    with pytest.raises(ValueError, match="for 3 categories"):
        alignment_quality(x, KINDS, NAMES, features(4))
    with pytest.raises(ValueError, match="two categories"):
        inter_class_distance(x, ["a"] * 9)
    for figure in (inter_class_distance, intra_class_variance):
        with pytest.raises(ValueError, match="categories"):
            figure(x, KINDS[:-1])
        with pytest.raises(ValueError, match="row 2 has no direction"):
            figure(torch.cat([x[:2], torch.zeros(1, 5), x[3:]]), KINDS)
