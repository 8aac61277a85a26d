"""mined triples -> adapter: stage I of Finedefics, attribute augmented contrastive learning (section 3.2, Eqs 5-8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgvr import losses, prompts
from fgvr.answers import normalise
from fgvr.images import open_image
from fgvr.models.vlm import Vlm
from fgvr.training.conversations import Talk, distinct, reply_loss
from fgvr.training.trainer import Losses

Record = dict[str, Any]


def objective(
    vlm: Vlm, image_root: str | Path, form: str, temperature: float, reduction: str, question: str | None = None
) -> Losses:
    """The loss of one batch of mined triples: L_G + (OAC + ACC + CCC) / 2 (Eq 8).

    The batch is the contrastive batch. Each different description and category name of the batch, the negatives'
    included, goes through the language model once.

    Args:
        form, temperature, reduction: see fgvr.losses.
        question: what the description answers; {superclass} is filled in. None: fgvr.prompts.describe.
    """

    def step(records: Sequence[Record]) -> Iterator[tuple[Tensor, dict[str, float]]]:
        features = vlm.features(vlm.pixels([open_image(image_root, record["image"]) for record in records]))
        terms = contrastive(vlm, records, features, form, temperature, reduction)
        talks = [Talk(_asked(record, question), record["description"]) for record in records]
        generation = reply_loss(vlm, talks, features)
        yield (
            losses.total(generation, *terms),
            {
                "generation": generation.item(),
                **{name: term.item() for name, term in zip(("oac", "acc", "ccc"), terms, strict=True)},
            },
        )

    return step


def _asked(record: Record, question: str | None) -> str:
    superclass = record.get("superclass", "object")
    return prompts.describe(superclass) if question is None else question.replace("{superclass}", superclass)


def contrastive(
    vlm: Vlm, records: Sequence[Record], features: Sequence[Tensor], form: str, temperature: float, reduction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """OAC, ACC and CCC of a batch, each 0-d. Rows of one category are not each other's negatives in the paper's
    form."""
    slots, mask = _slots([record["negatives"] for record in records], vlm.device)
    objects = vlm.pool_features(features)
    descriptions, at_description = distinct([r["description"] for r in records] + [n["description"] for n in slots])
    names, at_name = distinct([r["category"] for r in records] + [n["category"] for n in slots])
    rows, width = len(records), mask.shape[1]

    def split(embedded: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        every = embedded[at.to(embedded.device)]
        return every[:rows], every[rows:].view(rows, width, -1)

    a, neg_a = split(vlm.pool_texts(descriptions), at_description)
    c, neg_c = split(vlm.pool_texts(names), at_name)
    same = None
    if form == "paper":
        same = losses.same_category([normalise(record["category"]) for record in records], vlm.device)
    how: dict[str, Any] = {"mask": mask, "temperature": temperature, "reduction": reduction, "form": form}
    return (
        losses.object_attribute(objects, a, neg_a, same=same, **how),
        losses.attribute_category(a, c, neg_a, neg_c, same=same, **how),
        losses.category_category(c, neg_c, **how),
    )


def _slots(negatives: Sequence[Sequence[Record]], device: torch.device) -> tuple[list[Record], Tensor]:
    """All negatives as B x K slots, a row with fewer filled up with its first (or an empty one), and which slots are
    real."""
    width = max(1, max(map(len, negatives)))
    empty = {"description": "", "category": ""}
    slots = [row[k] if k < len(row) else (row[0] if row else empty) for row in negatives for k in range(width)]
    mask = torch.tensor([[k < len(row) for k in range(width)] for row in negatives], device=device)
    return slots, mask
