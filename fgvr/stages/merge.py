"""adapter + base -> a model of its own, and how far its output is from the two apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fgvr import prompts
from fgvr.errors import FgvrError
from fgvr.images import open_image
from fgvr.models import loading
from fgvr.models.vlm import IGNORE, Vlm
from fgvr.records import check
from fgvr.stages.tune import talk
from fgvr.training.conversations import Talk

Record = dict[str, Any]
BASES = ("original", "dequantised")


def merge(
    load: Callable[[], Vlm],
    trained: str,
    base: str,
    dtype: torch.dtype,
    records: Sequence[Record] = (),
    image_root: str | Path = "",
) -> tuple[Vlm, dict[str, float]]:
    """W + B A in place of W in every adapted layer, rounded to `dtype`.

    Args:
        load: opens the base with its adapter. An 8B model is opened up to three times, one after the other.
        trained: the base that the adapter learnt on: one of BASES.
        base: the one to merge into.
        dtype: of the merged weights.
        records: samples to measure on; a question's answer, or a description, is what is said of its image.
    Returns:
        The merged model, in `dtype`; and for `base`, and for the other one too where the adapter learnt in 4 bits, the
        relative output error |y - y'| / |y| (Frobenius), y the logits of the reply tokens with adapter and trained base
        apart.
    """

    def opened(kind: str) -> Vlm:
        vlm = load()
        if kind == "dequantised":
            loading.through_nf4(vlm.part("decoder"))
        return vlm

    wanted = _outputs(opened(trained), records, image_root) if records else []
    both = [kind for kind in BASES if kind != base and records and trained == "dequantised"]
    errors: dict[str, float] = {}
    for kind in (*both, base):
        vlm = opened(kind)
        _fold(vlm, dtype)
        if records:
            found = _outputs(vlm, records, image_root)
            errors[kind] = _norm(a - b for a, b in zip(found, wanted, strict=True)) / _norm(wanted)
    _cast(vlm.model, dtype)
    return vlm, errors


def _fold(vlm: Vlm, dtype: torch.dtype) -> None:
    """The adapter into the weights, added in float32; then every weight as `dtype` keeps it."""
    compute = vlm.model.dtype
    _cast(vlm.peft, torch.float32)
    vlm.model = vlm.peft.merge_and_unload()
    vlm.peft = None
    _cast(vlm.model, dtype)
    _cast(vlm.model, compute)
    vlm.model.eval()


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """What a saved model keeps, as `dtype`. What is made anew on loading, such as RoPE's frequencies, stays as it is:
    `model.to` would round it too, which no folder does."""
    for kept in model.state_dict(keep_vars=True).values():
        if kept.is_floating_point():
            kept.data = kept.data.to(dtype)


@torch.no_grad()
def _outputs(vlm: Vlm, records: Sequence[Record], image_root: str | Path) -> list[Tensor]:
    """For each record the logits (reply tokens, V) that its reply was scored with, on the CPU."""
    found = []
    for record in records:
        try:
            said = _talk(record)
            features = vlm.features(vlm.pixels([open_image(image_root, record["image"])]))
            ids, labels = said.encode(vlm, vlm.sight(features[0]))
        except FgvrError as error:
            raise FgvrError(f"{record.get('id') or record['image']}: {error}") from error
        reply = torch.tensor([[label != IGNORE for label in labels]], device=vlm.device)
        hidden = vlm.hidden(*vlm.pad([ids]), features, reply)
        found.append(vlm.logits(hidden[:, :-1][reply[:, 1:]]).cpu())
    return found


def _talk(record: Record) -> Talk:
    if "kind" in record:
        return talk(record)
    check(record, ("description",) if record.get("description") is not None else ("category",))
    return Talk(prompts.describe(record.get("superclass", "object")), record.get("description") or record["category"])


def _norm(tensors: Any) -> float:
    return float(sum(x.double().square().sum() for x in tensors) ** 0.5)
