"""Two turns of a conversation about an image, the key-value cache of the first kept for the second.

The second prompt is the whole conversation in the model's template, tokenized anew; the cache is used for as many of
its tokens as the first turn ended up with, prompt and reply. So the replies are those of encoding both turns from the
beginning, whatever the template writes between them. Exact where a token never sees what follows it: the families of
fgvr.models.shared_prefix. For others, and for questions without an image, the conversation is encoded anew.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fgvr.models import shared_prefix
from fgvr.models.base import Ask
from fgvr.models.generating import ends, said

if TYPE_CHECKING:
    from transformers import Cache

    from fgvr.models.answering import VlmAnswerer


@dataclass(frozen=True)
class Opened:
    """The first turn of some conversations.

    Args:
        cache: keys and values of (rows, T), left-padded.
        ids: the T token ids of each row; starts: where each row begins.
        deltas: (rows,) by how much positions lag behind tokens (Qwen); 0 elsewhere.
    """

    replies: list[str]
    cache: Cache
    ids: Tensor
    starts: list[int]
    deltas: Tensor


def converse(
    answerer: VlmAnswerer, asks: Sequence[Ask], openings: Sequence[str], opening_tokens: int, max_new_tokens: int
) -> list[tuple[str, str]]:
    """As fgvr.models.base.Conversant."""
    first = [Ask(opening, ask.image) for ask, opening in zip(asks, openings, strict=True)]
    keeps = shared_prefix.shareable(answerer.model) and all(ask.image is not None for ask in asks)
    opened = _open(answerer, first, opening_tokens) if keeps else None
    replies = opened.replies if opened else answerer.reply(first, opening_tokens)
    turns = zip(asks, openings, replies, strict=True)
    second = [replace(ask, before=((opening, reply),)) for ask, opening, reply in turns]
    found = _go_on(answerer, second, opened, max_new_tokens) if opened else None
    if found is None:
        found = answerer.reply(second, max_new_tokens)
    return list(zip(replies, found, strict=True))


@torch.inference_mode()
def _open(answerer: VlmAnswerer, asks: Sequence[Ask], max_new_tokens: int) -> Opened:
    """The replies of the model's own greedy generation, and what it computed on the way."""
    model, inputs = answerer.model, answerer._inputs(asks)
    made = model.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, cache_implementation="dynamic",
        return_dict_in_generate=True,
    )  # fmt: skip
    ids, mask = made.sequences, inputs["attention_mask"]
    new = ids[:, mask.shape[1] :]
    replies = [text for text, _ in said(answerer.vlm.tokenizer, new, torch.zeros_like(new), ends(model))]
    deltas = getattr(getattr(model, "model", None), "rope_deltas", None)
    lag = torch.zeros_like(mask[:, 0]) if deltas is None else deltas.flatten().to(mask)
    starts = (mask.shape[1] - mask.sum(1)).tolist()
    return Opened(replies, made.past_key_values, ids[:, : made.past_key_values.get_seq_length()], starts, lag)


@torch.inference_mode()
def _go_on(answerer: VlmAnswerer, asks: Sequence[Ask], opened: Opened, max_new_tokens: int) -> list[str] | None:
    """Replies to whole conversations on the cache of their first turns; None where the image is not in the cache or
    the decoder forgets its start."""
    vlm = answerer.vlm
    inputs = answerer._inputs(asks)
    answerer._counts = []  # the image is not encoded again
    whole = [row[own.bool()].tolist() for row, own in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    known = [row[start:].tolist() for row, start in zip(opened.ids, opened.starts, strict=True)]
    kept = [shared_prefix.common(pair) for pair in zip(known, whole, strict=True)]
    kept = [min(length, len(row) - 1) for length, row in zip(kept, whole, strict=True)]  # one asks for the next
    rests = [row[length:] for row, length in zip(whole, kept, strict=True)]
    window = getattr(vlm.model.config.get_text_config(), "sliding_window", None)
    forgets = window is not None and max(opened.ids.shape[1], *map(len, whole)) + max_new_tokens > window
    if forgets or min(kept) == 0 or any(vlm.image_token_id in rest for rest in rests):
        return None
    prefix = _cut(opened, torch.tensor(kept, device=vlm.device))
    return [text for text, _ in shared_prefix.decode(vlm, prefix, rests, max_new_tokens)]


def _cut(opened: Opened, kept: Tensor) -> shared_prefix.Prefix:
    """The first tokens of each row's cache, left-padded; keys are turned by their positions and need no new ones."""
    steps = torch.arange(int(kept.max()), device=kept.device)
    pads = kept.max() - kept
    mask = (steps[None, :] >= pads[:, None]).long()
    places = (steps[None, :] - pads[:, None] + torch.tensor(opened.starts, device=kept.device)[:, None]).clamp(min=0)
    cache = copy.copy(opened.cache)
    cache.layers = [copy.copy(layer) for layer in opened.cache.layers]
    for layer in cache.layers:
        for name in ("keys", "values"):
            held = getattr(layer, name)
            setattr(layer, name, held.gather(2, places[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])))
    return shared_prefix.Prefix(cache, None if mask.all() else mask, kept + opened.deltas)
