"""CLIP encoders by open_clip: a local folder, or clip:ARCHITECTURE/PRETRAINED (clip:ViT-L-14/laion2b_s32b_b82k)."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from fgvr import provenance
from fgvr.errors import FgvrError, UsageError
from fgvr.models import loading
from fgvr.models.base import Answerer, Ask

if TYPE_CHECKING:
    from PIL.Image import Image


def open_encoder(name: str, revision: str | None = None, device: str = "auto") -> ClipEncoder:
    """Open an open_clip model.

    Args:
        name: a folder with open_clip_config.json and safetensors, "hf-hub:org/name", or "ARCHITECTURE/PRETRAINED".
    Raises:
        FgvrError: it cannot be opened, or has no weights (open_clip itself would go on with random ones).
        UsageError: the name is none of these, or has a revision, which open_clip cannot load.
    """
    import open_clip

    if revision is not None:
        raise UsageError(f"model clip:{name}@{revision}: open_clip loads no revisions; download it and name the folder")
    architecture, pretrained = _resolve(name)
    if not os.path.isdir(name):
        loading.no_network()
    logging.disable(logging.ERROR)  # it logs what it raises, too
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            architecture,
            pretrained=pretrained,
            device=loading.pick_device(device),
            require_pretrained=True,
            pretrained_text=False,
            weights_only=True,
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
        raise loading.unopened(name, error, "clip:") from error
    finally:
        logging.disable(logging.NOTSET)
    about = {**_about(name), "dtype": "float32"}
    return ClipEncoder(model.eval(), preprocess, tokenizer, about)


def open_answerer(
    name: str, revision: str | None = None, device: str = "auto", adapter: str | None = None, template: str = "{}"
) -> Answerer:
    """Open a model as `open_encoder` does, for zero-shot choice. Raises UsageError for an adapter."""
    if adapter is not None:
        raise UsageError(f"model clip:{name}: --adapter is for vision-language models; leave it out")
    return ClipAnswerer(open_encoder(name, revision, device), template.split("|"))


def _resolve(name: str) -> tuple[str, str | None]:
    """open_clip's own (model name, pretrained tag)."""
    if os.path.isdir(name):
        loading.check_folder(name, "open_clip_config.json")
        return f"local-dir:{name}", None
    if name.startswith("hf-hub:"):
        return name, None
    architecture, slash, pretrained = name.partition("/")
    if not slash:
        raise UsageError(
            f"model clip:{name}: name ARCHITECTURE/PRETRAINED, as in clip:ViT-L-14/laion2b_s32b_b82k, or a folder"
        )
    import open_clip

    if architecture not in (known := open_clip.list_models()):  # open_clip's own line lists them all
        near = ", ".join(difflib.get_close_matches(architecture, known, 3))
        raise UsageError(f"model clip:{name}: open_clip knows no {architecture!r}; did you mean {near or 'a folder'}?")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained not in tags and not os.path.isfile(pretrained):
        raise UsageError(
            f"model clip:{name}: {architecture} has no weights {pretrained!r}; there are {', '.join(tags) or 'none'}"
        )
    return architecture, pretrained


def _about(name: str) -> dict[str, Any]:
    return dict(provenance.describe(name)) if os.path.isdir(name) else {"name": f"clip:{name}", "revision": None}


class ClipEncoder:
    """Images and texts as rows of length 1 in CLIP's space, float32 on the CPU."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any, about: dict[str, Any]) -> None:
        self.model, self.preprocess, self.tokenizer, self.about = model, preprocess, tokenizer, about
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def images(self, images: Sequence[Image]) -> Tensor:
        pixels = torch.stack([self.preprocess(image) for image in images]).to(self.device)
        return F.normalize(self.model.encode_image(pixels).float(), dim=-1).cpu()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.model.encode_text(self.tokenizer(list(texts)).to(self.device)).float(), dim=-1).cpu()


class ClipAnswerer:
    """Zero-shot choice: names compete by the similarity of their texts to the image; the question plays no part.

    A name's text is the mean of its embeddings in all templates (Radford et al., arXiv:2103.00020, section 3.1.4).
    """

    def __init__(self, encoder: ClipEncoder, templates: Sequence[str]) -> None:
        self.encoder, self.templates = encoder, [template.strip() for template in templates]
        self.about = encoder.about
        self._known: dict[str, Tensor] = {}

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        raise FgvrError(f"model {self.about['name']}: CLIP writes no replies; use --scoring option or label on choices")

    def likelihood(self, asks: Sequence[Ask], replies: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        """Each name's logit: cosine times the model's own scale. (Its softmax over names is their probability.)"""
        unique = {id(ask.image): ask.image for ask in asks if ask.image is not None}
        if any(ask.image is None for ask in asks):
            raise FgvrError(f"model {self.about['name']}: CLIP compares images; every question needs one")
        seen = dict(zip(unique, self.encoder.images(list(unique.values())), strict=True))
        scale = self.encoder.model.logit_scale.exp().item()
        return [
            [(value, 1) for value in (scale * (self._named(names) @ seen[id(ask.image)])).tolist()]
            for ask, names in zip(asks, replies, strict=True)
        ]

    def _named(self, names: Sequence[str]) -> Tensor:
        """(C, D) rows of length 1; each name is encoded once."""
        new = [name for name in dict.fromkeys(names) if name not in self._known]
        for start in range(0, len(new), 256):
            part = new[start : start + 256]
            rows = self.encoder.texts([template.replace("{}", name) for name in part for template in self.templates])
            means = rows.view(len(part), len(self.templates), -1).mean(1)
            self._known.update(zip(part, F.normalize(means, dim=-1), strict=True))
        return torch.stack([self._known[name] for name in names])
