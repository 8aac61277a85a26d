"""24 questions on one image, greedy: fgvr's shared prefix against transformers' own batched `generate`, which gets the
image with every question. A random mid-sized LLaVA of the real classes: 256 image tokens, 8 layers of width 512."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image

from fgvr import prompts
from fgvr.models import shared_prefix
from fgvr.models.base import Ask
from fgvr.models.hf import VlmAnswerer
from fgvr.models.vlm import Vlm
from tests.bench.harness import Benchmark
from tests.procs import ROOT

NEW = 5  # tokens a reply; attribute answers are a few words long
PARTS = ("bill", "wing", "breast", "back", "tail", "head", "throat", "eye", "nape", "belly", "leg", "crown")
QUESTIONS = [prompts.attribute_question(f"{part} {what}", "bird") for part in PARTS for what in ("shape", "colour")]
TEXT = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 8, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
TURNS = (
    "{% for m in messages %}{% for c in m['content'] %}{{ '<image>\n' if c['type'] == 'image' else c['text'] }}"
    "{% endfor %}{% endfor %} ASSISTANT:"
)


def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "examples" / "toy" / "vlm")


def llava(text: Mapping[str, int] = TEXT, size: int = 224, patch: int = 14) -> Vlm:
    """A random LLaVA with (size / patch)² image tokens."""
    import transformers as t

    tokens, width = tokenizer(), text["hidden_size"] // 2
    vision = t.CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=max(2, text["num_hidden_layers"] - 2),
        num_attention_heads=4, image_size=size, patch_size=patch,
    )  # fmt: skip
    config = t.LlavaConfig(
        vision_config=vision,
        text_config=t.LlamaConfig(vocab_size=len(tokens), **text),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )
    pixels = t.CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    processor = t.LlavaProcessor(
        pixels, tokens, patch_size=patch, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=TURNS,
    )  # fmt: skip
    return opened(lambda: t.LlavaForConditionalGeneration(config), processor)


def idefics2(text: Mapping[str, int] = TEXT, size: int = 378, patch: int = 14, latents: int = 64) -> Vlm:
    """A random Idefics2 with (size / patch)² patches."""
    import transformers as t

    tokens, width = tokenizer(), text["hidden_size"]
    config = t.Idefics2Config(
        vision_config={
            "hidden_size": width // 2, "intermediate_size": 2 * width, "num_attention_heads": 4, "image_size": size,
            "num_hidden_layers": max(2, text["num_hidden_layers"] - 2), "patch_size": patch,
        },
        perceiver_config={
            "hidden_size": width, "resampler_n_latents": latents, "resampler_depth": 3, "resampler_n_heads": 8,
            "resampler_head_dim": width // 8, "num_key_value_heads": 4,
        },
        text_config={"model_type": "mistral", "vocab_size": len(tokens), **text},
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=3,
    )  # fmt: skip
    sizes = {"longest_edge": size, "shortest_edge": size}
    pixels = t.Idefics2ImageProcessor(size=sizes, do_image_splitting=False)
    processor = t.Idefics2Processor(pixels, tokens, image_seq_len=latents, chat_template=TURNS)
    return opened(lambda: t.Idefics2ForConditionalGeneration(config), processor)


def opened(make: Callable[[], Any], processor: Any) -> Vlm:
    """The model with weights drawn so large that its replies depend on image and question."""
    torch.manual_seed(5)
    model = make().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "norm" not in name:
                weight.normal_(0, 1.0 if "embed_tokens" in name else 1.7 / weight[0].numel() ** 0.5)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 3, 2
    return Vlm(model, processor, {"name": "bench"})


class Case:
    """One model, one image, all questions."""

    def __init__(self, make: Callable[[], Vlm]) -> None:
        self.vlm = make()
        self.answerer = VlmAnswerer(self.vlm)
        noise = torch.randint(256, (300, 400, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        self.image = Image.fromarray(noise.numpy())
        self.prompts = [self.vlm.chat([(question, None)], True) for question in QUESTIONS]

    def repeated(self) -> list[str]:
        """As transformers' documentation does it."""
        images = [[self.image] for _ in self.prompts]
        inputs = self.vlm.processor(text=self.prompts, images=images, padding=True, return_tensors="pt")
        with torch.inference_mode():
            ids = self.vlm.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        told = self.vlm.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in told]

    def shared(self) -> list[str]:
        return self.answerer.reply([Ask(question, self.image) for question in QUESTIONS], NEW)

    def floor(self) -> tuple[int, int]:
        """The least work: the image and all different tokens once, in one pass, then a step of 24 tokens for each
        further token of the replies, which see nothing before them. Returns tokens and steps."""
        from transformers import DynamicCache

        plan = shared_prefix.planned(self.vlm, self.prompts, list(range(len(self.prompts))))
        assert plan is not None
        inputs = dict(self.vlm.processor(text=self.prompts[:1], images=[[self.image]], return_tensors="pt"))
        own = torch.tensor([token for rest in plan.rests for token in rest])
        inputs["input_ids"] = torch.cat([inputs["input_ids"][0, : -plan.cut], own])[None]
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        cache, step = DynamicCache(), torch.full((len(QUESTIONS), 1), 7)
        with torch.inference_mode():
            self.vlm.model(**inputs, use_cache=True, logits_to_keep=len(QUESTIONS))
            for _ in range(NEW - 1):
                self.vlm.model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return inputs["input_ids"].shape[1], NEW - 1

    def tokens(self) -> tuple[int, int]:
        """Of the image repeated with every question, and of what is different; replies included."""
        inputs = self.vlm.processor(text=self.prompts, images=[[self.image]] * len(self.prompts), padding=True)
        repeated = sum(map(sum, inputs["attention_mask"])) + len(QUESTIONS) * NEW
        return repeated, self.floor()[0] + len(QUESTIONS) * NEW


@functools.cache
def case(make: Callable[[], Vlm]) -> Case:
    return Case(make)


def same(baseline: list[str], ours: list[str]) -> None:
    assert len(set(ours)) > len(ours) // 3, "the model does not tell questions apart"
    assert baseline == ours, f"{sum(a != b for a, b in zip(baseline, ours, strict=True))} replies differ"


def against_repeated(make: Callable[[], Vlm]) -> Benchmark:
    made = case(make)
    return Benchmark(("transformers generate", made.repeated), ("shared prefix", made.shared), same, 5)


def against_floor(make: Callable[[], Vlm]) -> Benchmark:
    """The ratio is floor / ours: 1 / 1.6 is the bar."""
    made = case(make)

    def enough(floor: tuple[int, int], ours: list[str]) -> None:
        assert floor[1] == NEW - 1 and len(ours) == len(QUESTIONS), "other work"

    return Benchmark(("least work", made.floor), ("shared prefix", made.shared), enough, 1 / 1.6)


def benchmark() -> Benchmark:
    return against_repeated(llava)
