"""Questions and answers as training batches, with the loss on the reply alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fgvr.models.vlm import IGNORE, Vlm
from fgvr.models.writing import Sight

ROOM = 0.25  # share of the context that is left by the largest image
CHUNK = 1024  # tokens; 0.6 GiB of float32 logits and as much of their gradient at a vocabulary of 152,000


@dataclass(frozen=True)
class Talk:
    """A question, on one image or on none, and the reply to learn; so are the replies of the turns before."""

    question: str
    answer: str
    before: tuple[tuple[str, str], ...] = ()

    def encode(self, vlm: Vlm, image: int | Sight | None) -> tuple[list[int], list[int]]:
        """Token ids and labels (Writer.encode)."""
        return vlm.encode(self.question, self.answer, image, self.before)


def coded(vlm: Vlm, talk: Talk, look: Callable[[], Sight] | None) -> tuple[list[int], list[int]]:
    """Token ids and labels, as many labels as `reply_loss` will count; of image tokens not more than one, unless the
    conversation is so long that it matters how many there are.

    Args:
        look: says how the image stands in a prompt; None: there is no image.
    """
    found = talk.encode(vlm, None if look is None else 1)
    return found if look is None or len(found[0]) <= vlm.writer.context * ROOM else talk.encode(vlm, look())


def lessons(vlm: Vlm, talk: Talk) -> list[Talk]:
    """The conversations in which a talk is learnt: itself. Where a prompt is read in both directions, one for each of
    its replies: a reply must not see the turns after it."""
    if vlm.parts is None or not vlm.parts.prefix:
        return [talk]
    turns = (*talk.before, (talk.question, talk.answer))
    return [Talk(*turn, turns[:n]) for n, turn in enumerate(turns)]


def reply_loss(vlm: Vlm, talks: Sequence[Talk], features: Sequence[Tensor | None]) -> Tensor:
    """Mean cross-entropy over all reply tokens of the batch: 0-d, differentiable in adapters and connector.

    Only labelled positions go through the output layer, CHUNK at a time: at 8B its logits are the largest tensor of a
    step.

    Args:
        features: for each talk the object tokens of its image, from `Vlm.features`; None: it has no image.
    """
    sights = [None if feature is None else vlm.sight(feature) for feature in features]
    rows = [talk.encode(vlm, sight) for talk, sight in zip(talks, sights, strict=True)]
    ids, mask = vlm.pad([ids for ids, _ in rows])
    labels, _ = vlm.pad([labels for _, labels in rows], value=IGNORE)
    hidden = vlm.hidden(ids, mask, features, labels != IGNORE)
    wanted = labels[:, 1:] != IGNORE
    return token_loss(vlm.logits, hidden[:, :-1][wanted], labels[:, 1:][wanted])


def token_loss(
    logits: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor, chunk: int = CHUNK
) -> Tensor:
    """Mean cross-entropy, 0-d, with the logits of no more than `chunk` tokens in memory at once: those of one part are
    made again when its gradient is asked for.

    Args:
        logits: (n, D) states to (n, V) scores.
        hidden: (N, D). labels: (N,).
    """
    def part(states: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(logits(states), tokens, reduction="sum")

    if len(hidden) <= chunk:
        return part(hidden, labels) / len(labels)
    parts = zip(hidden.split(chunk), labels.split(chunk), strict=True)
    sums = [checkpoint(part, *both, use_reentrant=False, preserve_rng_state=False) for both in parts]
    return torch.stack(sums).sum() / len(labels)


def distinct(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Each different text once, and (N,) the place of each text among them."""
    place: dict[str, int] = {}
    index = [place.setdefault(text, len(place)) for text in texts]
    return list(place), torch.tensor(index)
