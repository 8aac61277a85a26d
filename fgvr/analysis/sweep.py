"""Many linear probes at once: every learning rate with every weight decay, trained together in the same passes.

After DINOv2's linear evaluation (Oquab et al. 2023, 13 learning rates x 4 inputs), for frozen features on disk: a batch
is read once and multiplied with the weights of all settings side by side. Settings that fall behind on the validation
rows are dropped on the way (successive halving, Jamieson & Talwalkar 2016). The best setting is chosen on the
validation rows; test rows are never looked at. With the setting chosen, the probe is trained once more on training and
validation rows together, as CLIP's are (Radford et al. 2021, appendix A.3): a fifth of the data is not given away.
Shapes: N rows, C categories, D width, S settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fgvr.analysis.linear import Probe
from fgvr.analysis.rows import Rows
from fgvr.errors import FgvrError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RATES = tuple(10 ** (0.25 * n - 0.5) for n in range(13))  # 0.3 ... 300, of rows of length 1 on average
DECAYS = (0.0, 1e-6, 1e-5, 1e-4)  # of the L2 penalty, as in analysis.linear but for such rows
EPOCHS = 10
KEEP = {1: 1 / 4, 3: 1 / 8}  # after so many epochs this share of the settings goes on
GROUP = 16  # chunks of rows.CHUNK rows that are shuffled together
MOMENTUM = 0.9


@dataclass(frozen=True)
class Setting:
    """One of the settings; `validation`: its accuracy when it was last looked at, after so many epochs."""

    rate: float
    decay: float
    validation: float = math.nan
    epochs: int = 0


@dataclass(frozen=True)
class Swept:
    """The best probe and what became of every setting."""

    probe: Probe
    best: Setting
    settings: list[Setting]


def sweep(
    rows: Rows, codes: Tensor, train: Tensor, val: Tensor, categories: Sequence[str],
    rates: Sequence[float] = RATES, decays: Sequence[float] = DECAYS, epochs: int = EPOCHS, batch: int | None = None,
    seed: int = 0, refit: bool = True,
) -> Swept:  # fmt: skip
    """Train all settings, keep the best on the validation rows, and train that one again on all rows.

    SGD with Nesterov momentum on mean cross-entropy + decay / 2 * |weight|^2, the rate falling to 0 along a cosine,
    over features standardised by the training rows and divided by sqrt(D), in float32.

    Args:
        rows: (N, D). codes: (N,) places in `categories`. train, val: rising row numbers.
        epochs: passes over the training rows; one more finds their mean and deviation.
        batch: rows of a step; None: a sixteenth of the training rows, from 16 to 1024.
        refit: False leaves the best as it is, trained on the training rows: for validation rows that are no further
            training rows.
    Raises:
        FgvrError: features are not finite, or there is no validation row.
        ValueError: no setting, or fewer than two categories.
    """
    import torch

    if not rates or not decays or len(categories) < 2:
        raise ValueError("a sweep needs a rate, a decay and two categories")
    if not len(val) or not len(train):
        raise FgvrError("there are no validation rows; hold some of the training rows back")
    batch = batch or min(1024, max(16, len(train) // 16))  # some steps an epoch, also of few rows
    settings = [Setting(rate, decay) for rate in rates for decay in decays]
    found = _swept(rows, codes, train, val, categories, settings, epochs, batch, seed)
    if not refit:
        return found
    every, best = torch.cat([train, val]).unique(), found.best
    again = _swept(rows, codes, every, val, categories, [best], epochs, batch, seed).probe
    return replace(found, probe=replace(again, validation=best.validation))


def _swept(
    rows: Rows, codes: Tensor, train: Tensor, val: Tensor, categories: Sequence[str], settings: list[Setting],
    epochs: int, batch: int, seed: int,
) -> Swept:  # fmt: skip
    """`sweep` on the training rows."""
    mean, scale = statistics(rows, train)
    device, settings = codes.device, list(settings)
    alive = list(range(len(settings)))
    state = _State(rows.shape[1], len(categories), settings, device)
    steps, done = epochs * math.ceil(len(train) / batch), 0
    for epoch in range(epochs):
        for index, x in _standard(rows.groups(train, GROUP, seed + epoch), mean, scale, device):
            for start in range(0, len(x), batch):
                pace = 0.5 * (1 + math.cos(math.pi * min(1.0, done / steps)))
                state.step(x[start : start + batch], codes[index[start : start + batch]], pace)
                done += 1
        last = epoch + 1 == epochs
        if last or epoch + 1 in KEEP:
            right, loss = _validate(state, rows, codes, val, mean, scale)
            for place, number in enumerate(alive):
                settings[number] = Setting(settings[number].rate, settings[number].decay, right[place], epoch + 1)
            order = sorted(range(len(alive)), key=lambda i: (-right[i], loss[i], i))
            chosen = order[: 1 if last else max(1, math.ceil(len(settings) * KEEP[epoch + 1]))]
            alive = [alive[i] for i in sorted(chosen)]
            state.keep(sorted(chosen))
    best = settings[alive[0]]
    weight, bias = state.weight[:, 0].T, state.bias[0]
    wide = scale * math.sqrt(rows.shape[1])
    found = Probe(list(categories), weight.double(), bias.double(), mean.to(device), wide.to(device), best.decay,
                  best.validation)  # fmt: skip
    return Swept(found, best, settings)


class _State:
    """Weights (D, S, C), biases (S, C) and their momenta."""

    def __init__(self, width: int, categories: int, settings: Sequence[Setting], device: torch.device) -> None:
        import torch

        shape = (width, len(settings), categories)
        self.weight, self.moment = (torch.zeros(shape, device=device) for _ in range(2))
        self.bias, self.bias_moment = (torch.zeros(shape[1:], device=device) for _ in range(2))
        self.rate = torch.tensor([setting.rate for setting in settings], device=device)
        self.decay = torch.tensor([setting.decay for setting in settings], device=device)

    def keep(self, chosen: Sequence[int]) -> None:
        """Go on with these settings only."""
        self.weight, self.moment = (t[:, chosen].contiguous() for t in (self.weight, self.moment))
        self.bias, self.bias_moment, self.rate, self.decay = (
            t[chosen] for t in (self.bias, self.bias_moment, self.rate, self.decay)
        )

    def scores(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, S, C)."""
        return (x @ self.weight.flatten(1)).view(len(x), *self.bias.shape).add_(self.bias)

    def step(self, x: Tensor, codes: Tensor, pace: float) -> None:
        import torch

        gradient = torch.softmax(self.scores(x), dim=2)
        gradient[torch.arange(len(x), device=x.device), :, codes] -= 1
        gradient /= len(x)
        of_weight = (x.T @ gradient.flatten(1)).view_as(self.weight)
        rate = (self.rate * pace)[:, None]
        of_weight.addcmul_(self.weight, self.decay[:, None].expand_as(self.weight))
        for value, moment, slope in (
            (self.weight, self.moment, of_weight), (self.bias, self.bias_moment, gradient.sum(dim=0)),
        ):  # fmt: skip
            moment.mul_(MOMENTUM).add_(slope)
            value.addcmul_(slope.add_(moment, alpha=MOMENTUM), -rate.expand_as(value))


def statistics(rows: Rows, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) float64 of the rows of an index; 1 where a feature does not vary.

    Raises:
        FgvrError: a value is not finite (names the row).
    """
    import torch

    total, squares, shift = (torch.zeros(rows.shape[1], dtype=torch.float64) for _ in range(3))
    for first, (some, block) in enumerate(rows.groups(index, GROUP)):
        bad = ~block.isfinite().all(dim=1)
        if bad.any():
            raise FgvrError(f"row {int(some[bad][0])} of the features is not finite; make features anew")
        x = block.double()
        shift = shift if first else x.mean(dim=0)  # squares of large values would lose small differences
        x -= shift
        total, squares = total + x.sum(dim=0), squares + (x * x).sum(dim=0)
    mean = total / len(index)
    scale = (squares / len(index) - mean * mean).clamp(min=0).sqrt()
    mean = mean + shift
    return mean, torch.where(scale > 1e-9 * mean.abs().clamp(min=1e-30), scale, 1.0)


def _standard(
    groups: Iterator[tuple[Tensor, Tensor]], mean: Tensor, scale: Tensor, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    import torch

    narrow, wide = mean.float(), scale.float() * math.sqrt(len(scale))
    for index, x in groups:
        yield index.to(device), torch.div(x - narrow, wide).to(device)


def _validate(
    state: _State, rows: Rows, codes: Tensor, val: Tensor, mean: Tensor, scale: Tensor
) -> tuple[list[float], list[float]]:
    """Accuracy and mean cross-entropy of each setting; a setting that diverged has -1."""
    import torch

    right, loss = (torch.zeros(len(state.rate), dtype=torch.float64, device=codes.device) for _ in range(2))
    for index, x in _standard(rows.groups(val, 4), mean, scale, codes.device):
        for start in range(0, len(x), 1024):
            scores, gold = state.scores(x[start : start + 1024]), codes[index[start : start + 1024]]
            right += (scores.argmax(dim=2) == gold[:, None]).sum(dim=0)
            own = scores[torch.arange(len(gold), device=gold.device), :, gold]
            loss += (scores.logsumexp(dim=2) - own).double().sum(dim=0)
    right, loss = right / len(val), loss / len(val)
    gone = ~loss.isfinite()
    return right.masked_fill(gone, -1.0).tolist(), loss.masked_fill(gone, math.inf).tolist()
