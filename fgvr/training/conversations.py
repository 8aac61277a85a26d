"""Questions and answers as training batches: chat template, image tokens, labels on the reply alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fgvr.errors import FgvrError
from fgvr.models.vlm import Vlm

IGNORE = -100


@dataclass(frozen=True)
class Talk:
    """One question on one image and the reply to learn."""

    question: str
    answer: str


def encode(vlm: Vlm, talk: Talk, image_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids and labels of one conversation, the image written as its `image_tokens` tokens.

    Labels are IGNORE on everything but the reply and what the template puts after it (its end mark), so that the
    model is taught to answer, not to ask (the released Finedefics code trains on questions and image tokens too).
    """
    asked = _written_out(vlm, vlm.chat([(talk.question, None)], True), image_tokens)
    whole = _written_out(vlm, vlm.chat([(talk.question, talk.answer)], True), image_tokens)
    options = vlm.text_options(whole)
    ids: list[int] = vlm.tokenizer(whole, **options).input_ids
    prompt: list[int] = vlm.tokenizer(asked, **options).input_ids
    shared = next((i for i, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), min(len(ids), len(prompt)))
    if shared == len(ids):
        raise FgvrError(f"the reply {talk.answer!r} is empty in this model's chat template; correct the record")
    return ids, [IGNORE] * shared + ids[shared:]


def _written_out(vlm: Vlm, text: str, image_tokens: int) -> str:
    """The text as the processor hands it to its tokenizer, with one image of `image_tokens` tokens."""
    if vlm.parts is not None and vlm.parts.text_expands:
        ids = vlm.processor(text=[text], add_special_tokens=False).input_ids[0]
        return vlm.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    token = vlm.tokenizer.convert_ids_to_tokens(vlm.image_token_id)
    return text.replace(token, token * image_tokens, 1)


def reply_loss(vlm: Vlm, talks: Sequence[Talk], features: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy over all reply tokens of the batch: 0-d, differentiable in adapters and connector.

    Only labelled positions go through the output layer: at 8B its logits are the largest tensor of a step.

    Args:
        features: for each talk the (m, D) object tokens of its image, from `Vlm.features`.
    """
    rows = [encode(vlm, talk, len(feature)) for talk, feature in zip(talks, features, strict=True)]
    ids, mask = vlm.pad([ids for ids, _ in rows])
    labels, _ = vlm.pad([labels for _, labels in rows], value=IGNORE)
    hidden = vlm.part("decoder")(
        inputs_embeds=vlm.embed(ids, features), attention_mask=mask, use_cache=False
    ).last_hidden_state
    wanted = labels[:, 1:] != IGNORE
    logits = vlm.model.get_output_embeddings()(hidden[:, :-1][wanted])
    return F.cross_entropy(logits.float(), labels[:, 1:][wanted])


def batch_tokens(rows: Sequence[Sequence[int]]) -> int:
    """Tokens of a padded batch."""
    return len(rows) * max(map(len, rows)) if rows else 0


def distinct(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Each different text once, and (N,) the place of each text among them."""
    place: dict[str, int] = {}
    index = [place.setdefault(text, len(place)) for text in texts]
    return list(place), torch.tensor(index)
