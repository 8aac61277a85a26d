"""Option scoring: image and prompt read once for all options, against one plain forward pass over the whole text for
each option (lmms-eval's loglikelihood, VLMClassifier). Same model, same tokens."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from fgvr.images import open_image
from fgvr.models import open_answerer
from fgvr.models.base import Ask
from fgvr.stages.questions import final_prompt
from tests.bench import model
from tests.bench.harness import Benchmark

QUESTIONS, BATCH = 16, 8
Rows = list[list[tuple[float, int]]]


def benchmark() -> Benchmark:
    folder = tempfile.TemporaryDirectory(prefix="fgvr-bench-")
    root = Path(folder.name)
    records = model.questions(root, QUESTIONS)
    answerer: Any = open_answerer(str(model.save(root / "model")), device="cpu")
    network, processor, tokenizer = answerer.model, answerer.vlm.processor, answerer.vlm.tokenizer
    asks = [Ask(final_prompt(record), open_image(root, record["image"])) for record in records]

    def one_by_one() -> Rows:
        """A batch holds as many rows as ours has questions times options."""
        flat = [(ask, record, text) for ask, record in zip(asks, records, strict=True) for text in record["options"]]
        found: list[tuple[float, int]] = []
        for start in range(0, len(flat), 4 * BATCH):
            part = flat[start : start + 4 * BATCH]
            prompts = [model.prompt(record) for _, record, _ in part]
            texts = [f"{p} {option}<end_of_utterance>\n" for p, (_, _, option) in zip(prompts, part, strict=True)]
            images = [[ask.image] for ask, _, _ in part]
            inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
            with torch.inference_mode():
                likely = network(**inputs).logits[:, :-1].log_softmax(-1)
            each = likely.gather(2, inputs["input_ids"][:, 1:, None]).squeeze(2)
            for row, before, text in zip(each, prompts, texts, strict=True):  # left-padded: the reply is the end
                count = len(tokenizer(text).input_ids) - len(tokenizer(before).input_ids)
                found.append((row[-count:].double().sum().item(), count))
        return [found[i : i + 4] for i in range(0, len(found), 4)]

    def ours() -> Rows:
        _ = folder  # removed with the last function that needs it
        return [
            row
            for start in range(0, QUESTIONS, BATCH)
            for row in answerer.likelihood(
                asks[start : start + BATCH], [record["options"] for record in records[start : start + BATCH]]
            )
        ]

    def same(baseline: Rows, ours: Rows) -> None:
        for one, other in zip(baseline, ours, strict=True):
            for (left, count), (right, also) in zip(one, other, strict=True):
                assert count == also and abs(left - right) < 1e-3, f"other scores: {left} and {right}"

    return Benchmark(("one pass an option", one_by_one), ("--scoring option", ours), same, bar=3)
