"""A model of LLaVA's architecture out of a vision tower and a causal language model, with a connector that has learnt
nothing yet (Liu et al., arXiv:2310.03744: two linear layers, GELU between)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from fgvr.errors import FgvrError
from fgvr.models import loading, split_spec

TOWERS = {"clip": "CLIPVisionModel", "clip_vision_model": "CLIPVisionModel",
          "siglip": "SiglipVisionModel", "siglip_vision_model": "SiglipVisionModel"}  # fmt: skip
IMAGE = "<image>"
# what a message's parts become before a language model's own template, which takes texts, sees them
FLAT = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set own = namespace(text=message['content']) -%}{%- else -%}"
    "{%- set own = namespace(text='') -%}{%- for part in message['content'] -%}"
    "{%- set own.text = own.text + ('<image>\\n' if part['type'] == 'image' else part['text']) -%}{%- endfor -%}"
    "{%- endif -%}{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': own.text}] -%}"
    "{%- endfor -%}{%- set messages = flat.messages -%}"
)
# of LLaVA-1.5, where the language model has no template
VICUNA = (
    "{%- for message in messages -%}{{ 'USER: ' + message['content'] + ' ASSISTANT:' if message['role'] == 'user' else "
    "message['content'] + '\\n\\n' if message['role'] == 'system' else ' ' + message['content'] + eos_token }}"
    "{%- endfor -%}"
)


class Assembled:
    """The model and its processor.

    about: of tower and language model, for the run record.
    """

    def __init__(self, vision: str, llm: str, layer: int = -2, seed: int = 0) -> None:
        """Open both parts, in the language model's dtype, on the CPU.

        Args:
            vision: a CLIP or SigLIP model, or its vision tower, as transformers has them.
            layer: which layer's output the connector takes (LLaVA: the last but one).
            seed: of the connector, and of the embeddings of new tokens.
        Raises:
            FgvrError: a part cannot be opened or does not fit; the language model does not say the same inside.
        """
        from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer, LlavaProcessor

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.name, name, revision = llm, *split_spec(llm, {"hf": ""}, "hf")[1:]
            tokenizer = loading.from_pretrained(AutoTokenizer, name, revision)
            speaker: Any = loading.load_model(AutoModelForCausalLM, name, revision, torch.device("cpu"), "auto")
            self.about = [loading.about(name, revision, speaker)]
            _add_image_token(tokenizer, speaker)
            name, revision = split_spec(vision, {"hf": ""}, "hf")[1:]
            tower = _tower(name, revision, speaker.dtype)
            self.about.insert(0, loading.about(name, revision, tower))
            if not -tower.config.num_hidden_layers <= layer <= -1:
                raise FgvrError(f"model {vision}: has {tower.config.num_hidden_layers} layers, none of them {layer}")
            self.model = _joined(llm, tower, speaker, tokenizer, layer)
            pixels = loading.from_pretrained(AutoImageProcessor, name, revision)
        self._same(speaker)
        wrapped = FLAT + (tokenizer.chat_template or VICUNA)
        tokenizer.chat_template = None
        clip = tower.config.model_type == "clip_vision_model"  # its first token is no patch, and is left out
        self.processor = LlavaProcessor(
            pixels, tokenizer, patch_size=tower.config.patch_size, chat_template=wrapped, image_token=IMAGE,
            vision_feature_select_strategy="default" if clip else "full", num_additional_image_tokens=int(clip),
        )  # fmt: skip

    @torch.inference_mode()
    def _same(self, speaker: Any) -> None:
        """Raise FgvrError unless the model says to a text what the language model says to it."""
        ids = torch.arange(1, 9)[None] % (self.model.config.text_config.vocab_size - 1)
        inside, alone = self.model(input_ids=ids).logits, speaker(input_ids=ids).logits
        if not torch.allclose(inside.float(), alone.float(), atol=1e-3, rtol=1e-3):
            raise FgvrError(
                f"model {self.name}: changes its logits in a way that LLaVA's architecture does not have; name another"
            )

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _add_image_token(tokenizer: Any, speaker: Any) -> None:
    if tokenizer.convert_tokens_to_ids(IMAGE) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"additional_special_tokens": [*tokenizer.all_special_tokens, IMAGE]})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) > speaker.get_input_embeddings().num_embeddings:
        speaker.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def _tower(name: str, revision: str | None, dtype: torch.dtype) -> Any:
    import transformers

    kind = loading.from_pretrained(transformers.AutoConfig, name, revision).model_type
    if kind not in TOWERS:
        raise FgvrError(f"model {name}: type {kind!r} is no CLIP or SigLIP of transformers; name another --vision")
    return loading.load_model(getattr(transformers, TOWERS[kind]), name, revision, torch.device("cpu")).to(dtype)


def _joined(llm: str, tower: Any, speaker: Any, tokenizer: Any, layer: int) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    clip, head = tower.config.model_type == "clip_vision_model", speaker.get_output_embeddings()
    config = LlavaConfig(
        vision_config=tower.config, text_config=speaker.config, vision_feature_layer=layer,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE), projector_hidden_act="gelu",
        vision_feature_select_strategy="default" if clip else "full",
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2, dtype=speaker.dtype,
        tie_word_embeddings=bool(speaker.config.tie_word_embeddings),
    )  # fmt: skip
    with torch.device("meta"):  # the large parts are there already
        model = LlavaForConditionalGeneration(config)
    if type(model.model.language_model) is not type(speaker.base_model) or getattr(head, "bias", None) is not None:
        raise FgvrError(f"model {llm}: {type(speaker).__name__} cannot stand in LLaVA's architecture; name another")
    model.model.vision_tower, model.model.language_model, model.lm_head = tower, speaker.base_model, head
    model.model.multi_modal_projector = type(model.model.multi_modal_projector)(config).to(speaker.dtype)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = copy.deepcopy(speaker.generation_config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()
