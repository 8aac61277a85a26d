"""CLIP encoders by open_clip: a local folder, or clip:ARCHITECTURE/PRETRAINED (clip:ViT-L-14/laion2b_s32b_b82k)."""

from __future__ import annotations

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
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLogger().level))
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
        raise FgvrError(f"model clip:{name}: {loading.first_line(error)}; check the folder or the name") from error
    about = {**_about(name), "dtype": "float32"}
    return ClipEncoder(model.eval(), preprocess, tokenizer, about)


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
