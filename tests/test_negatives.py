"""Mining's choices and rules against plain loops, at any block size, pool order and thread count."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from fgvr import negatives, rng
from fgvr.names import Aliases, spelling
from fgvr.negatives import hard_negatives
from fgvr.rules import Choice, Images, Rules
from fgvr.topk import unit


def clustered(count: int, width: int, seed: int, copies: int) -> torch.Tensor:
    """Features with near-ties and exact duplicates."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(1, count // 4), width, generator=draw)
    x = centres[torch.randint(len(centres), (count,), generator=draw)] + 0.2 * torch.randn(count, width, generator=draw)
    for _ in range(copies):
        source, target = torch.randint(count, (2,), generator=draw).tolist()
        x[target] = x[source]
    return x


def world(seed: int, anchors: int = 11, pool: int = 36, kinds: int = 6) -> tuple[Images, Images, Any]:
    """Anchors (half of them also in the pool), pool, and texts. Some files stand twice, in two categories."""
    draw = random.Random(seed)
    names = [f"kind {i}" for i in range(kinds)]
    features = clustered(pool, 6, seed, copies=12)
    categories = names + [draw.choice(names) for _ in range(pool - kinds)]
    ids = [f"img{i:03d}" for i in draw.sample(range(999), pool)]
    same = [(f"{id}.jpg", f"digest{draw.randrange(pool)}") for id in ids]
    bits = torch.randint(0, 2, (pool, 64), generator=torch.Generator().manual_seed(seed)).to(torch.int8) * 2 - 1
    for n in range(0, pool, 3):
        bits[n] = bits[(n * 7) % pool]
    half = anchors // 2
    other = clustered(anchors - half, 6, seed + 50, copies=1)
    mine = Images(
        torch.cat([features[:half], other]),
        [*categories[:half], *(draw.choice([*names, "elsewhere", "Kind_0"]) for _ in other)],
        [*ids[:half], *(f"new{i}" for i in range(len(other)))],
        [*same[:half], *((f"new{i}.jpg", f"digest{draw.randrange(pool)}") for i in range(len(other)))],
        torch.cat([bits[:half], bits[-len(other) :]]),
    )
    texts = sorted({*names, *mine.categories})
    return mine, Images(features, categories, ids, same, bits), (texts, clustered(len(texts), 6, seed + 9, copies=2))


def dot(x: torch.Tensor, y: torch.Tensor) -> float:
    """Exact: products of multiples of 2^-26 are floats, and fsum adds them without loss."""
    return math.fsum(p * q for p, q in zip(x.tolist(), y.tolist(), strict=True))


def slow(anchors: Images, pool: Images, choice: Choice, rules: Rules, texts: Any) -> tuple[list[Any], dict[str, int]]:
    """[[(pool id, cosine)] an anchor], and what each rule removed: the documented order, one pair after the other."""
    mine, theirs, words = unit(anchors.features), unit(pool.features), unit(texts[1])
    names = sorted(set(pool.categories))
    in_order = sorted(range(len(pool.ids)), key=lambda i: pool.ids[i])
    members = {n: [i for i in in_order if pool.categories[i] == n] for n in names}
    prototypes = {n: unit(theirs[members[n]].sum(0)[None])[0] for n in names}
    removed: dict[str, int] = {}
    result = []

    def picture(a: int, i: int) -> str:
        if set(anchors.same[a]) & set(pool.same[i]):
            return "same image"
        if rules.hash_distance is not None and int((anchors.hashes[a] != pool.hashes[i]).sum()) <= rules.hash_distance:
            return "perceptual hash"
        return "duplicate" if rules.duplicate is not None and dot(mine[a], theirs[i]) >= rules.duplicate else ""

    def bounds(score: float, positive: float | None) -> str:
        if rules.max_score is not None and score > rules.max_score:
            return "max score"
        if rules.min_score is not None and score < rules.min_score:
            return "min score"
        if rules.margin is not None and positive is not None and score >= positive - rules.margin:
            return "margin"
        low = positive is not None and positive > 0 and rules.relative_margin is not None
        return "relative margin" if low and score >= (1 - rules.relative_margin) * positive else ""

    def counted(why: str) -> bool:
        if why:
            removed[why] = removed.get(why, 0) + 1
        return not why

    nearest = choice.by != "text" and choice.ranked_by == "nearest"
    for a, own in enumerate(anchors.categories):
        wrong = [n for n in names if n == own or spelling(n) != spelling(own) or counted("alias")]
        wrong = [n for n in wrong if n != own]
        similar = {i: dot(mine[a], theirs[i]) for i in range(len(pool.ids))}
        word = {n: dot(mine[a], words[texts[0].index(n)]) for n in {*names, own}}
        if nearest:
            left = [similar[i] for i in members.get(own, []) if not picture(a, i)]
            positive = max(left) if left else None
            allowed = {n: [i for i in members[n] if counted(picture(a, i))] for n in wrong}
            allowed = {n: [i for i in some if counted(bounds(similar[i], positive))] for n, some in allowed.items()}
            score = {n: max(similar[i] for i in some) for n, some in allowed.items() if some}
        else:
            by_text = choice.by == "text"
            score = {n: word[n] if by_text else dot(mine[a], prototypes[n]) for n in names}
            positive = word[own] if by_text else score.get(own)
            score = {n: score[n] for n in wrong if counted(bounds(score[n], positive))}
        ranking = sorted(score, key=lambda n: (-score[n], n))
        if choice.by == "both":
            by_word = sorted(score, key=lambda n: (-word[n], n))
            ranking = sorted(score, key=lambda n: (ranking.index(n) + by_word.index(n), ranking.index(n), n))
        if choice.band:
            ranking = ranking[choice.band[0] - 1 : choice.band[1]]
        if choice.strategy != "hard":
            window = sorted(ranking) if choice.strategy == "random" else ranking
            if nearest:
                draw = rng.for_record(choice.seed, anchors.ids[a], "negative categories")
                ranking = draw.sample(window, min(len(window), choice.per_anchor))
            else:
                draw = rng.for_record(choice.seed, anchors.ids[a], "negative categories")
                ranking = draw.sample(window, len(window))
        taken: list[tuple[float, int, int]] = []
        given = 0
        for n in ranking:
            if given == choice.per_anchor:
                break
            some = allowed[n] if nearest else [i for i in members[n] if counted(picture(a, i))]
            if not some:
                continue
            per = min(choice.per_category, len(some))
            if choice.strategy == "random":
                draw = rng.for_record(choice.seed, anchors.ids[a], f"negatives of {n}")
                places = [members[n].index(i) for i in some]
                some = [members[n][place] for place in draw.sample(places, per)]
            else:
                some = sorted(some, key=lambda i: (-similar[i], pool.ids[i]))[:per]
            taken += [(-similar[i], given * choice.per_category + k, i) for k, i in enumerate(some)]
            given += 1
        result.append([(pool.ids[i], -s) for s, _, i in sorted(taken)[: choice.per_anchor]])
    return result, removed


def shuffled(pool: Images, seed: int) -> Images:
    order = random.Random(seed).sample(range(len(pool.ids)), len(pool.ids))
    take = lambda some: [some[i] for i in order]  # noqa: E731
    return Images(pool.features[order], take(pool.categories), take(pool.ids), take(pool.same), pool.hashes[order])


RULES = {
    "none": Rules(),
    "pictures": Rules(duplicate=0.98, hash_distance=10),
    "bounds": Rules(max_score=0.9, min_score=-0.5),
    "margin": Rules(margin=0.05),
    "all": Rules(0.95, 6, 0.99, -0.9, 0.01, 0.02),
}
CHOICES = {
    "default": Choice(),
    "many": Choice(9, 4),
    "prototype": Choice(3, 2, "image", "prototype"),
    "text": Choice(3, 1, "text"),
    "both": Choice(2, 2, "both"),
    "both by prototype": Choice(2, 1, "both", "prototype"),
    "random": Choice(3, 2, strategy="random", seed=4),
    "band": Choice(2, 1, strategy="band", band=(2, 4), seed=1),
    "band by text": Choice(2, 2, "text", strategy="band", band=(2, 5)),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("choice", CHOICES)
def test_equals_plain_loops_at_any_block_and_pool_order(choice: str, rules: str, monkeypatch: Any) -> None:
    """The negatives with their exact cosines, and the counts; also when converted features are not kept."""
    for seed in range(2):
        anchors, pool, texts = world(seed)
        want, removed = slow(anchors, pool, CHOICES[choice], RULES[rules], texts)
        for block, bytes_ in ((1, 0), (7, 1 << 30), (1000, 1 << 30)):
            monkeypatch.setattr(negatives, "KEPT_BYTES", bytes_)
            mixed = shuffled(pool, block)
            found = hard_negatives(anchors, mixed, CHOICES[choice], RULES[rules], texts=texts, block=block)
            rows = zip(found.index.tolist(), found.cosine.tolist(), strict=True)
            got = [[(mixed.ids[i], s) for i, s in zip(*row, strict=True) if i >= 0] for row in rows]
            assert got == want, block
            assert dict(found.removed) == removed, block


def test_every_rule_is_met_by_these_worlds() -> None:
    """What the test above compares is not nothing."""
    removed = {"alias", "same image", "perceptual hash", "duplicate", "max score", "min score", "margin"}
    met: set[str] = set()
    for rules in RULES.values():
        for seed in range(2):
            met |= set(hard_negatives(*world(seed)[:2], Choice(), rules).removed)
    assert removed <= met


def test_threads_change_nothing() -> None:
    anchors, pool, texts = world(3, anchors=40, pool=200)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = hard_negatives(anchors, pool, Choice(3, 1, "both"), RULES["all"], texts=texts, block=16)
            results.append((found.index, found.cosine, found.removed))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2]


def test_shards_of_anchors_are_the_whole() -> None:
    anchors, pool, _ = world(5)
    whole = hard_negatives(anchors, pool)
    for first in range(3):
        take = list(range(first, len(anchors.ids), 3))
        part = Images(anchors.features[take], *([side[i] for i in take] for side in
                      (anchors.categories, anchors.ids, anchors.same)), anchors.hashes[take])  # fmt: skip
        found = hard_negatives(part, pool)
        assert torch.equal(found.index, whole.index[take]) and torch.equal(found.cosine, whole.cosine[take])


def test_a_category_of_one_image_has_no_positive_by_its_nearest() -> None:
    features = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1]])
    images = Images(features, ["a", "b", "c"], ["1", "2", "3"])
    found = hard_negatives(images, images, rules=Rules(margin=0.5))
    assert found.without_positive == 3 and not found.removed and (found.index[:, :2] >= 0).all()


def test_aliases() -> None:
    assert spelling("Red_Bell-Pepper") == spelling("red bell pepper") and spelling("--") == "--"
    known = Aliases([("Rock Dove", "Common Pigeon"), ("feral_pigeon", "common-pigeon"), ("a", "b")])
    assert known.group("Rock Dove") == known.group("Feral Pigeon") != known.group("b")
    images = Images(torch.eye(3) + 1, ["Rock Dove", "Feral Pigeon", "b"], list("123"))
    found = hard_negatives(images, images, aliases=known)
    assert found.index[:, 0].tolist() == [2, 2, 1] and found.removed["alias"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": Choice(0)}, "per_anchor"),
        ({"choice": Choice(by="sound")}, "unknown choice"),
        ({"choice": Choice(by="text")}, "needs a text for every category"),
        ({"choice": Choice(by="text"), "texts": (["x", "y"], torch.ones(2, 5))}, "texts are 5 wide, the pool 2"),
        ({"pool": Images(torch.eye(2), ["x", "y"], ["1", "1"])}, "unique ids"),
        ({"pool": Images(torch.eye(3), ["x", "y", "z"], list("123"))}, "anchors are 2 wide, the pool 3"),
        ({"pool": Images(torch.eye(2), ["x"], ["1", "2"])}, "one category"),
        ({"pool": Images(torch.zeros(2, 2), ["x", "y"], ["1", "2"])}, "row 0 has no direction"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    images = Images(torch.eye(2), ["x", "y"], ["1", "2"])
    with pytest.raises(ValueError, match=message):
        hard_negatives(**{"anchors": images, "pool": images, **change})
