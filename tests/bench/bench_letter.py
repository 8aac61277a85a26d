"""Letter scoring against a loop like FOCI's: batches of 16, images decoded in the same process as they come, replies of
10 tokens from `generate`, their first letter read. Both read the same image files with the same model: a random
Idefics2 with the shapes of the toy model; `bench_letter_mid` takes the larger one of `model`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fgvr.models import open_answerer
from fgvr.stages.evaluate import evaluate
from tests.bench import model
from tests.bench.harness import Benchmark

QUESTIONS, BATCH = 64, 16
TINY = {"size": 96, "width": 192, "layers": 4, "latents": 16}


def benchmark(shape: dict[str, int] = TINY, count: int = QUESTIONS) -> Benchmark:
    folder = tempfile.TemporaryDirectory(prefix="fgvr-bench-")
    root = Path(folder.name)
    records = model.questions(root, count)
    answerer: Any = open_answerer(str(model.save(root / "model", **shape)), device="cpu")
    network, processor = answerer.model, answerer.vlm.processor

    def foci() -> list[str]:
        found = []
        for start in range(0, count, BATCH):
            part = records[start : start + BATCH]
            images = [[Image.open(root / record["image"]).convert("RGB")] for record in part]
            inputs = processor(
                text=[model.prompt(record) for record in part], images=images, padding=True, return_tensors="pt"
            )
            with torch.inference_mode():
                ids = network.generate(**inputs, max_new_tokens=10, do_sample=False)
            texts = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for record, text in zip(part, texts, strict=True):
                index = next(i for i, letter in enumerate("abcd") if text.strip().lower().startswith(letter))
                found.append(record["options"][index])
        return found

    def ours() -> list[str]:
        _ = folder  # removed with the last function that needs it
        found = evaluate(records, answerer, root, "strict", BATCH, 10, "letter", workers=2)
        return [r["prediction"] for r in found if isinstance(r, dict)]  # a fault would leave fewer than the baseline's

    def same(baseline: list[str], ours: list[str]) -> None:
        assert baseline == ours, "other options"
        assert len({record["options"].index(choice) for record, choice in zip(records, ours, strict=True)}) > 1

    return Benchmark(("generate, 10 tokens (FOCI)", foci), ("--scoring letter", ours), same, bar=3)
