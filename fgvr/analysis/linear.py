"""Linear probe: how well one linear layer tells the categories apart from frozen features.

Feature probing as in Finedefics (arXiv 2501.15140, section 2.1, Table 1), which follows VLMClassifier (Zhang et al.
2024). VLMClassifier trains by Adam for a fixed number of epochs and reports the best one on the test split. Here the
penalised likelihood is minimised to convergence, which has one solution and needs no learning rate, and its one free
weight is chosen on a validation split: the test split is looked at once.
Shapes: N images, C categories, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fgvr.errors import FgvrError
from fgvr.metrics import wilson

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = (1.0, 0.1, 0.01, 0.001, 0.0001)   # of the L2 penalty, strongest first


@dataclass(frozen=True)
class Probe:
    """A fitted probe: scores = (x - mean) / scale @ weight.T + bias, all float64."""

    categories: list[str]       # C names, sorted; column i of the scores
    weight: Tensor              # (C, D)
    bias: Tensor                # (C,)
    mean: Tensor                # (D,) of the training features
    scale: Tensor               # (D,) their standard deviation, 1 for a feature that does not vary
    l2: float                   # the chosen weight of the penalty
    validation: float           # its accuracy on the validation split, in [0, 1]


@dataclass(frozen=True)
class Score:
    """Top-1 accuracy on n images with its 95 % Wilson interval, shares in [0, 1]."""

    accuracy: float
    low: float
    high: float
    n: int


def fit(
    train: Tensor,
    train_categories: Sequence[str],
    val: Tensor,
    val_categories: Sequence[str],
    weights: Sequence[float] = WEIGHTS,
    steps: int = 200,
) -> Probe:
    """Fit one probe for each penalty weight on the training split, keep the best on the validation split.

    Minimises mean cross-entropy + l2 / 2 * |weight|^2 (the bias is free) over features standardised by the training
    split, full batch, L-BFGS with line search, each weight from the solution of the one before, in float64. Nothing is
    drawn. Best: highest validation accuracy, then lowest validation cross-entropy. The probe is not fitted again on
    training and validation together.

    Args:
        train, val: (N, D) floating, on one device. weights: > 0. steps: most L-BFGS iterations for each weight.
    Raises:
        FgvrError: fewer than two training categories, a validation category not among them, features not finite.
        ValueError: shapes disagree, a split is empty, or a weight is not positive.
    """
    import torch

    if not weights or min(weights) <= 0:
        raise ValueError(f"penalty weights must be positive, got {list(weights)}")
    categories = sorted(set(train_categories))
    if len(categories) < 2:
        raise FgvrError(f"a probe needs two training categories or more, there are {len(categories)}")
    x, y = _checked(train, train_categories, categories, "training")
    val_x, val_y = _checked(val, val_categories, categories, "validation")
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-9 * mean.abs().clamp(min=1e-30), scale, 1.0)
    x, val_x = (x - mean) / scale, (val_x - mean) / scale
    parameters = torch.zeros(len(categories), x.shape[1] + 1, dtype=torch.float64, device=x.device)
    found = []
    for l2 in sorted(weights, reverse=True):
        parameters = _minimise(x, y, parameters, l2, steps)
        scores = val_x @ parameters[:, :-1].T + parameters[:, -1]
        right = (scores.argmax(dim=1) == val_y).double().mean().item()
        found.append((right, -torch.nn.functional.cross_entropy(scores, val_y).item(), l2, parameters))
    right, _, l2, best = max(found, key=lambda f: f[:2])
    return Probe(categories, best[:, :-1], best[:, -1], mean, scale, l2, right)


def predict(probe: Probe, features: Tensor) -> list[str]:
    """The most probable category of each row of (N, D); the first in order between equals."""
    x = (features.double().to(probe.mean.device) - probe.mean) / probe.scale
    chosen = (x @ probe.weight.T + probe.bias).argmax(dim=1)
    return [probe.categories[i] for i in chosen.tolist()]


def evaluate(probe: Probe, features: Tensor, categories: Sequence[str]) -> Score:
    """Top-1 accuracy on a test split.

    Raises:
        FgvrError: a category that the probe was not trained on: it could never be right. Or features not finite.
        ValueError: shapes disagree or there is no image.
    """
    _checked(features, categories, probe.categories, "test")
    right = sum(p == c for p, c in zip(predict(probe, features), categories, strict=True))
    low, high = wilson(right, len(categories))
    return Score(right / len(categories), low, high, len(categories))


def split(
    ids: Sequence[str], categories: Sequence[str], share: float = 0.2, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Row numbers of a training and a validation part, for data without a validation split.

    Of each category the `share` (rounded; at least one image when there are two or more) with the smallest hash of
    (seed, id) goes to validation: the order of the rows does not matter, a category's only image stays in training.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}")
    members: dict[str, list[int]] = {}
    for row, category in enumerate(categories):
        members.setdefault(category, []).append(row)
    val: set[int] = set()
    for rows in members.values():
        ranked = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}\0probe\0{ids[row]}".encode()).digest())
        val.update(ranked[: min(len(rows) - 1, max(1, round(share * len(rows))))])
    return [row for row in range(len(ids)) if row not in val], sorted(val)


def _minimise(x: Tensor, y: Tensor, start: Tensor, l2: float, steps: int) -> Tensor:
    """(C, D + 1): weights and, in the last column, biases."""
    import torch

    parameters = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [parameters], max_iter=steps, tolerance_grad=1e-8, tolerance_change=1e-12, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        weight = parameters[:, :-1]
        loss = torch.nn.functional.cross_entropy(x @ weight.T + parameters[:, -1], y) + l2 / 2 * (weight * weight).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return parameters.detach()


def _checked(features: Tensor, categories: Sequence[str], known: list[str], what: str) -> tuple[Tensor, Tensor]:
    """The features in float64 and the number (N,) of each row's category."""
    import torch

    if features.ndim != 2 or len(features) != len(categories) or not len(features):
        raise ValueError(f"{what}: features {tuple(features.shape)} for {len(categories)} categories")
    number = {name: i for i, name in enumerate(known)}
    unknown = sorted(set(categories) - set(known))
    if unknown:
        raise FgvrError(f"{len(unknown)} of the {what} categories have no training image, the first is {unknown[0]!r}")
    if not features.isfinite().all():
        raise FgvrError(f"{what}: features are not finite")
    codes = torch.tensor([number[c] for c in categories], dtype=torch.long, device=features.device)
    return features.detach().double(), codes
