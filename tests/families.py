"""Tiny random models of the real classes of every family in fgvr.models.families, saved as a user's would be.

They speak the embedded tokenizer; `tokenizer=` puts a real one in its place. Weights are drawn large enough that
answers depend on image and question.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIZE, PATCH = 32, 8  # pixels
TOY = Path(__file__).parents[1] / "examples" / "toy" / "vlm"
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"size": {"height": SIZE, "width": SIZE}}
TURNS = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}"
    "{{ MARK if c['type'] == 'image' else c['text'] }}{% endfor %}{{ ' ' if m['role'] == 'user' else '</s>' }}"
    "{% endfor %}{{ 'ASSISTANT: ' if add_generation_prompt else '' }}"
)


def tokenizer(*special: str, **named: str) -> Any:
    """The embedded tokenizer with more special tokens; `named` ones become attributes."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(TOY, **({"extra_special_tokens": named} if named else {}))
    made.add_special_tokens({"additional_special_tokens": [*special, *named.values()]})
    return made


def text(tokens: Any, **more: Any) -> dict[str, Any]:
    """The settings of a language model."""
    return {
        "vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id, "max_position_embeddings": 4096,
        **more,
    }  # fmt: skip


def build(kind: str, folder: Path, tokens: Any = None, template: str | None = None, templated: bool = True) -> Path:
    """Save a model of a model_type and its processor in `folder`.

    Args:
        tokens: a real tokenizer in place of the embedded one.
        template: a real chat template.
        templated: False leaves the folder without one.
    """
    torch.manual_seed(3)
    model, processor, mark = globals()["_" + kind.replace("-", "_")](tokens)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "norm" not in name:
                weight.normal_(0, 1.4 / weight[0].numel() ** 0.5)
            elif "query_tokens" in name:
                weight.normal_()
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.tokenizer.chat_template = None
    processor.chat_template = (template or TURNS.replace("MARK", repr(mark))) if templated and mark else None
    processor.save_pretrained(folder)
    return folder


def _idefics2(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer()
    config = t.Idefics2Config(
        vision_config={**VISION, "image_size": SIZE, "patch_size": PATCH},
        perceiver_config={
            "hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2,
            "resampler_head_dim": 16, "num_key_value_heads": 1,
        },
        text_config={"model_type": "mistral", **text(tokens)},
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=tokens.pad_token_id,
    )  # fmt: skip
    pixels = t.Idefics2ImageProcessor(size={"longest_edge": SIZE, "shortest_edge": SIZE // 2}, do_image_splitting=False)
    return t.Idefics2ForConditionalGeneration(config), t.Idefics2Processor(pixels, tokens, image_seq_len=4), "<image>"


GRID = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]


def _idefics3_config(cls: Any, tokens: Any) -> Any:
    return cls(
        vision_config={**VISION, "image_size": SIZE, "patch_size": PATCH},
        text_config={"model_type": "llama", **text(tokens)},
        scale_factor=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=tokens.pad_token_id,
    )


def _idefics3(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer("<global-img>", *GRID)
    pixels = t.Idefics3ImageProcessor(size={"longest_edge": 2 * SIZE}, max_image_size={"longest_edge": SIZE})
    model = t.Idefics3ForConditionalGeneration(_idefics3_config(t.Idefics3Config, tokens))
    return model, t.Idefics3Processor(pixels, tokens, image_seq_len=4), "<image>"


def _smolvlm(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer("<global-img>", *GRID)
    sizes = {"size": {"longest_edge": 2 * SIZE}, "max_image_size": {"longest_edge": SIZE}}
    processor = t.SmolVLMProcessor(
        t.SmolVLMImageProcessor(**sizes), tokens, t.SmolVLMVideoProcessor(**sizes), image_seq_len=4
    )
    return t.SmolVLMForConditionalGeneration(_idefics3_config(t.SmolVLMConfig, tokens)), processor, "<image>"


def _clip_and_llama(config: Any, tokens: Any, **more: Any) -> Any:
    return config(
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": SIZE, "patch_size": PATCH},
        text_config={"model_type": "llama", **text(tokens)},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        **more,
    )


def _llava(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer()
    processor = t.LlavaProcessor(
        t.CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
        tokens, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(_clip_and_llama(t.LlavaConfig, tokens)), processor, "<image>\n"


def _llava_next(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer()
    points = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE]]
    pixels = t.LlavaNextImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=points
    )
    processor = t.LlavaNextProcessor(
        pixels, tokens, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    config = _clip_and_llama(t.LlavaNextConfig, tokens, image_grid_pinpoints=points)
    return t.LlavaNextForConditionalGeneration(config), processor, "<image>\n"


def _llava_onevision(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer("<video>")
    points = [[SIZE, SIZE], [SIZE, 2 * SIZE], [2 * SIZE, SIZE]]
    config = t.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": SIZE, "patch_size": PATCH,
                       "vision_use_head": False},
        text_config={"model_type": "qwen2", **text(tokens)},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=points,
    )  # fmt: skip
    processor = t.LlavaOnevisionProcessor(
        t.LlavaOnevisionImageProcessor(**SQUARE, image_grid_pinpoints=points), tokens,
        t.LlavaOnevisionVideoProcessor(**SQUARE), num_image_tokens=(SIZE // PATCH) ** 2,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    return t.LlavaOnevisionForConditionalGeneration(config), processor, "<image>\n"


SEEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def _qwen(name: str, kind: str, tokens: Any, vision: dict[str, Any], **more: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer(*SEEN)
    start, end, image, video = tokens.convert_tokens_to_ids(list(SEEN))
    config = getattr(t, f"{name}Config")(
        vision_config={"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2,
                       "temporal_patch_size": 2, **vision},
        text_config=text(tokens, num_hidden_layers=3, rope_parameters={"rope_type": "default", "rope_theta": 10000.0,
                                                  "mrope_section": [2, 1, 1], **more}),
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    limits = {"size": {"shortest_edge": 16**2, "longest_edge": 64**2}}
    videos = t.Qwen3VLVideoProcessor(**sizes) if kind == "Qwen3VL" else t.Qwen2VLVideoProcessor(**sizes)
    pixels = t.Qwen2VLImageProcessor(**sizes, **limits)
    processor = getattr(t, f"{kind}Processor")(pixels, tokens, videos)
    return getattr(t, f"{name}ForConditionalGeneration")(config), processor, f"{SEEN[0]}{SEEN[2]}{SEEN[1]}"


def _qwen2_vl(tokens: Any) -> Any:
    return _qwen("Qwen2VL", "Qwen2VL", tokens, {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2})


def _qwen2_5_vl(tokens: Any) -> Any:
    vision = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "window_size": 32,
              "fullatt_block_indexes": [1]}  # fmt: skip
    return _qwen("Qwen2_5_VL", "Qwen2_5_VL", tokens, vision)


def _qwen3_vl(tokens: Any) -> Any:
    vision = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "num_position_embeddings": 64,
              "deepstack_visual_indexes": [0, 1]}  # fmt: skip
    return _qwen("Qwen3VL", "Qwen3VL", tokens, vision, mrope_interleaved=True)


def _paligemma(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer()
    pixels = t.SiglipImageProcessor(**SQUARE)
    pixels.image_seq_length = (SIZE // PATCH) ** 2
    processor = t.PaliGemmaProcessor(pixels, tokens)  # adds its own tokens
    config = t.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": SIZE, "patch_size": PATCH,
                       "vision_use_head": False, "projection_dim": 32},
        text_config={"model_type": "gemma", **text(tokens)},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        projection_dim=32, hidden_size=32,
    )  # fmt: skip
    return t.PaliGemmaForConditionalGeneration(config), processor, ""


def _internvl(tokens: Any) -> Any:
    import transformers as t

    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    tokens = tokens or tokenizer(**named)
    config = t.InternVLConfig(
        vision_config={**VISION, "image_size": [SIZE, SIZE], "patch_size": [PATCH, PATCH]},
        text_config={"model_type": "qwen2", **text(tokens)},
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
    )
    pixels = t.GotOcr2ImageProcessor(**SQUARE, crop_to_patches=True, max_patches=4)
    processor = t.InternVLProcessor(pixels, tokens, t.InternVLVideoProcessor(**SQUARE), image_seq_length=4)
    return t.InternVLForConditionalGeneration(config), processor, "<IMG_CONTEXT>\n"


def _blip(cls: str, qformer: str, language: dict[str, Any], tokens: Any) -> Any:
    import transformers as t

    return getattr(t, f"{cls}Config")(
        vision_config={**VISION, "image_size": SIZE, "patch_size": PATCH},
        qformer_config={"model_type": qformer, **VISION, "encoder_hidden_size": 32, "vocab_size": 64},
        text_config=language,
        num_query_tokens=4,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )


def _blip_2(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer()
    language = {"model_type": "opt", **text(tokens, ffn_dim=48, word_embed_proj_dim=32)}
    model = t.Blip2ForConditionalGeneration(_blip("Blip2", "blip_2_qformer", language, tokens))
    return model, t.Blip2Processor(t.BlipImageProcessor(**SQUARE), tokens, num_query_tokens=4), ""


def _blip_2_t5(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer()
    language = {
        "model_type": "t5", "vocab_size": len(tokens), "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
        "num_heads": 4, "pad_token_id": tokens.pad_token_id, "eos_token_id": tokens.eos_token_id,
        "decoder_start_token_id": tokens.pad_token_id,
    }  # fmt: skip
    model = t.Blip2ForConditionalGeneration(_blip("Blip2", "blip_2_qformer", language, tokens))
    return model, t.Blip2Processor(t.BlipImageProcessor(**SQUARE), tokens, num_query_tokens=4), ""


def _instructblip(tokens: Any) -> Any:
    import transformers as t

    tokens = tokens or tokenizer()
    language = {"model_type": "llama", **text(tokens)}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "aeions")]
    asks = t.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    model = t.InstructBlipForConditionalGeneration(_blip("InstructBlip", "instructblip_qformer", language, tokens))
    return model, t.InstructBlipProcessor(t.BlipImageProcessor(**SQUARE), tokens, asks, num_query_tokens=4), ""
