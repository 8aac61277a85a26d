"""`fgvr align`: stage I."""

from __future__ import annotations

import functools
from typing import Any

import click

from fgvr.cli import training
from fgvr.cli.options import InputFile, adapter, device, image_root, model, settings, stage_io
from fgvr.job import Job
from fgvr.records import texts
from fgvr.training.settings import Align


@click.command("align")
@stage_io(to_folder=True)
@model
@adapter
@image_root
@click.option("--aliases", type=InputFile(), metavar="FILE", help="Records {category, aliases: [name, …]}.")
@click.option("--questions", type=InputFile(), metavar="FILE", help="One stage: also learn these, on the same images.")
@click.option("--groups", type=InputFile(), metavar="FILE", help="Batches of one group each (mine-negatives --groups).")
@device
@settings(Align)
def command(
    job: Job, model: str, adapter: str | None, image_root: str, aliases: str | None, questions: str | None,
    groups: str | None, device: str, settings: Align,
) -> None:  # fmt: skip
    """Stage I: align objects, descriptions and category names by contrast.

    Reads mined triples (mine-negatives) and trains LoRA adapters on connector and language model with the three
    contrastive losses and description generation of Finedefics, Eqs 5-8; the vision tower stays frozen. The batch is
    the contrastive batch, whatever --micro-batch fits in memory. Writes an adapter folder with its loss curve,
    log.jsonl; speed and memory go to DIR.logs. Reads the whole stream first. --resume goes on from the last
    checkpoint. torchrun spreads it over GPUs and nodes; docs/training.md has formulas, memory and ablations.

    --questions FILE makes both stages one (ablation 3c): to each step's loss the one of tune is added, on the questions
    whose image is in the batch. Rows of one category (also by --aliases) are never each other's negatives. --groups
    fills a batch with categories that are easily confused, so that fewer different texts have to be encoded.

    \b
    Examples:
      fgvr align --model examples/toy/vlm --image-root images -o runs/align mined.jsonl
      fgvr align --model hf:HuggingFaceM4/idefics2-8b --image-root cub/images --micro-batch 8 -o align mined.jsonl
      torchrun --nproc-per-node 8 .venv/bin/fgvr align --model hf:HuggingFaceM4/idefics2-8b --image-root cub/images
        --vision-cache kept -o align mined.jsonl
    """
    training.begin(model)
    from fgvr.cli.mining import alike
    from fgvr.losses import Temperature, Weights
    from fgvr.stages import align, tune

    talk = functools.partial(tune.talk, choice_reply=settings.choice_reply)
    known = alike(job, aliases)
    asked = job.load(questions, required=("image", "kind", "question", "answer"), check=talk) if questions else []
    lists = functools.partial(texts, name="categories")
    grouped = job.load(groups, ("categories",), stage="mine-negatives --groups", check=lists) if groups else []
    talks: dict[str, Any] = {}

    def prepare(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        talks.update(align.joined(asked, records, talk))
        return align.with_negatives(records, settings.negatives, settings.seed, known)

    temperature = Temperature(settings.temperature) if settings.learn_temperature else None
    weights = {name: getattr(settings, f"{name}_weight") for name in Weights.__annotations__}
    training.run(
        job, model, adapter, image_root, device, settings,
        required=("image", "description", "category", *(("negatives",) if settings.negatives == "hard" else ())),
        objective=lambda vlm, vision: align.objective(
            vlm, image_root, settings.loss_form, temperature or settings.temperature, settings.reduction,
            pairs=settings.pairs, pool=settings.pool, weights=Weights(**weights), aliases=known, vision=vision,
            answers=(lambda record: talks[record["image"]]) if questions else None,
        ),
        prepare=prepare,
        grouping=lambda records: align.grouping(records, grouped, settings.pairs) if groups else None,
        extra=temperature,
        fits=lambda sight, record: align.fits(sight, record, settings.pairs),
    )  # fmt: skip
