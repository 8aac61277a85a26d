"""Answers from transformers: a vision-language model, or a language model for text alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fgvr.errors import FgvrError
from fgvr.models import loading
from fgvr.models.base import Answerer, Ask
from fgvr.models.vlm import IGNORE, Vlm


def open_answerer(name: str, revision: str | None = None, device: str = "auto", adapter: str | None = None) -> Answerer:
    """Open a hub id or a folder: a VLM where transformers has one for its architecture, else a causal language model.

    Raises:
        FgvrError: it cannot be opened, or the adapter does not fit.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as VLMS

    config = loading.from_pretrained(AutoConfig, name, revision)
    if config.model_type in VLMS:
        return VlmAnswerer(Vlm.load(name, revision, device, adapter))
    if adapter is not None:
        raise FgvrError(f"model {name}: is a language model; --adapter is for vision-language models")
    return TextAnswerer(name, revision, device)


def _greedy(model: Any, tokenizer: Any, max_new_tokens: int, **inputs: Any) -> list[str]:
    """Greedy replies, the prompt cut off, special tokens removed."""
    known = inputs.get("input_ids")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    if known is not None:
        ids = ids[:, known.shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


class VlmAnswerer:
    """Images and text in, text out. Questions that share one image object in a call encode it once."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm = vlm
        self.about = vlm.about
        vlm.tokenizer.padding_side = "left"
        if vlm.tokenizer.pad_token_id is None:
            vlm.tokenizer.pad_token = vlm.tokenizer.eos_token

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        replies: dict[int, str] = {}
        for with_image in (True, False):
            chosen = [i for i, ask in enumerate(asks) if (ask.image is not None) == with_image]
            if chosen:
                found = self._reply([asks[i] for i in chosen], with_image, max_new_tokens)
                replies.update(zip(chosen, found, strict=True))
        return [replies[i] for i in range(len(asks))]

    @torch.inference_mode()
    def likelihood(self, asks: Sequence[Ask], replies: Sequence[str]) -> list[float]:
        """For each question with an image and its given reply: the mean log-probability of the reply's tokens.

        Raises:
            FgvrError: the family cannot be taken apart, or a question has no image.
        """
        vlm = self.vlm
        if vlm.parts is None or any(ask.image is None for ask in asks):
            raise FgvrError(
                f"model {vlm.about['name']}: likelihoods need an image and a family that can be taken apart"
            )
        unique = {id(ask.image): ask.image for ask in asks}
        found = dict(zip(unique, vlm.features(vlm.pixels(list(unique.values()))), strict=True))  # type: ignore[arg-type]
        features = [found[id(ask.image)] for ask in asks]
        rows = [vlm.encode(a.prompt, r, len(f)) for a, r, f in zip(asks, replies, features, strict=True)]
        ids, mask = vlm.pad([ids for ids, _ in rows])
        labels, _ = vlm.pad([labels for _, labels in rows], value=IGNORE)
        decoder = vlm.part("decoder")
        hidden = decoder(inputs_embeds=vlm.embed(ids, features), attention_mask=mask, use_cache=False).last_hidden_state
        wanted = labels[:, 1:] != IGNORE
        logits = vlm.model.get_output_embeddings()(hidden[:, :-1][wanted]).float()
        each = torch.zeros(wanted.shape, device=hidden.device)
        each[wanted] = logits.log_softmax(-1).gather(1, labels[:, 1:][wanted].unsqueeze(1)).squeeze(1)
        return (each.sum(1) / wanted.sum(1)).tolist()

    def _reply(self, asks: list[Ask], with_image: bool, max_new_tokens: int) -> list[str]:
        vlm = self.vlm
        prompts = [vlm.chat([(ask.prompt, None)], with_image) for ask in asks]
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt", **vlm.text_options(prompts[0])}
        if not with_image:
            inputs: dict[str, Any] = dict(vlm.tokenizer(prompts, **options).to(vlm.device))
            return _greedy(vlm.model, vlm.tokenizer, max_new_tokens, **inputs)
        if vlm.parts is not None and vlm.parts.text_expands:
            return self._reply_encoded_once(asks, prompts, options, max_new_tokens)
        inputs = dict(vlm.processor(text=prompts, images=[[ask.image] for ask in asks], **options).to(vlm.device))
        return _greedy(
            vlm.model, vlm.tokenizer, max_new_tokens, **{k: _cast(v, vlm.model.dtype) for k, v in inputs.items()}
        )

    def _reply_encoded_once(
        self, asks: list[Ask], prompts: list[str], options: dict[str, Any], max_new_tokens: int
    ) -> list[str]:
        vlm = self.vlm
        unique = {id(ask.image): ask.image for ask in asks}
        with torch.inference_mode():
            features = dict(zip(unique, vlm.features(vlm.pixels(list(unique.values()))), strict=True))  # type: ignore[arg-type]
            inputs = vlm.processor(text=prompts, **options).to(vlm.device)
            embeds = vlm.embed(inputs["input_ids"], [features[id(ask.image)] for ask in asks])
        return _greedy(
            vlm.model, vlm.tokenizer, max_new_tokens, inputs_embeds=embeds, attention_mask=inputs["attention_mask"]
        )


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class TextAnswerer:
    """A causal language model; it refuses a question with an image."""

    def __init__(self, name: str, revision: str | None, device: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        loading.quiet()
        self.tokenizer = loading.from_pretrained(AutoTokenizer, name, revision, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model: Any = loading.load_model(AutoModelForCausalLM, name, revision, loading.pick_device(device))
        self.name = name
        self.about = loading.about(name, revision, self.model)

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        if any(ask.image is not None for ask in asks):
            raise FgvrError(
                f"model {self.name}: is a language model and cannot see images; name a vision-language model"
            )
        prompts = [self._prompt(ask.prompt) for ask in asks]
        bos = self.tokenizer.bos_token
        inputs = self.tokenizer(
            prompts,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
            add_special_tokens=not (bos and prompts[0].startswith(bos)),
        )
        return _greedy(self.model, self.tokenizer, max_new_tokens, **inputs.to(self.model.device))

    def _prompt(self, text: str) -> str:
        """In the model's chat template where it has one; a base model gets the bare text."""
        if self.tokenizer.chat_template is None:
            return text
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
