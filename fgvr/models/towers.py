"""Which CLIP a vision-language model's vision encoder is, read from the model's config: `clip-of:MODEL` opens it, for
zero-shot choice beside the model itself. A family that went on training its encoder is mapped to the CLIP that it
started from."""

from __future__ import annotations

from typing import Any

from fgvr.errors import FgvrError
from fgvr.models import loading, split_spec
from fgvr.models.base import Answerer

# (kind, width, patch size, image size; 0: any other) -> open_clip's name
KNOWN = {
    ("clip", 768, 32, 224): "ViT-B-32/openai",
    ("clip", 768, 16, 224): "ViT-B-16/openai",
    ("clip", 1024, 14, 224): "ViT-L-14/openai",
    ("clip", 1024, 14, 336): "ViT-L-14-336/openai",
    ("siglip", 768, 16, 224): "ViT-B-16-SigLIP/webli",
    ("siglip", 768, 16, 384): "ViT-B-16-SigLIP-384/webli",
    ("siglip", 768, 16, 512): "ViT-B-16-SigLIP-512/webli",
    ("siglip", 1152, 14, 224): "ViT-SO400M-14-SigLIP/webli",
    ("siglip", 1152, 14, 0): "ViT-SO400M-14-SigLIP-384/webli",  # Idefics2 980, Idefics3 364, PaliGemma 448 pixels
    ("dfn", 1280, 14, 0): "ViT-H-14-378-quickgelu/dfn5b",
}
KINDS = {"clip": "clip", "siglip": "siglip", "idefics2": "siglip", "idefics3": "siglip", "smolvlm": "siglip",
         "qwen2_vl": "dfn"}  # fmt: skip  # beginnings of a vision config's model_type


def clip_of(name: str, config: Any) -> str:
    """open_clip's name of a model's vision encoder. Raises FgvrError where it is not known."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        raise FgvrError(f"model {name}: has no vision encoder; name a vision-language model")
    kind = next((KINDS[known] for known in KINDS if vision.model_type.startswith(known)), vision.model_type)
    width = getattr(vision, "embed_dim", None) or vision.hidden_size  # Qwen2-VL's hidden_size is the language model's
    size = getattr(vision, "image_size", 0)
    patch, size = (x if isinstance(x, int) else x[0] for x in (vision.patch_size, size))
    found = KNOWN.get((kind, width, patch, size)) or KNOWN.get((kind, width, patch, 0))
    if found is None:
        raise FgvrError(
            f"model {name}: the CLIP of its vision encoder ({kind}, width {width}, patches of {patch}, images of "
            f"{size} pixels) is not known; name it with --model clip:… (make study: ENCODER_OF)"
        )
    return found


def open_answerer(name: str, revision: str | None = None, **options: Any) -> Answerer:
    """The CLIP of a model's vision encoder (fgvr.models.clip). Raises FgvrError."""
    from transformers import AutoConfig

    from fgvr.models import clip

    _, place, _ = split_spec(name, {"hf": ""}, "hf") if ":" in name else ("hf", name, None)
    loading.quiet()
    return clip.open_answerer(clip_of(name, loading.from_pretrained(AutoConfig, place, revision)), **options)
