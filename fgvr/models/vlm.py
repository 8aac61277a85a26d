"""A vision-language model taken apart: vision tower, modality connector, language model; and its three embeddings.

Finedefics (section 2 and 3.2) compares an object, an attribute description and a category name in the last layer of
the language model: the connector's output plus the EOS embedding, or a text plus EOS, goes through the language model
*by itself*, and the hidden state of one position stands for the whole (`pool`):

    eos   the appended EOS token (stage I, Eqs 5-7);
    last  the last token before it (Eq 1, probing);
    mean  the mean of all tokens before it (probing).

A decoder is causal, so the EOS that comes after changes neither `last` nor `mean`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fgvr.errors import FgvrError
from fgvr.models import loading, split_spec

if TYPE_CHECKING:
    from PIL.Image import Image

POOLS = ("eos", "last", "mean")
IGNORE = -100  # the label of a token that is not in the loss


@dataclass(frozen=True)
class Parts:
    """Where a family keeps its parts (dotted names below the model), and how it takes features.

    text_expands: the processor writes out the image tokens of a text without being given the image, so that many
        questions on one image prepare it once.
    """

    tower: str
    connector: str
    decoder: str
    text_expands: bool = False


# model_type -> parts. Families whose inputs_embeds path equals the pixel path exactly, each tried by a test
PARTS = {
    "idefics2": Parts("model.vision_model", "model.connector", "model.text_model", text_expands=True),
    "llava": Parts("model.vision_tower", "model.multi_modal_projector", "model.language_model"),
}


def open_vlm(spec: str, adapter: str | None = None, device: str = "auto", trainable: bool = False) -> Vlm:
    """Open a vision-language model that can be taken apart, with an adapter of align or tune or without.

    Raises:
        FgvrError: it cannot be opened, is of a family not in PARTS, or the adapter does not fit.
    """
    from transformers import AutoConfig

    _, name, revision = split_spec(spec, {"hf": ""}, "hf")
    config = loading.from_pretrained(AutoConfig, name, revision)
    if config.model_type not in PARTS:
        raise FgvrError(
            f"model {name}: family {config.model_type!r} cannot be taken apart yet; use one of {', '.join(PARTS)}"
        )
    return Vlm.load(name, revision, device, adapter, trainable)


class Vlm:
    """An open vision-language model. The model's own classes stay as transformers has them; this only names their
    parts.

    model: the base model; with an adapter its layers are already the adapted ones.
    peft: the PeftModel around it, to save and train the adapter, or None.
    """

    def __init__(self, model: Any, processor: Any, about: dict[str, Any], peft: Any = None) -> None:
        self.model, self.processor, self.about, self.peft = model, processor, about, peft
        self.tokenizer = processor.tokenizer
        self.parts = PARTS.get(model.config.model_type)
        self.device: torch.device = model.device
        self.encode = functools.lru_cache(maxsize=1 << 14)(self._encode)  # the same texts come again in every epoch

    @classmethod
    def load(
        cls,
        name: str,
        revision: str | None,
        device: str,
        adapter: str | None = None,
        trainable: bool = False,
        templated: bool = True,
    ) -> Vlm:
        """templated: insist on a chat template."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        loading.quiet()
        processor = loading.from_pretrained(AutoProcessor, name, revision)
        lacks = templated and getattr(processor, "chat_template", None) is None
        if getattr(processor, "tokenizer", None) is None or lacks:
            raise FgvrError(
                f"model {name}: has no processor with a chat template; copy processor and chat_template files there"
            )
        if type(processor).__name__.startswith("Idefics2"):
            processor.image_processor.do_image_splitting = False  # off in Finedefics' training and evaluation
        model = loading.load_model(AutoModelForImageTextToText, name, revision, loading.pick_device(device))
        about = loading.about(name, revision, model)
        peft = loading.attach_adapter(model, adapter, trainable) if adapter is not None else None
        return cls(model, processor, about, peft)

    def part(self, name: str) -> nn.Module:
        """ "tower", "connector" or "decoder"."""
        return self.model.get_submodule(getattr(self.parts, name))

    @property
    def image_token_id(self) -> int:
        return self.model.config.image_token_id

    # --- text ---

    def chat(self, turns: Sequence[tuple[str, str | None]], with_image: bool) -> str:
        """A conversation in the model's own template; the image stands before the first question. A last answer of
        None leaves the reply to the model."""
        messages = []
        for number, (question, answer) in enumerate(turns):
            image = [{"type": "image"}] if with_image and number == 0 else []
            messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
            if answer is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=turns[-1][1] is None)

    def text_options(self, text: str) -> dict[str, bool]:
        """Whether the tokenizer still has to add its BOS: some templates write it themselves."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": not (bos and text.startswith(bos))}

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """BOS (where the tokenizer has one) + text + EOS: (N, T) ids and (N, T) mask, right-padded."""
        eos = self.tokenizer.eos_token_id
        rows = [self.tokenizer(text).input_ids for text in texts]
        return self.pad([row if row and row[-1] == eos else [*row, eos] for row in rows])

    def pad(self, rows: Sequence[Sequence[int]], value: int | None = None) -> tuple[Tensor, Tensor]:
        """Right-padded (N, T) ids and mask on the model's device; `value` is the pad token unless given."""
        fill = value if value is not None else self.pad_id
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        return ids.to(self.device), mask.long().to(self.device)

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id

    def _encode(self, question: str, answer: str, image_tokens: int) -> tuple[list[int], list[int]]:
        """Token ids and labels of one question on one image and its reply, the image written as its tokens.

        Labels are IGNORE on everything but the reply and what the template puts after it (its end mark), so that a
        model is taught to answer, not to ask (the released Finedefics code trains on questions and image tokens too).

        Raises:
            FgvrError: the template leaves nothing of the reply.
        """
        asked = self._written_out(self.chat([(question, None)], True), image_tokens)
        whole = self._written_out(self.chat([(question, answer)], True), image_tokens)
        options = self.text_options(whole)
        ids: list[int] = self.tokenizer(whole, **options).input_ids
        prompt: list[int] = self.tokenizer(asked, **options).input_ids
        both = min(len(ids), len(prompt))
        shared = next((i for i in range(both) if ids[i] != prompt[i]), both)
        if shared == len(ids):
            raise FgvrError(f"the reply {answer!r} is empty in this model's chat template; correct the record")
        return ids, [IGNORE] * shared + ids[shared:]

    def _written_out(self, text: str, image_tokens: int) -> str:
        """The text as the processor hands it to its tokenizer, with one image of `image_tokens` tokens."""
        if self.parts is not None and self.parts.text_expands:
            ids = self.processor(text=[text], add_special_tokens=False).input_ids[0]
            return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        token = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        return text.replace(token, token * image_tokens, 1)

    # --- objects ---

    def pixels(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """The model's image inputs, one image a row."""
        inputs = self.processor.image_processor([[image] for image in images], return_tensors="pt")
        return {key: value.to(self.device) for key, value in inputs.items() if isinstance(value, Tensor)}

    def features(self, pixels: dict[str, Tensor]) -> list[Tensor]:
        """The connector's output: for each image (m, D), m object tokens. Differentiable in the connector, never in
        the tower."""
        with self._frozen_tower():
            found = self.model.get_image_features(**pixels)
        found = getattr(found, "pooler_output", found)
        if isinstance(found, Tensor) and found.ndim == 2:  # images flattened into one run of tokens
            found = found.chunk(len(pixels["pixel_values"]))
        return list(found)

    def _frozen_tower(self) -> _NoGrad:
        return _NoGrad(self.part("tower"))

    def embed(self, ids: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(N, T, D) embeddings of token ids, with row i's image tokens replaced by features[i].

        Raises:
            FgvrError: a row has another number of image tokens than features; some models would shift features into
                the next row.
        """
        image = ids == self.image_token_id
        for row, found in zip(image.sum(1).tolist(), features, strict=True):
            if row != len(found):
                raise FgvrError(
                    f"the prompt has {row} image tokens for {len(found)} features; "
                    "processor and model do not belong together"
                )
        embeds = self.model.get_input_embeddings()(ids)
        return embeds.masked_scatter(image.unsqueeze(-1), torch.cat(list(features)).to(embeds.dtype))

    # --- the three embeddings ---

    def pool_features(self, features: Sequence[Tensor], pool: str = "eos") -> Tensor:
        """Object embeddings (N, D): object tokens + EOS through the language model. Differentiable."""
        eos = self.model.get_input_embeddings()(torch.tensor([self.tokenizer.eos_token_id], device=self.device))
        rows = [torch.cat([feature.to(eos.dtype), eos]) for feature in features]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = (torch.arange(embeds.shape[1], device=self.device)[None, :] < lengths[:, None]).long()
        return self._pool(embeds, mask, pool)

    def pool_texts(self, texts: Sequence[str], pool: str = "eos") -> Tensor:
        """Embeddings (N, D) of descriptions or category names + EOS. Differentiable."""
        ids, mask = self.tokens(texts)
        return self._pool(self.model.get_input_embeddings()(ids), mask, pool)

    def _pool(self, embeds: Tensor, mask: Tensor, pool: str) -> Tensor:
        hidden = self.part("decoder")(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
        rows, end = torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1
        if pool == "eos":
            return hidden[rows, end]
        if pool == "last":
            return hidden[rows, end - 1]
        if pool == "mean":
            inner = mask.clone()
            inner[rows, end] = 0
            return (hidden * inner.unsqueeze(-1)).sum(1) / inner.sum(1, keepdim=True)
        raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")

    @torch.no_grad()
    def objects(self, images: Sequence[Image], pool: str = "eos") -> Tensor:
        """(N, D) float32 on the CPU, not normalised."""
        return self.pool_features(self.features(self.pixels(images)), pool).float().cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str], pool: str = "eos") -> Tensor:
        """(N, D) float32 on the CPU, not normalised."""
        return self.pool_texts(texts, pool).float().cpu()


class _NoGrad:
    """Run one module's forward under no_grad, whatever is around it: nothing of it enters the graph, also not when
    peft hooks its embeddings (which would back-propagate through the frozen tower)."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        forward = self.module.forward

        @functools.wraps(forward)
        def without_grad(*args: Any, **options: Any) -> Any:
            with torch.no_grad():
                return forward(*args, **options)

        self.module.forward = without_grad  # an instance attribute; the class keeps its own

    def __exit__(self, *error: object) -> None:
        del self.module.forward
