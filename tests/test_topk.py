"""Exact top-k and hard negatives against full sorts in plain Python."""

import math
import random
from fractions import Fraction

import pytest
import torch

from fgvr import topk as module
from fgvr.topk import hard_negatives, similar_categories, topk, unit


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


def test_never_holds_a_full_similarity_matrix(monkeypatch):
    seen = []
    original = module._first_k
    monkeypatch.setattr(module, "_first_k", lambda s, k: seen.append(tuple(s.shape)) or original(s, k))
    topk(torch.randn(100, 4), torch.randn(90, 4), 3, block=16)
    assert max(r for r, _ in seen) <= 16 and max(c for _, c in seen) <= 16 and len(seen) == 7 * 6


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


# ---- hard negatives ----


def slow_negatives(features, categories, pool, pool_categories, pool_ids, per_anchor, by):
    """[(pool id, cosine)] an anchor: rank the wrong categories, then take the nearest image of each."""
    anchors, keys = unit(features), unit(pool)
    names = sorted(set(pool_categories))
    members = {n: [j for j, c in enumerate(pool_categories) if c == n] for n in names}
    prototypes = unit(torch.stack([keys[members[n]].sum(0) for n in names]))
    result = []
    for anchor, own in zip(anchors, categories, strict=True):
        nearest = {n: min((-exact(anchor, keys[j]), pool_ids[j]) for j in members[n]) for n in names}
        rank = {n: nearest[n][0] if by == "image" else -exact(anchor, prototypes[names.index(n)]) for n in names}
        chosen = sorted((rank[n], n) for n in names if n != own)[:per_anchor]
        # sorted() keeps the category order between equally similar images
        result.append([(nearest[n][1], -nearest[n][0]) for _, n in sorted(chosen, key=lambda c: nearest[c[1]][0])])
    return result


def world(seed, anchors=12, pool=40, kinds=6):
    draw = random.Random(seed)
    names = [f"kind {i}" for i in range(kinds)]
    features, others = clustered(anchors, 6, seed), clustered(pool, 6, seed + 1, copies=20)
    features[: anchors // 2] = others[: anchors // 2]
    pool_categories = names + [draw.choice(names) for _ in range(pool - kinds)]
    ids = [f"img{i:03d}" for i in draw.sample(range(999), pool)]
    return features, [draw.choice([*names, "elsewhere"]) for _ in range(anchors)], others, pool_categories, ids


@pytest.mark.parametrize("by", module.BY)
@pytest.mark.parametrize("seed", range(4))
def test_hard_negatives_equal_plain_loops_at_any_block_and_pool_order(by, seed):
    features, categories, pool, pool_categories, ids = world(seed)
    want = slow_negatives(features, categories, pool, pool_categories, ids, 3, by)
    for block in (1, 5, 7, 1000):
        order = random.Random(block).sample(range(len(pool)), len(pool))
        index, cosine = hard_negatives(
            features, categories, pool[order], [pool_categories[i] for i in order], [ids[i] for i in order], 3,
            by=by, block=block,
        )  # fmt: skip
        got = [
            [(ids[order[j]], Fraction(s)) for j, s in zip(*row, strict=True)]
            for row in zip(index.tolist(), cosine.tolist(), strict=True)
        ]
        assert got == want, block


def test_image_and_prototype_rank_differently():
    # one outlier of "far" touches the anchor, but "near" is closer as a whole
    pool = torch.tensor([[1.0, 0.01], [-1, 0.2], [-1, 0.1], [1, 0.3], [1, 0.25]])
    kinds = ["far", "far", "far", "near", "near"]
    anchor = torch.tensor([[1.0, 0]])
    for by, first in (("image", "far"), ("prototype", "near")):
        index, _ = hard_negatives(anchor, ["own"], pool, kinds, list("abcde"), 1, by=by)
        assert kinds[index.item()] == first
    names, scores = similar_categories(anchor, pool, kinds, by="image")
    assert names == ["far", "near"] and scores[0].tolist() == pytest.approx([0.99995, 0.970143], abs=1e-5)
    _, scores = similar_categories(anchor, pool, kinds, by="prototype")
    assert scores[0].tolist() == pytest.approx([-0.9544, 0.9641], abs=1e-3)


def test_similarities_come_hardest_first_and_missing_ones_last():
    features, categories, pool, pool_categories, ids = world(7)
    index, cosine = hard_negatives(features, categories, pool, pool_categories, ids, 9, by="prototype")
    for own, row, similarity in zip(categories, index.tolist(), cosine.tolist(), strict=True):
        wrong = 6 - (own != "elsewhere")
        assert similarity == sorted(similarity, reverse=True) and row[wrong:] == [-1] * (9 - wrong)
        found = [pool_categories[j] for j in row[:wrong]]
        assert own not in found and len(set(found)) == wrong


def test_wrong_pools_are_refused():
    features, categories, pool, pool_categories, ids = world(0)
    with pytest.raises(ValueError, match="unique"):
        hard_negatives(features, categories, pool, pool_categories, ["x"] * len(pool), 3)
    with pytest.raises(ValueError, match="one category a pool image"):
        hard_negatives(features, categories, pool, pool_categories[:-1], ids, 3)
    with pytest.raises(ValueError, match="one category an anchor"):
        hard_negatives(features, categories[:-1], pool, pool_categories, ids, 3)
    with pytest.raises(ValueError, match="by must be"):
        hard_negatives(features, categories, pool, pool_categories, ids, 3, by="text")
    with pytest.raises(ValueError, match="has no direction"):          # a category whose images cancel out
        similar_categories(torch.eye(2), torch.tensor([[1.0, 0], [-1.0, 0]]), ["x", "x"], by="prototype")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits():
    features, categories, pool, pool_categories, ids = world(3, 200, 500, 20)
    for by in module.BY:
        on_cpu = hard_negatives(features, categories, pool, pool_categories, ids, 3, by=by)
        on_gpu = hard_negatives(features.cuda(), categories, pool.cuda(), pool_categories, ids, 3, by=by, block=64)
        assert all(torch.equal(a, b.cpu()) for a, b in zip(on_cpu, on_gpu, strict=True))
