"""Encoders taken apart for streaming (prepare an image, encode a batch), and transformers' CLIP, SigLIP and DINOv2."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fgvr.errors import FgvrError, UsageError
from fgvr.models import loading
from fgvr.topk import fast_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

DTYPES = ("auto", "float32", "bfloat16")
WORTH = 10_000_000  # weights from which on "auto" takes half precision: less gains nothing
DRAFT = 2  # a JPEG is decoded at a reduced scale as long as both sides keep this many times the model's


@dataclass
class Parts:
    """An encoder in two steps, so that images are prepared in threads while others are encoded.

    Args:
        prepare: an RGB image -> what `encode` takes, in any thread.
        encode: a list of these -> (N, D) float32 on the CPU, rows of length 1.
        about: names model, dtype and preprocessing: equal `about`, equal features.
        size: least width and height in pixels that a JPEG may be decoded at; None: always decode all.
        batch: images at once that suit the device.
    """

    prepare: Callable[[Image], Any]
    encode: Callable[[list[Any]], Tensor]
    about: dict[str, Any]
    size: int | None = None
    batch: int = 32


def parts(encoder: Any, dtype: str = "auto") -> Parts:
    """Take an open encoder apart, its weights as `dtype`: "auto" is bfloat16 where the hardware multiplies it fast and
    the model is large enough to gain from it, else float32. (Not autocast: on a CPU it is slower than float32.)

    Raises:
        UsageError: another dtype is asked of an encoder without weights of its own.
    """
    if not hasattr(encoder, "model"):
        if dtype == "bfloat16":
            raise UsageError("--dtype bfloat16: this encoder has no weights to convert; leave it out")
        return Parts(lambda image: image, encoder.images, {"model": encoder.about})
    device = next(encoder.model.parameters()).device
    chosen = pick_dtype(dtype, encoder.model, device)
    encoder.model.to(chosen)
    encoder.about = {**encoder.about, "dtype": str(chosen).removeprefix("torch.")}
    size, words = encoder_size(encoder), re.sub(r" at 0x[0-9a-f]+", "", str(encoder.preprocess))
    forward = getattr(encoder, "forward", None) or encoder.model.encode_image

    @torch.inference_mode()
    def encode(pixels: list[Tensor]) -> Tensor:
        return F.normalize(forward(torch.stack(pixels).to(device, chosen)).float(), dim=-1).cpu()

    about = {"model": encoder.about, "preprocessing": words, "draft": DRAFT}
    return Parts(encoder.preprocess, encode, about, size and DRAFT * size, 32 if device.type == "cpu" else 256)


def pick_dtype(name: str, model: torch.nn.Module, device: torch.device) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    if sum(weight.numel() for weight in model.parameters()) < WORTH:
        return torch.float32
    return fast_dtype() if device.type == "cpu" else torch.bfloat16


def encoder_size(encoder: Any) -> int | None:
    """The larger side in pixels of what the model sees."""
    size = getattr(encoder, "size", None) or getattr(getattr(encoder.model, "visual", None), "image_size", None)
    return max(size) if isinstance(size, (tuple, list)) else size


def open_encoder(name: str, revision: str | None = None, device: str = "auto") -> TransformersEncoder:
    """Open a transformers encoder: CLIP, SigLIP (images and texts), DINOv2 and their likes (images).

    Raises:
        FgvrError: it cannot be opened, or takes no plain images.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = loading.load_model(AutoModel, name, revision, loading.pick_device(device))
    processor = loading.from_pretrained(AutoImageProcessor, name, revision)
    texts = hasattr(model, "get_text_features")
    tokenizer = loading.from_pretrained(AutoTokenizer, name, revision) if texts else None
    return TransformersEncoder(model, processor, tokenizer, loading.about(name, revision, model))


class TransformersEncoder:
    """A transformers model as an Encoder (fgvr.models.base).

    Features of an image: the model's projected ones (CLIP, SigLIP), else its pooled output (DINOv2: the class token).
    """

    def __init__(self, model: Any, processor: Any, tokenizer: Any, about: dict[str, Any]) -> None:
        self.model, self.processor, self.tokenizer, self.about = model, processor, tokenizer, about
        vision = getattr(model.config, "vision_config", model.config)
        crop = getattr(processor, "crop_size", None) or getattr(processor, "size", None) or {}
        sides = [crop.get(side) for side in ("height", "width", "shortest_edge")] if hasattr(crop, "get") else []
        self.size = max([side for side in sides if side] or [getattr(vision, "image_size", 0)]) or None

    def preprocess(self, image: Image) -> Tensor:
        pixels = self.processor(image, return_tensors="pt")["pixel_values"]
        if pixels.ndim != 4 or len(pixels) != 1:
            raise FgvrError(f"model {self.about['name']}: its processor makes no single image; use another encoder")
        return pixels[0]

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D)."""
        if hasattr(self.model, "get_image_features"):
            return _pooled(self.model.get_image_features(pixel_values=pixels))
        return _pooled(self.model(pixel_values=pixels))

    @torch.inference_mode()
    def images(self, images: Sequence[Image]) -> Tensor:
        pixels = torch.stack([self.preprocess(image) for image in images])
        return F.normalize(self.forward(pixels.to(self.model.device, self.model.dtype)).float(), dim=-1).cpu()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        if self.tokenizer is None:
            raise FgvrError(f"model {self.about['name']} reads no texts; use --by image, or a CLIP model")
        config = getattr(self.model.config, "text_config", self.model.config)
        # SigLIP has seen texts padded to their full length only
        padding = "max_length" if "siglip" in self.model.config.model_type else True
        longest = config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=longest, return_tensors="pt"
        )
        given = {key: value.to(self.model.device) for key, value in tokens.items() if key != "token_type_ids"}
        if padding == "max_length":
            given.pop("attention_mask", None)
        return F.normalize(_pooled(self.model.get_text_features(**given)).float(), dim=-1).cpu()


def _pooled(output: Any) -> Tensor:
    """The (N, D) features in what a model returns."""
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    return output.last_hidden_state[:, 0] if pooled is None else pooled
