"""The model of the benchmarks of `eval`: a random Idefics2 of a few ten million parameters, 64 image tokens an image as
in Idefics2-8B, whose replies begin with an option letter and go on."""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
from PIL import Image

from fgvr.datasets import toy
from fgvr.prompts import multiple_choice
from fgvr.records import Record
from tests import families

SIZE, IMAGE_TOKENS = 224, 64


def save(
    folder: Path, size: int = SIZE, width: int = 512, layers: int = 8, latents: int = IMAGE_TOKENS, **vision: int
) -> Path:
    """The model and its processor, as a folder; for images of `size` pixels, with a language model of `layers` of
    `width`, and with other settings of the tower."""
    import transformers as t

    torch.manual_seed(0)
    tokens = families.tokenizer()
    tokens.add_tokens([f" {letter}" for letter in "ABCD"])  # one token each, as in any large vocabulary
    config = t.Idefics2Config(
        vision_config={"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6,
                       "image_size": size, "patch_size": 14, **vision},
        perceiver_config={"hidden_size": width, "resampler_n_latents": latents, "resampler_depth": 2,
                          "resampler_n_heads": 8, "resampler_head_dim": width // 8, "num_key_value_heads": 4},
        text_config={"model_type": "mistral", **families.text(
            tokens, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, num_attention_heads=8,
            num_key_value_heads=4, head_dim=width // 8)},
        image_token_id=tokens.convert_tokens_to_ids("<image>"), pad_token_id=tokens.pad_token_id,
    )  # fmt: skip
    model = t.Idefics2ForConditionalGeneration(config).eval()
    pixels = t.Idefics2ImageProcessor(size={"longest_edge": size, "shortest_edge": size // 2}, do_image_splitting=False)
    processor = t.Idefics2Processor(pixels, tokens, image_seq_len=latents)
    processor.chat_template = (families.TOY / "chat_template.jinja").read_text()
    text = ["User:<image>Which?<end_of_utterance>\nAssistant:"]
    sample = processor(text=text, images=[[Image.new("RGB", (size, size))]], return_tensors="pt")
    with torch.no_grad():
        hidden = model.model(**sample).last_hidden_state[0, -1]
        letters = tokens.convert_tokens_to_ids([f" {letter}" for letter in "ABCD"])
        all_of_them = hidden / hidden.norm()
        between = torch.randn(4, len(hidden))  # only what tells questions apart decides between the letters
        between -= (between @ all_of_them).outer(all_of_them)
        model.get_output_embeddings().weight[letters] = 30 * all_of_them / hidden.norm() + 0.2 * between
    model.generation_config.eos_token_id = -1  # a reply goes on to its last token
    model.generation_config.pad_token_id = tokens.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def questions(folder: Path, count: int) -> list[Record]:
    """Four-way questions on drawn birds; the images, 640 x 480 JPEG files, lie in `folder`."""
    species = toy.world(24, 3)
    found = []
    for n in range(count):
        one = species[n % len(species)]
        toy.draw(one.attributes, Random(n), 480).resize((640, 480)).save(folder / f"{n}.jpg", quality=90)
        options = [one.name, *Random(n).sample([other.name for other in species if other is not one], 3)]
        Random(n).shuffle(options)
        asked = {"kind": "mcq", "question": "Which of these birds is shown in the image?", "answer": one.name}
        found.append({"id": str(n), "image": f"{n}.jpg", **asked, "options": options})
    return found


def prompt(record: Record) -> str:
    """A question in the model's template, for the contenders that know only transformers."""
    return f"User:<image>{multiple_choice(record['question'], record['options'])}<end_of_utterance>\nAssistant:"
