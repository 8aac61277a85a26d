"""What `make grid` puts together in the toy world: `python examples/toy/parts.py FOLDER large small full early`.

large  the language model of examples/toy/vlm by itself.
small  its first two layers, trained on for a few steps on the recipe's texts.
full   the vision tower of examples/toy/vlm as a SigLIP tower.
early  its first two layers.
`python examples/toy/parts.py - describe < images.jsonl` adds a `description` of the true attributes; `… - attributes`
writes a question about one attribute of each image instead, its four values as options: general ability, here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
CHAT = (
    "{% for message in messages %}{{ message['role'].capitalize() + ': ' + message['content'] }}<end_of_utterance>\n"
    "{% endfor %}{{ 'Assistant:' if add_generation_prompt else '' }}"
)
STEPS, RATE = 250, 2e-3


def toy() -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(HERE / "vlm", dtype=torch.float32)


def write_language_model(folder: Path, layers: int) -> None:
    """The first layers of the toy's language model, with tokenizer and format; trained on where some are missing."""
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    vlm = toy()
    kept = vlm.config.text_config
    settings = {**kept.to_dict(), "num_hidden_layers": layers}
    model = MistralForCausalLM(MistralConfig(**{k: v for k, v in settings.items() if k not in ("model_type", "dtype")}))
    wanted = model.model.state_dict()
    model.model.load_state_dict({k: v for k, v in vlm.model.text_model.state_dict().items() if k in wanted})
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(HERE / "vlm")
    if layers < kept.num_hidden_layers:
        train(model, tokenizer)
    model.generation_config = vlm.generation_config
    model.save_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def train(model: Any, tokenizer: Any) -> None:
    """Copying, summaries, lists and choices, in the recipe's words."""
    import torch
    from torch.nn.functional import cross_entropy

    sys.path.insert(0, str(HERE))
    import recipe

    torch.manual_seed(0)
    speaker, rng = recipe.Speaker(tokenizer), Random("small")
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS, pct_start=0.1)
    for step in range(1, STEPS + 1):
        talks = [speaker(recipe.text_turns(rng), False, rng) for _ in range(8)] + [recipe.echo(rng) for _ in range(8)]
        ids, labels, mask = recipe.padded(talks, 3)
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        recipe.advance(loss, model, optimiser, schedule)
        if step % 50 == 0:
            print(f"small step {step} loss {loss:.4f}", flush=True)


def write_tower(folder: Path, layers: int) -> None:
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    vlm = toy()
    kept, tower = vlm.config.vision_config, vlm.model.vision_model
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size", "hidden_act")
    same = {name: getattr(kept, name) for name in (*names, "layer_norm_eps")}
    model = SiglipVisionModel(SiglipVisionConfig(**same, num_hidden_layers=layers, vision_use_head=False))
    inner = getattr(model, "vision_model", model)
    inner.load_state_dict({k: v for k, v in tower.state_dict().items() if k in inner.state_dict()})
    model.save_pretrained(folder)
    size = {"height": kept.image_size, "width": kept.image_size}
    SiglipImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


def described(record: dict[str, Any]) -> dict[str, Any]:
    from fgvr.datasets import toy as world

    return {**record, "description": world.caption(record["attributes_true"])}


def asked(record: dict[str, Any]) -> dict[str, Any]:
    from fgvr import prompts, rng
    from fgvr.datasets import toy as world

    draw = rng.for_record(0, record["id"], "attribute")
    key = draw.choice(sorted(world.ATTRIBUTES))
    options = draw.sample(world.ATTRIBUTES[key], len(world.ATTRIBUTES[key]))
    answer = record["attributes_true"][key]
    own = {"id": f"{record['id']}/{key}", "kind": "mcq", "options": options, "answer": answer, "category": answer}
    question = prompts.attribute_question(key, record["superclass"])
    return {**record, **own, "question": question, "answer_index": options.index(answer)}


MAKERS = {
    "large": lambda folder: write_language_model(folder, 4), "small": lambda folder: write_language_model(folder, 2),
    "full": lambda folder: write_tower(folder, 4), "early": lambda folder: write_tower(folder, 2),
}
CHANGES = {"describe": described, "attributes": asked}

if __name__ == "__main__":
    place, *wanted = sys.argv[1:]
    for name in wanted:
        if name in CHANGES:
            for line in sys.stdin:
                print(json.dumps(CHANGES[name](json.loads(line)), ensure_ascii=False))
        else:
            MAKERS[name](Path(place, name))
