"""The contrastive losses of attribute-augmented alignment (Finedefics, arXiv 2501.15140, section 3.2, Eqs 5-8).

A training row is a triple: object o (image), attribute description a, category name c; its K hard negatives bring a
description and a name each. Everything here works on embeddings; whoever calls makes them.
Shapes: B rows, K negatives a row, D width.

Two forms, one switch:

`form="paper"`, the equations as printed. The denominator of row i holds the batch and row i's own negatives.

`form="released"`, what the authors' released code computes, for comparison with its numbers: every row sees the
negatives of the whole batch, and the category-category term is a cross-entropy over [all names | all negative names]
whose target is column 0 for every row, so that all rows but the first are pulled towards the first row's name. Its
temperature starts at 0.07. It masks no false negatives, so `same` is refused.

In both forms: similarity is the cosine (vectors are normalised here, a zero vector has cosine 0 with everything)
divided by `temperature` (the paper has none: 1.0). `reduction="sum"` adds over the B rows (the paper's equations),
"mean" divides that sum by B (the released code), so that the weight against the generation loss does not grow with
the batch. Half-precision embeddings are computed in float32, also under autocast; float64 stays float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORMS = ("paper", "released")
REDUCTIONS = ("sum", "mean")
COLDEST = 0.01  # least learnt temperature (CLIP's bound, arXiv 2103.00020, section 2.5)


@dataclass(frozen=True)
class Weights:
    """What each term counts in the objective; the defaults are Eq 8's."""

    generation: float = 1.0
    oac: float = 0.5
    acc: float = 0.5
    ccc: float = 0.5


class Temperature(nn.Module):
    """A learnt temperature > 0, kept as its logarithm; never below COLDEST."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        """0-d, differentiable. A value that an optimiser's step took too low is put back first: a clamp in the graph
        would have no gradient, and stay there."""
        with torch.no_grad():
            self.log.clamp_(min=math.log(COLDEST))
        return self.log.exp()


def object_attribute(
    o: Tensor,
    a: Tensor,
    neg_a: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    same: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    reduction: str = "mean",
    form: str = "paper",
) -> Tensor:
    """Object-attribute loss OAC, Eqs 5a-5c: (OA + AO) / 2.

    OA = sum_i -log( exp s(o_i, a_i) / (sum_{j in batch} exp s(o_i, a_j) + sum_{w in neg_a[i]} exp s(o_i, a_w)) )
    AO = sum_i -log( exp s(o_i, a_i) / sum_{k in batch} exp s(o_k, a_i) )          no hard negatives on this side

    Args:
        o, a: (B, D) floating.
        neg_a: (B, K, D) descriptions of row i's hard negatives, or None for none at all.
        mask: (B, K) bool, False where row i has fewer than K negatives; what stands there is not read. None: all
            are real.
        same: (B, B) bool, True where rows i and j are of one category: j is then no negative of i and leaves the
            denominators (the diagonal is the positive and always stays). See `same_category`. None: nothing is
            masked.
        temperature: > 0, a number or a 0-d tensor.
        reduction: "sum" or "mean", over the B rows.
        form: "paper" or "released".
    Returns:
        0-d, >= 0.
    Raises:
        ValueError: a shape, a dtype, the temperature, `reduction` or `form` is wrong, or `same` comes with
        "released".
    """
    _check({"o": o, "a": a}, {"neg_a": neg_a}, mask, same, temperature, reduction, form)
    o_to_a = _contrast(o, a, neg_a, mask, same, temperature, reduction, form)
    a_to_o = _contrast(a, o, None, mask, same, temperature, reduction, form)
    return (o_to_a + a_to_o) / 2


def attribute_category(
    a: Tensor,
    c: Tensor,
    neg_a: Tensor | None = None,
    neg_c: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    same: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    reduction: str = "mean",
    form: str = "paper",
) -> Tensor:
    """Attribute-category loss ACC, Eqs 6a-6c: (AC + CA) / 2, hard negatives on both sides.

    AC = sum_i -log( exp s(a_i, c_i) / (sum_{j in batch} exp s(a_i, c_j) + sum_{w in neg_c[i]} exp s(a_i, c_w)) )
    CA = sum_i -log( exp s(a_i, c_i) / (sum_{j in batch} exp s(a_j, c_i) + sum_{w in neg_a[i]} exp s(a_w, c_i)) )

    Args:
        a, c: (B, D). neg_a, neg_c: (B, K, D) descriptions and names of row i's hard negatives, either may be None.
        The rest as in `object_attribute`; without `same`, two rows of one category are each other's negatives,
        although their names are equal.
    Returns, Raises: as `object_attribute`.
    """
    _check({"a": a, "c": c}, {"neg_a": neg_a, "neg_c": neg_c}, mask, same, temperature, reduction, form)
    a_to_c = _contrast(a, c, neg_c, mask, same, temperature, reduction, form)
    c_to_a = _contrast(c, a, neg_a, mask, same, temperature, reduction, form)
    return (a_to_c + c_to_a) / 2


def category_category(
    c: Tensor,
    neg_c: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    reduction: str = "mean",
    form: str = "paper",
) -> Tensor:
    """Category-category loss CCC, Eq 7: push a name away from the names of its own hard negatives.

    CCC = sum_i -log( 1 / sum_{k in neg_c[i]} exp s(c_i, c_k) ) = sum_i log sum_{k in neg_c[i]} exp s(c_i, c_k)

    A row without any negative contributes 0 (the equation would give log 0); "mean" still divides by B.
    In the released form the loss is cross_entropy([c @ c.T | c @ all negatives.T] / temperature, target = column 0).

    Args:
        c: (B, D). neg_c: (B, K, D) or None. mask, temperature, reduction, form: as in `object_attribute`.
    Returns:
        0-d. In the paper's form it may be negative: K = 1 and cosine -1 give -1 / temperature.
    Raises: as `object_attribute`.
    """
    _check({"c": c}, {"neg_c": neg_c}, mask, None, temperature, reduction, form)
    if form == "released":
        first = torch.zeros(len(c), dtype=torch.long, device=c.device)
        return F.cross_entropy(_logits(c, c, neg_c, mask, temperature, form), first, reduction=reduction)
    if neg_c is None:
        return c.sum() * 0
    logits = _own(c, neg_c, mask, temperature)
    if mask is not None:
        logits = logits[mask.any(dim=1)]                     # logsumexp of nothing is -inf, and its gradient NaN
    added = torch.logsumexp(logits, dim=1).sum() if logits.numel() else c.sum() * 0
    return added / len(c) if reduction == "mean" else added


def object_category(
    o: Tensor,
    c: Tensor,
    neg_c: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    same: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    reduction: str = "mean",
    form: str = "paper",
) -> Tensor:
    """Object-category loss OCC of ablation 3b: (OC + CO) / 2, Eqs 5a-5c with names in the descriptions' place.

    OC = sum_i -log( exp s(o_i, c_i) / (sum_{j in batch} exp s(o_i, c_j) + sum_{w in neg_c[i]} exp s(o_i, c_w)) )
    CO = sum_i -log( exp s(o_i, c_i) / sum_{k in batch} exp s(o_k, c_i) )

    The paper reports the ablation without an equation, and the released code has no path for it: this is our reading.

    Args:
        o, c: (B, D). neg_c: (B, K, D) names of row i's hard negatives, or None. The rest as in `object_attribute`.
    Returns, Raises: as `object_attribute`.
    """
    _check({"o": o, "c": c}, {"neg_c": neg_c}, mask, same, temperature, reduction, form)
    o_to_c = _contrast(o, c, neg_c, mask, same, temperature, reduction, form)
    c_to_o = _contrast(c, o, None, mask, same, temperature, reduction, form)
    return (o_to_c + c_to_o) / 2


def total(generation: Tensor, oac: Tensor, acc: Tensor, ccc: Tensor, weights: Weights = Weights()) -> Tensor:
    """The objective of stage I, Eq 8: generation + (oac + acc + ccc) / 2, all 0-d; other factors by `weights`.

    `generation` is the token loss of writing the description. The paper does not say how it is reduced; with a token
    mean, use reduction "mean" in the other three.
    """
    return weights.generation * generation + weights.oac * oac + weights.acc * acc + weights.ccc * ccc


def same_category(categories: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """(B, B) bool, True where categories i and j are the same string: the `same` argument of the losses."""
    number: dict[str, int] = {}
    codes = torch.tensor([number.setdefault(name, len(number)) for name in categories], dtype=torch.long, device=device)
    return codes[:, None] == codes[None, :]


def _contrast(
    x: Tensor,
    y: Tensor,
    neg: Tensor | None,
    mask: Tensor | None,
    same: Tensor | None,
    temperature: float | Tensor,
    reduction: str,
    form: str,
) -> Tensor:
    """One direction: cross-entropy of picking y_i for x_i among all y and the negatives."""
    logits = _logits(x, y, neg, mask, temperature, form)
    target = torch.arange(len(x), device=x.device)
    if same is not None:
        twin = same & (target[:, None] != target[None, :])
        logits = logits.masked_fill(F.pad(twin, (0, logits.shape[1] - len(x))), -torch.inf)
    return F.cross_entropy(logits, target, reduction=reduction)


def _logits(
    x: Tensor, y: Tensor, neg: Tensor | None, mask: Tensor | None, temperature: float | Tensor, form: str
) -> Tensor:
    """(B, B + negatives) scores: [x_i, y_j | x_i, negatives], the row's own ("paper") or all of them ("released")."""
    with torch.autocast(x.device.type, enabled=False):
        batch = _unit(x) @ _unit(y).T / temperature
        if neg is None:
            return batch
        if form == "released":
            every = neg.flatten(0, 1) if mask is None else neg[mask]
            return torch.cat([batch, _unit(x) @ _unit(every).T / temperature], dim=1)
    return torch.cat([batch, _own(x, neg, mask, temperature)], dim=1)


def _own(x: Tensor, neg: Tensor, mask: Tensor | None, temperature: float | Tensor) -> Tensor:
    """(B, K) scores of x_i and its own negatives, -inf where the mask says there is none."""
    if mask is not None:
        neg = neg.masked_fill(~mask[:, :, None], 0)          # a NaN in an empty slot would reach the gradient of x
    with torch.autocast(x.device.type, enabled=False):
        scores = torch.einsum("bd,bkd->bk", _unit(x), _unit(neg)) / temperature
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)    # -inf / temperature has a NaN gradient


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


def _check(
    rows: dict[str, Tensor],
    negatives: dict[str, Tensor | None],
    mask: Tensor | None,
    same: Tensor | None,
    temperature: float | Tensor,
    reduction: str,
    form: str,
) -> None:
    """Refuse what broadcasting would silently accept."""
    shape = next(iter(rows.values())).shape
    for name, x in rows.items():
        if x.ndim != 2 or x.shape != shape or not len(x) or not x.is_floating_point():
            raise ValueError(f"{name} must be floating (B, D), B >= 1, like the others; got {x.dtype} {tuple(x.shape)}")
    given = {name: x for name, x in negatives.items() if x is not None}
    for name, x in given.items():
        if x.ndim != 3 or (x.shape[0], x.shape[2]) != tuple(shape) or not x.is_floating_point():
            want = f"floating (B, K, D) for (B, D) {tuple(shape)}"
            raise ValueError(f"{name} must be {want}; got {x.dtype} {tuple(x.shape)}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
            raise ValueError(f"mask must be bool {tuple(x.shape[:2])} for {name}; got {mask.dtype} {tuple(mask.shape)}")
    if same is not None and (same.dtype != torch.bool or tuple(same.shape) != (shape[0], shape[0])):
        raise ValueError(f"same must be bool {(shape[0], shape[0])}; got {same.dtype} {tuple(same.shape)}")
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    if form == "released" and same is not None:
        raise ValueError("the released form masks no false negatives: pass same=None")
