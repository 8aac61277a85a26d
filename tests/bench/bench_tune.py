"""An epoch of tuning on 64 questions, 8 a step: `fgvr tune`'s loop against TRL's SFTTrainer (extra `fgvr[bench]`), same
model, adapter and order, with the same labelled tokens. Seconds; compared first: the mean loss at a learning rate
of nearly 0. KEPT=1 lets ours take the vision tower's output from a folder, which its first run fills."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fgvr.images import open_image
from fgvr.models.vlm import Vlm
from fgvr.records import Record
from fgvr.stages import tune
from fgvr.training.trainer import Recipe, train
from fgvr.training.vision import Vision
from tests import procs
from tests.bench import training
from tests.bench.harness import Benchmark

COUNT, BATCH, KEPT = int(os.environ.get("COUNT", "64")), 8, bool(os.environ.get("KEPT"))
RATE = 1e-12


@functools.cache
def material() -> tuple[Vlm, Vlm, list[Record], Path]:
    """A model for each contender, the questions, a folder for what they write."""
    asked = [
        {"id": r["id"], "image": r["image"], "kind": "open", "question": f"Which bird is this? Answer in {n} words.",
         "answer": r["category"] if n % 2 else r["description"]}
        for n, r in enumerate(training.triples(COUNT))
    ]  # fmt: skip
    return training.opened(), training.opened(), asked, Path(tempfile.mkdtemp())


def collate(vlm: Vlm) -> Any:
    """TRL's own collator, for prompts and completions in this model's template."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    return DataCollatorForVisionLanguageModeling(vlm.processor, completion_only_loss=True)


def rows(vlm: Vlm, asked: list[Record]) -> Any:
    """The questions as TRL takes them: with prompt and completion in the model's template."""
    from datasets import Dataset

    made = []
    for record in asked:
        talk = tune.talk(record)
        whole, prompt = vlm.chat([(talk.question, talk.answer)], True), vlm.chat([(talk.question, None)], True)
        shared = next(n for n, letter in enumerate(whole) if prompt[n : n + 1] != letter)
        bos = vlm.tokenizer.bos_token if vlm.text_options(whole)["add_special_tokens"] else ""  # TRL adds none
        made.append({"prompt": bos + whole[:shared], "completion": whole[shared:], "at": record["image"]})
    found = Dataset.from_list(made)

    def look(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**batch, "images": [[open_image(training.folder(), image)] for image in batch["at"]]}

    return found.with_transform(look)


def sft() -> float:
    """Mean loss of TRL's epoch."""
    from trl import SFTConfig, SFTTrainer

    vlm, _, asked, out = material()
    config = SFTConfig(
        output_dir=str(out / "sft"), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=RATE,
        warmup_steps=0, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        bf16=False, gradient_checkpointing=False, dataloader_pin_memory=False, max_length=None, seed=0,
        remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = SFTTrainer(
        vlm.peft, config, train_dataset=rows(vlm, asked), processing_class=vlm.processor, data_collator=collate(vlm)
    )
    trainer.train()
    return mean([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def ours() -> float:
    """Mean loss of our epoch."""
    _, vlm, asked, out = material()
    shutil.rmtree(out / "ours", ignore_errors=True)
    (out / "ours").mkdir()
    recipe = Recipe(BATCH, 1, RATE, 0, 0.0, 1.0, 10**6, 0)
    vision = Vision(vlm, training.folder(), out / "kept" if KEPT else None)
    loss = tune.objective(vlm, training.folder(), vision=vision)
    train(vlm, asked, loss, recipe, out / "ours", lambda *_: None, False)
    return mean([entry["loss"] for entry in procs.read_jsonl(out / "ours" / "log.jsonl")])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def same(theirs: float, mine: float) -> None:
    assert abs(theirs - mine) < 1e-2, f"mean losses {theirs:.4f} and {mine:.4f}"


def benchmark() -> Benchmark:
    return Benchmark(("TRL SFTTrainer", sft), ("fgvr tune" + (", tower kept" if KEPT else ""), ours), same, bar=1.5)
