"""Answers from transformers: a vision-language model, or a language model for text alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fgvr.errors import FgvrError
from fgvr.models import loading, shared_prefix
from fgvr.models.base import Answerer, Ask, Said
from fgvr.models.generating import replies
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


class VlmAnswerer:
    """Images and text in, text out. Questions that share one image object in a call encode it once."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm = vlm
        self.about = vlm.about
        vlm.tokenizer.padding_side = "left"
        if vlm.tokenizer.pad_token_id is None:
            vlm.tokenizer.pad_token = vlm.tokenizer.eos_token

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        return [text for text, _ in self.reply_scored(asks, max_new_tokens)]

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        (said,) = self._reply([ask], ask.image is not None, max_new_tokens, temperature=temperature, seed=seed)
        return said.text

    def reply_scored(self, asks: Sequence[Ask], max_new_tokens: int) -> list[Said]:
        found: dict[int, Said] = {}
        for with_image in (True, False):
            chosen = [i for i, ask in enumerate(asks) if (ask.image is not None) == with_image]
            if chosen and with_image:
                found.update(self._shared([asks[i] for i in chosen], chosen, max_new_tokens))
                chosen = [i for i in chosen if i not in found]
            if chosen:
                said = self._reply([asks[i] for i in chosen], with_image, max_new_tokens)
                found.update(zip(chosen, said, strict=True))
        return [found[i] for i in range(len(asks))]

    def _shared(self, asks: list[Ask], places: list[int], max_new_tokens: int) -> dict[int, Said]:
        """Replies to the questions that share an image object with another one (shared_prefix)."""
        prompts = [self.vlm.chat([(ask.prompt, None)], True) for ask in asks]
        found = shared_prefix.reply(
            self.vlm,
            prompts,
            [id(ask.image) for ask in asks],
            lambda rows: self._inputs([asks[row] for row in rows]),
            max_new_tokens,
        )
        return {places[row]: said for row, said in found.items()}

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

    def _reply(self, asks: list[Ask], with_image: bool, max_new_tokens: int, **draw: Any) -> list[Said]:
        vlm = self.vlm
        prompts = [vlm.chat([(ask.prompt, None)], with_image) for ask in asks]
        if not with_image:
            inputs: dict[str, Any] = dict(vlm.tokenizer(prompts, **self._options(prompts)).to(vlm.device))
        elif vlm.parts is not None and vlm.parts.text_expands:
            inputs = self._encoded_once(asks, prompts)
        else:
            inputs = self._inputs(asks)
        return replies(vlm.model, vlm.tokenizer, max_new_tokens, **draw, **inputs)

    def _options(self, prompts: list[str]) -> dict[str, Any]:
        return {"padding": True, "return_tensors": "pt", **self.vlm.text_options(prompts[0])}

    def _inputs(self, asks: Sequence[Ask]) -> dict[str, Any]:
        """What the model takes for some questions on images, left-padded."""
        prompts = [self.vlm.chat([(ask.prompt, None)], True) for ask in asks]
        images = [[ask.image] for ask in asks]
        inputs = self.vlm.processor(text=prompts, images=images, **self._options(prompts)).to(self.vlm.device)
        return {key: _cast(value, self.vlm.model.dtype) for key, value in inputs.items()}

    def _encoded_once(self, asks: list[Ask], prompts: list[str]) -> dict[str, Any]:
        vlm = self.vlm
        unique = {id(ask.image): ask.image for ask in asks}
        with torch.inference_mode():
            features = dict(zip(unique, vlm.features(vlm.pixels(list(unique.values()))), strict=True))  # type: ignore[arg-type]
            inputs = vlm.processor(text=prompts, **self._options(prompts)).to(vlm.device)
            embeds = vlm.embed(inputs["input_ids"], [features[id(ask.image)] for ask in asks])
        return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}


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
        return [text for text, _ in self.reply_scored(asks, max_new_tokens)]

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        return self.reply_scored([ask], max_new_tokens, temperature=temperature, seed=seed)[0].text

    def reply_scored(self, asks: Sequence[Ask], max_new_tokens: int, **draw: Any) -> list[Said]:
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
        return replies(self.model, self.tokenizer, max_new_tokens, **draw, **inputs.to(self.model.device))

    def _prompt(self, text: str) -> str:
        """In the model's chat template where it has one; a base model gets the bare text."""
        if self.tokenizer.chat_template is None:
            return text
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
