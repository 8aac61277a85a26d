"""Questions and answers as training batches, with the loss on the reply alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fgvr.models.vlm import IGNORE, Vlm


@dataclass(frozen=True)
class Talk:
    """One question on one image and the reply to learn."""

    question: str
    answer: str


def reply_loss(vlm: Vlm, talks: Sequence[Talk], features: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy over all reply tokens of the batch: 0-d, differentiable in adapters and connector.

    Only labelled positions go through the output layer: at 8B its logits are the largest tensor of a step.

    Args:
        features: for each talk the (m, D) object tokens of its image, from `Vlm.features`.
    """
    rows = [vlm.encode(talk.question, talk.answer, len(feature)) for talk, feature in zip(talks, features, strict=True)]
    ids, mask = vlm.pad([ids for ids, _ in rows])
    labels, _ = vlm.pad([labels for _, labels in rows], value=IGNORE)
    hidden = vlm.part("decoder")(
        inputs_embeds=vlm.embed(ids, features), attention_mask=mask, use_cache=False
    ).last_hidden_state
    wanted = labels[:, 1:] != IGNORE
    logits = vlm.model.get_output_embeddings()(hidden[:, :-1][wanted])
    return F.cross_entropy(logits.float(), labels[:, 1:][wanted])


def distinct(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Each different text once, and (N,) the place of each text among them."""
    place: dict[str, int] = {}
    index = [place.setdefault(text, len(place)) for text in texts]
    return list(place), torch.tensor(index)
