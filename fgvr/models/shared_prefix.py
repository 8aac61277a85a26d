"""Greedy replies to several questions on one image, whose prompt prefix is encoded once.

The prompts of all questions on an image are equal up to where the questions differ: template, image tokens, mostly the
first words. This prefix goes through the model once. Its key-value cache, one row an image, is not repeated for the
questions: each question's tokens attend to it where it is, beside their own keys, under one softmax. So memory and the
work of each step grow with the questions' own tokens only.

Exact, up to floating point, where a prefix never sees what follows it: causal decoders. PaliGemma's prefix is
bidirectional, and the BLIPs put the image in front by themselves: not in FAMILIES.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fgvr.models.base import Said
from fgvr.models.generating import ends, likeliest, said
from fgvr.models.vlm import Vlm

if TYPE_CHECKING:
    from transformers import Cache

FAMILIES = {
    "idefics2", "idefics3", "smolvlm", "llava", "llava_next", "llava_onevision", "internvl",
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl",
}  # fmt: skip
# what makes transformers' greedy search choose another token than the likeliest, or stop elsewhere, when it is set
STEERING = (
    "no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "guidance_scale",
    "exponential_decay_length_penalty", "stop_strings", "watermarking_config",
)  # fmt: skip
PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
NAME = "fgvr_shared_prefix"


@dataclass(frozen=True)
class Plan:
    """The questions on one image.

    Args:
        rows: their places in the call.
        cut: tokens that the first prompt has after the shared prefix.
        rests: each question's own tokens, one or more.
    """

    rows: list[int]
    cut: int
    rests: list[list[int]]


@dataclass(frozen=True)
class Prefix:
    """The encoded prefixes of some images.

    Args:
        mask: (images, P), left-padded; None when there is no padding.
        next: (images,) the first free position.
    """

    cache: Cache
    mask: Tensor | None
    next: Tensor


def reply(
    vlm: Vlm,
    prompts: Sequence[str],
    images: Sequence[int],
    inputs: Callable[[list[int]], dict[str, Any]],
    max_new_tokens: int,
) -> dict[int, Said]:
    """Replies to those questions that share an image with another one; for the others there is nothing to gain.

    Args:
        prompts: in the model's chat format, image token and all.
        images: for each prompt, what tells its image from the others.
        inputs: the model's inputs for some of the prompts and their images, left-padded.
    Returns:
        place -> reply; empty for a family or a generation config with which sharing would not be exact.
    """
    found: dict[int, Said] = {}
    if not shareable(vlm.model):
        return found
    by_image: dict[int, list[int]] = {}
    for row, image in enumerate(images):
        by_image.setdefault(image, []).append(row)
    plans = [planned(vlm, prompts, rows) for rows in by_image.values() if len(rows) > 1]
    for count in dict.fromkeys(len(plan.rows) for plan in plans if plan):  # equal numbers of questions go together
        chosen = [plan for plan in plans if plan and len(plan.rows) == count]
        encoded = _encode(vlm, inputs([plan.rows[0] for plan in chosen]), chosen, max_new_tokens)
        if encoded is not None:
            rows = [row for plan in chosen for row in plan.rows]
            rests = [rest for plan in chosen for rest in plan.rests]
            found.update(zip(rows, decode(vlm, encoded, rests, max_new_tokens), strict=True))
    return found


def shareable(model: Any) -> bool:
    """Whether a shared prefix gives the replies that the model's own `generate` gives."""
    config = model.generation_config
    steered = any(getattr(config, name, None) for name in STEERING)
    return model.config.model_type in FAMILIES and not steered and (config.repetition_penalty or 1.0) == 1.0


def planned(vlm: Vlm, prompts: Sequence[str], rows: list[int]) -> Plan | None:
    """How these prompts share their start; None when the image is not in it."""
    options = vlm.text_options(prompts[rows[0]])
    # with the image written out where the processor can do that by itself: the word after it may depend on it
    expands = vlm.parts is not None and vlm.parts.text_expands
    write = vlm.processor if expands else vlm.tokenizer
    ids: list[list[int]] = write(text=[prompts[row] for row in rows], **options).input_ids
    most = min(map(len, ids)) - 1  # each needs a token of its own, to ask for the next one
    shared = min(common(ids), most)
    if vlm.image_token_id not in ids[0][:shared] or vlm.image_token_id in ids[0][shared:]:
        return None
    return Plan(rows, len(ids[0]) - shared, [own[shared:] for own in ids])


def common(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest common start."""
    return next((i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1), min(map(len, rows)))


@torch.inference_mode()
def _encode(vlm: Vlm, inputs: dict[str, Any], plans: Sequence[Plan], max_new_tokens: int) -> Prefix | None:
    """The prefixes through the model, one row an image; None when they cannot be told from the inputs."""
    from transformers import DynamicCache

    cuts = [plan.cut for plan in plans]
    tails = zip(inputs["input_ids"], plans, strict=True)
    if any(row[-plan.cut :].tolist() != plan.rests[0] for row, plan in tails):
        return None  # the processor writes the question otherwise than the tokenizer alone
    real = inputs["attention_mask"].bool()
    made = dict(inputs)
    for key in PER_TOKEN:
        if key in made:
            kept = [row[own][:-cut].flip(0) for row, own, cut in zip(made[key], real, cuts, strict=True)]
            made[key] = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True).flip(1)
    mask = made["attention_mask"]
    window = getattr(vlm.model.config.get_text_config(), "sliding_window", None)
    longest = mask.shape[1] + max(len(rest) for plan in plans for rest in plan.rests) + max_new_tokens
    if window is not None and longest > window:
        return None
    if "mm_token_type_ids" not in made:  # else the model works out the places of the image in three dimensions
        made["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache()
    vlm.model(**made, past_key_values=cache, use_cache=True, logits_to_keep=1)
    deltas = getattr(getattr(vlm.model, "model", None), "rope_deltas", None)
    start = mask.sum(1) + (0 if deltas is None else deltas.flatten().to(mask))
    return Prefix(cache, None if mask.all() else mask, start)


@torch.inference_mode()
def decode(vlm: Vlm, prefix: Prefix, rests: Sequence[Sequence[int]], max_new_tokens: int) -> list[Said]:
    """Greedy search from each question's own tokens on; rests: images x questions, all those of an image together."""
    from transformers import DynamicCache

    model, stop = vlm.model, ends(vlm.model)
    padded, real = vlm.pad([rest[::-1] for rest in rests])
    ids, mask = padded.flip(1), real.flip(1)  # padding between the prefix and the question
    start = prefix.next.repeat_interleave(len(rests) // len(prefix.next)).unsqueeze(1)
    places = start + (mask.cumsum(1) - 1).clamp(min=0)
    threefold = getattr(getattr(model, "model", None), "rope_deltas", None) is not None
    own = DynamicCache()
    stops = torch.tensor(stop, dtype=ids.dtype, device=ids.device)
    over = torch.zeros(len(rests), dtype=torch.bool, device=ids.device)
    tokens: list[Tensor] = []
    likely: list[Tensor] = []
    with _attending(vlm, prefix):
        while len(tokens) < max_new_tokens:
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=places.expand(3, *places.shape) if threefold else places,
                past_key_values=own,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = logits.argmax(-1).masked_fill(over, vlm.pad_id)
            tokens.append(chosen)
            likely.append(likeliest(logits))
            over = over | torch.isin(chosen, stops)
            if over.all():
                break
            ids, places = chosen.unsqueeze(1), places[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return said(vlm.tokenizer, torch.stack(tokens, 1), torch.stack(likely, 1), stop)


# ---- attention to the prefix where it is ----

_PREFIX: contextvars.ContextVar[Prefix] = contextvars.ContextVar(NAME)


@contextlib.contextmanager
def _attending(vlm: Vlm, prefix: Prefix) -> Iterator[None]:
    """In this block the decoder's layers attend to the prefix too. The keys and masks they are given are their own."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    decoder = vlm.model.get_decoder()
    configs = {id(m.config): m.config for m in decoder.modules() if hasattr(m, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    token = _PREFIX.set(prefix)
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        _PREFIX.reset(token)
        for key, config in configs.items():
            config._attn_implementation = before[key]


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Softmax attention over [prefix of the row's image | own tokens].

    query: (images x questions, heads, T, D). key, value: (images x questions, key heads, S, D), own tokens only.
    attention_mask: (images x questions, 1, T, S), added to the scores.
    Returns: (images x questions, T, heads, D).
    """
    prefix = _PREFIX.get()
    layer = prefix.cache.layers[module.layer_idx]
    rows, heads, steps, width = query.shape
    images, kinds, length, _ = layer.keys.shape
    questions, group = rows // images, heads // kinds
    query = query * scaling
    # all questions of an image as one long query on its prefix
    apart = query.reshape(images, questions, kinds, group, steps, width)
    together = apart.transpose(1, 2).reshape(images, kinds, questions * group * steps, width)
    before = together @ layer.keys.transpose(2, 3)
    if prefix.mask is not None:
        before = before.masked_fill(prefix.mask[:, None, None, :] == 0, torch.finfo(before.dtype).min)
    before = before.reshape(images, kinds, questions, group * steps, length).transpose(1, 2)
    before = before.reshape(rows, kinds, group, steps, length)
    inner = query.reshape(rows, kinds, group * steps, width) @ key.transpose(2, 3)
    inner = inner.reshape(rows, kinds, group, steps, -1) + attention_mask.unsqueeze(1)
    weights = torch.cat([before, inner], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    seen, own = weights.split([length, weights.shape[-1] - length], -1)
    seen = seen.reshape(images, questions, kinds, group * steps, length).transpose(1, 2)
    found = seen.reshape(images, kinds, questions * group * steps, length) @ layer.values
    found = found.reshape(images, kinds, questions, group * steps, width).transpose(1, 2)
    found = found.reshape(rows, kinds, group * steps, width) + own.reshape(rows, kinds, group * steps, -1) @ value
    return found.reshape(rows, heads, steps, width).transpose(1, 2).contiguous(), None
