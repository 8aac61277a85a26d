"""Answers from transformers: a vision-language model, or a language model for text alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fgvr.errors import FgvrError
from fgvr.models import loading
from fgvr.models.answering import VlmAnswerer
from fgvr.models.base import Answerer, Ask, Said
from fgvr.models.generating import replies
from fgvr.models.vlm import Vlm


def open_answerer(
    name: str, revision: str | None = None, device: str = "auto", adapter: str | None = None, dtype: str = "auto",
    quantise: str = "none",
) -> Answerer:
    """Open a hub id or a folder: a VLM where transformers has one for its architecture, else a causal language model.

    Args:
        device, dtype, quantise: as fgvr.models.loading.opened has them.
    Raises:
        FgvrError: it cannot be opened, is neither, or the adapter does not fit.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as LANGUAGE_MODELS
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as VLMS

    kind = loading.from_pretrained(AutoConfig, name, revision).model_type
    if kind in VLMS:
        return VlmAnswerer(Vlm.load(name, revision, device, adapter, False, False, quantise, dtype))
    if kind not in LANGUAGE_MODELS:
        raise FgvrError(f"model {name}: type {kind!r} is neither a vision-language nor a language model; name another")
    if adapter is not None:
        raise FgvrError(f"model {name}: is a language model; --adapter is for vision-language models")
    return TextAnswerer(name, revision, device, dtype, quantise)


class TextAnswerer:
    """A causal language model; it refuses a question with an image."""

    def __init__(
        self, name: str, revision: str | None, device: str, dtype: str = "auto", quantise: str = "none"
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        loading.quiet()
        self.tokenizer = loading.from_pretrained(AutoTokenizer, name, revision, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model: Any = loading.opened(AutoModelForCausalLM, name, revision, device, dtype, quantise)
        self.name = name
        self.about = loading.about(name, revision, self.model, quantise)

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        return [text for text, _ in self.reply_scored(asks, max_new_tokens)]

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        return self.reply_scored([ask], max_new_tokens, temperature=temperature, seed=seed)[0].text

    def reply_scored(self, asks: Sequence[Ask], max_new_tokens: int, **draw: Any) -> list[Said]:
        if any(ask.image is not None for ask in asks):
            raise FgvrError(
                f"model {self.name}: is a language model and cannot see images; name a vision-language model"
            )
        prompts = [self._prompt(ask) for ask in asks]
        bos = self.tokenizer.bos_token
        inputs = self.tokenizer(
            prompts,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
            add_special_tokens=not (bos and prompts[0].startswith(bos)),
        )
        return replies(self.model, self.tokenizer, max_new_tokens, **draw, **inputs.to(self.model.device))

    def _prompt(self, ask: Ask) -> str:
        """In the model's chat template where it has one; a base model gets the bare text, a turn a line."""
        texts = [*(text for turn in ask.before for text in turn), ask.prompt]
        if self.tokenizer.chat_template is None:
            return "\n".join(texts)
        turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
