"""Other probes of frozen features: nearest neighbours, few examples a class, and VLMClassifier's way for comparison.

Shapes: N rows, D width. Every choice (k, penalty) is made on validation rows; only `best_test_epoch` looks at test
rows, and is there to show what that is worth.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fgvr.analysis import linear
from fgvr.analysis.linear import Score
from fgvr.errors import FgvrError
from fgvr.metrics import wilson

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURS = (1, 5, 10, 20, 50)
TEMPERATURE = 0.07  # of DINO's weighted vote (Caron et al. 2021, section 4.1)


def knn(
    train: Tensor, train_categories: Sequence[str], val: Tensor, val_categories: Sequence[str], test: Tensor,
    test_categories: Sequence[str], neighbours: Sequence[int] = NEIGHBOURS,
) -> tuple[Score, int]:  # fmt: skip
    """Accuracy of a weighted vote of the k most similar training rows, with the k that is best on validation rows.

    A neighbour at cosine s votes with exp(s / 0.07); the first category in order wins between equals.
    """
    import torch

    from fgvr.topk import topk

    names = sorted(set(train_categories))
    place = {name: i for i, name in enumerate(names)}
    codes = torch.tensor([place[name] for name in train_categories])
    usable = [k for k in neighbours if k <= len(train)] or [len(train)]

    def right(queries: Tensor, categories: Sequence[str], counts: Sequence[int]) -> list[int]:
        index, cosine = topk(queries, train, max(counts))
        gold = torch.tensor([place.get(name, -1) for name in categories])
        found = []
        for k in counts:
            votes = torch.zeros(len(queries), len(names), dtype=torch.float64)
            votes.scatter_add_(1, codes[index[:, :k]], (cosine[:, :k] / TEMPERATURE).exp())
            found.append(int((votes.argmax(dim=1) == gold).sum()))
        return found

    on_val = right(val, val_categories, usable)
    best = usable[max(range(len(usable)), key=lambda i: (on_val[i], -usable[i]))]
    count = right(test, test_categories, [best])[0]
    return Score(count / len(test), *wilson(count, len(test)), len(test)), best


def few_shot(
    features: Tensor, categories: Sequence[str], ids: Sequence[str], test: Tensor, test_categories: Sequence[str],
    shots: int, seeds: int,
) -> Score:  # fmt: skip
    """Mean accuracy of linear probes on `shots` training rows a category, with Student's 95 % interval over the seeds.

    The penalty is chosen on up to min(shots, 4) further rows of each category (CoOp's protocol, Zhou et al. 2022); the
    rows of a seed are those with the smallest hash of (seed, id).

    Raises:
        FgvrError: no category has more rows than `shots`, so that nothing is left to choose the penalty on.
    """
    from scipy.special import stdtrit  # Student's quantiles

    found = []
    for seed in range(seeds):
        rows: dict[str, list[int]] = {}
        for row in sorted(range(len(ids)), key=lambda i: hashlib.sha256(f"{seed}\0shots\0{ids[i]}".encode()).digest()):
            rows.setdefault(categories[row], []).append(row)
        fitted = [row for own in rows.values() for row in own[:shots]]
        held = [row for own in rows.values() for row in own[shots : shots + min(shots, 4)]]
        if not held:
            raise FgvrError(f"no category has more than {shots} training images; use fewer shots")
        names = [[categories[row] for row in part] for part in (fitted, held)]
        probe = linear.fit(features[fitted], names[0], features[held], names[1])
        found.append(linear.evaluate(probe, test, test_categories).accuracy)
    mean = sum(found) / len(found)
    if seeds == 1:
        return Score(mean, *wilson(round(mean * len(test)), len(test)), len(test))
    spread = math.sqrt(sum((x - mean) ** 2 for x in found) / (seeds - 1) / seeds) * float(stdtrit(seeds - 1, 0.975))
    return Score(mean, max(0.0, mean - spread), min(1.0, mean + spread), len(test))


def best_test_epoch(
    train: Tensor, train_categories: Sequence[str], test: Tensor, test_categories: Sequence[str], epochs: int = 100,
    rate: float = 1e-3, batch: int = 512, seed: int = 0,
) -> Score:  # fmt: skip
    """VLMClassifier's figure (Zhang et al. 2024, probe.py): Adam on one linear layer, and of all epochs the accuracy of
    the one that is best *on the test rows*: too high by construction; no interval would be right."""
    import torch

    names = sorted(set(train_categories))
    place = {name: i for i, name in enumerate(names)}
    codes, gold = (torch.tensor([place.get(name, -1) for name in part]) for part in (train_categories, test_categories))
    weight, bias = torch.zeros(train.shape[1], len(names)), torch.zeros(len(names))
    weight.requires_grad_()
    bias.requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=rate)
    draw, best = torch.Generator().manual_seed(seed), 0
    x, y = train.float(), test.float()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draw).split(batch):
            with torch.enable_grad():
                loss = torch.nn.functional.cross_entropy(x[rows] @ weight + bias, codes[rows])
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
        best = max(best, int(((y @ weight + bias).argmax(dim=1) == gold).sum()))
    return Score(best / len(test), best / len(test), best / len(test), len(test))


def alone(categories: Sequence[str]) -> list[str]:
    """Categories with one row: they can train, but not choose."""
    return sorted(name for name, count in Counter(categories).items() if count == 1)
