"""Exact top-k and hard negatives against full sorts in plain Python."""

import math
from fractions import Fraction

import pytest
import torch

from fgvr import topk as module
from fgvr.topk import topk, unit


def clustered(count, width, seed, copies=0):
    """Features with many near-ties, and `copies` exact duplicates at random places."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(1, count // 4), width, generator=draw)
    chosen = torch.randint(len(centres), (count,), generator=draw)
    x = centres[chosen] + 1e-4 * torch.randn(count, width, generator=draw)
    for _ in range(copies):
        source, target = torch.randint(count, (2,), generator=draw).tolist()
        x[target] = x[source]
    return x


def exact(x, y):
    """Dot product of two `unit` rows, in rational arithmetic."""
    return sum(Fraction(p) * Fraction(q) for p, q in zip(x.tolist(), y.tolist(), strict=True))


def full_sort(queries, keys, k, exclude=None):
    result = []
    for i, q in enumerate(unit(queries)):
        scores = [
            (-exact(q, key), j) for j, key in enumerate(unit(keys)) if not (exclude and exclude[0][i] == exclude[1][j])
        ]
        result.append([(j, -s) for s, j in sorted(scores)[:k]])
    return result


@pytest.mark.parametrize("k", [1, 3, 17, 40])
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_full_stable_sort_at_any_block_size(k, seed):
    queries, keys = clustered(23, 16, seed), clustered(40, 16, seed + 10, copies=25)
    queries[:5] = keys[:5]
    want = full_sort(queries, keys, k)
    for block in (1, 2, 7, 16, 39, 40, 1000):
        index, cosine = topk(queries, keys, k, block=block)
        assert index.tolist() == [[j for j, _ in row] for row in want], block
        assert [[Fraction(s) for s in row] for row in cosine.tolist()] == [[s for _, s in row] for row in want], block


def test_ties_go_to_the_lower_index():
    keys = torch.tensor([[0.0, 1], [1, 0], [2, 0], [1, 0], [0, 1], [0.5, 0]])
    for block in (1, 2, 4, 100):
        index, cosine = topk(torch.tensor([[3.0, 0]]), keys, 5, block=block)
        assert index.tolist() == [[1, 2, 3, 5, 0]]
        assert cosine.tolist() == [[1, 1, 1, 1, 0]]


def test_similarities_are_the_same_bits_in_any_block_and_order():
    queries, keys = torch.randn(64, 771, generator=torch.Generator().manual_seed(0)), clustered(300, 771, 1)
    reference = topk(queries, keys, 300, block=4096)
    turned = torch.randperm(300, generator=torch.Generator().manual_seed(3))
    for block in (1, 13, 64):
        index, cosine = topk(queries, keys[turned], 300, block=block)
        assert torch.equal(cosine, reference[1])
        back = turned[index]
        assert torch.equal(cosine.gather(1, back.argsort(1)), reference[1].gather(1, reference[0].argsort(1)))


def test_similarity_is_the_cosine():
    x = torch.randn(50, 768, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    index, cosine = topk(x, x, 50)
    want = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2).gather(1, index)
    assert (cosine - want).abs().max() < 1e-7
    assert (index[:, 0] == torch.arange(50)).all()


def test_groups_are_left_out_and_the_rest_is_marked():
    queries, keys = clustered(9, 5, 0), clustered(12, 5, 1, copies=6)
    groups = torch.arange(9) % 3, torch.arange(12) % 4
    for block in (1, 5, 50):
        index, cosine = topk(queries, keys, 12, block=block, exclude=groups)
        want = full_sort(queries, keys, 12, [g.tolist() for g in groups])
        for row, similarity, expected in zip(index.tolist(), cosine.tolist(), want, strict=True):
            assert row == [j for j, _ in expected] + [-1] * (12 - len(expected))
            assert similarity[len(expected) :] == [-math.inf] * (12 - len(expected))
    index, cosine = topk(queries, keys, 2, exclude=(torch.zeros(9).long(), torch.zeros(12).long()))
    assert (index == -1).all() and cosine.isneginf().all()


def test_more_wanted_than_there_are_and_no_queries():
    index, cosine = topk(torch.eye(2), torch.eye(2), 4)
    assert index.tolist() == [[0, 1, -1, -1], [1, 0, -1, -1]] and cosine[0, 2].item() == -math.inf
    assert topk(torch.zeros(0, 2), torch.eye(2), 4)[0].shape == (0, 4)
    assert topk(torch.eye(2), torch.zeros(0, 2), 1)[0].tolist() == [[-1], [-1]]


@pytest.mark.parametrize("rough", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [2, 40, 300])
def test_the_rough_product_first_changes_nothing(width, rough):
    """Random, crowded (two dimensions), tied beyond any k, and excluded pairs, against products of everything."""
    queries, keys = clustered(70, width, 1), clustered(900, width, 2, copies=300)
    keys[500:] = keys[500]
    queries[:20] = keys[:20]
    groups = torch.arange(70) % 7, torch.arange(900) % 8
    for k, exclude in ((1, None), (10, groups), (50, groups), (50, (groups[0] * 0, groups[1] * 0 + (groups[1] > 6)))):
        similarity = unit(queries) @ unit(keys).T
        if exclude:
            similarity[exclude[0][:, None] == exclude[1][None]] = -math.inf
        values, order = similarity.sort(dim=1, descending=True, stable=True)
        order[values == -math.inf] = -1
        for block in (9, 64, 1000):
            index, cosine = topk(queries, keys, k, block=block, exclude=exclude, rough=rough)
            assert torch.equal(index, order[:, :k]) and torch.equal(cosine, values[:, :k]), (k, block)


def test_keys_that_are_not_kept_give_the_same(monkeypatch):
    queries, keys = clustered(30, 8, 3), clustered(500, 8, 4, copies=100)
    kept = topk(queries, keys, 5, block=8)
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    assert all(torch.equal(a, b) for a, b in zip(topk(queries, keys, 5, block=8), kept, strict=True))


def test_equals_faiss():
    """The flat index finds the same keys; its float32 similarities agree to float32's last digits."""
    faiss = pytest.importorskip("faiss")
    queries, keys = torch.randn(100, 64, generator=torch.Generator().manual_seed(0)), clustered(3000, 64, 1)
    keys += 0.5 * torch.randn(3000, 64, generator=torch.Generator().manual_seed(2))
    index, cosine = topk(queries, keys, 20)
    flat = faiss.IndexFlatIP(64)
    flat.add(torch.nn.functional.normalize(keys, dim=1).numpy())
    values, found = flat.search(torch.nn.functional.normalize(queries, dim=1).numpy(), 20)
    assert (index == torch.from_numpy(found)).float().mean() > 0.999      # near-ties may change places in float32
    assert torch.equal(index.sort(1).values, torch.from_numpy(found).sort(1).values)
    assert (cosine - torch.from_numpy(values)).abs().max() < 1e-6


def test_never_holds_a_full_similarity_matrix(monkeypatch):
    seen = []
    original = module.first_k
    monkeypatch.setattr(module, "first_k", lambda s, k: seen.append(s.numel()) or original(s, k))
    topk(torch.randn(100, 4), torch.randn(900, 4), 3, block=16)
    assert len(seen) > 7 and max(seen) <= 16 * module.WIDE * 16


def test_extreme_scales_have_a_direction_and_zero_has_none():
    x = torch.tensor([[3e-200, 4e-200], [3e200, 4e200], [3, 4]], dtype=torch.float64)
    assert (unit(x) - torch.tensor([0.6, 0.8], dtype=torch.float64)).abs().max() < 1e-7
    assert torch.equal(unit(x), unit(x * 8))
    for bad in ([0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="row 1 has no direction"):
            unit(torch.tensor([[1.0, 0.0], bad]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.eye(2), torch.eye(3), 1), "need queries"),
        ((torch.eye(2), torch.eye(2), 0), "k and block"),
        ((torch.eye(2).long(), torch.eye(2), 1), "must be floating"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        topk(*arguments)
