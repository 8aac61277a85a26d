"""A call of transformers' `generate` as replies: greedy with their confidence, or drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgvr.models.base import Said


def replies(
    model: Any, tokenizer: Any, max_new_tokens: int, temperature: float | None = None, seed: int = 0, **inputs: Any
) -> list[Said]:
    """One reply a row, the prompt cut off, special tokens removed. Greedy, unless there is a temperature.

    Args:
        temperature: > 0; each token is drawn from the whole vocabulary.
        seed: of that draw.
    """
    watch = Watch()
    drawn: dict[str, Any] = {"do_sample": False, "num_beams": 1}
    if temperature is not None:
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng(enabled=temperature is not None), torch.inference_mode():
        if temperature is not None:
            torch.manual_seed(seed)
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, logits_processor=[watch], **drawn)
    ids = ids[:, ids.shape[1] - len(watch.steps) :]  # whether or not it gave the prompt back
    return said(tokenizer, ids, torch.stack(watch.steps, 1), ends(model))


class Watch:
    """A logits processor that changes nothing and keeps each step's log-probability of the likeliest token."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(likeliest(scores))
        return scores


def likeliest(logits: Tensor) -> Tensor:
    """(rows,) log-probability of the likeliest token."""
    logits = logits.float()
    return logits.max(-1).values - logits.logsumexp(-1)


def ends(model: Any) -> list[int]:
    """The tokens that end a reply."""
    found = model.generation_config.eos_token_id
    return list(found) if isinstance(found, (list, tuple)) else [] if found is None else [found]


def said(tokenizer: Any, ids: Tensor, likely: Tensor, ends: list[int]) -> list[Said]:
    """Generated tokens and their log-probabilities, both (rows, tokens), as replies; nothing after an end counts."""
    over = torch.isin(ids, torch.tensor(ends, dtype=ids.dtype, device=ids.device)).int()
    counts = (over.cumsum(1) - over) == 0
    mean = (likely * counts).sum(1) / counts.sum(1)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [Said(text.strip(), value) for text, value in zip(texts, mean.tolist(), strict=True)]
