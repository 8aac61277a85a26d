"""`fgvr tune`: stage II."""

from __future__ import annotations

import click

from fgvr.cli import training
from fgvr.cli.options import adapter, device, image_root, model, settings, stage_io
from fgvr.job import Job
from fgvr.training.settings import Tune


@click.command("tune")
@stage_io(to_folder=True)
@model
@adapter
@image_root
@device
@settings(Tune)
def command(job: Job, model: str, adapter: str | None, image_root: str, device: str, settings: Tune) -> None:
    """Stage II: instruction tuning on open-set and multiple-choice questions.

    Reads questions and trains LoRA adapters on connector and language model to give their answers; only reply tokens
    are in the loss (Finedefics, Eq 9). Dialogues (`turns`: FINER's, or other tools' by convert) teach every reply, the
    image in the first turn; all kinds may be mixed, also with records that have no image (`modality` "text"). With
    --adapter it goes on training that one (align's). Writes an adapter folder (--train full: a model folder) with its
    loss curve, log.jsonl; speed and memory go to DIR.logs. Reads the whole stream first. --resume goes on from the last
    checkpoint. torchrun spreads it over GPUs and nodes (docs/training.md).

    \b
    Examples:
      fgvr tune --model examples/toy/vlm --adapter runs/align --image-root images -o runs/tune questions.jsonl
      fgvr questions mined.jsonl | fgvr tune --model hf:HuggingFaceM4/idefics2-8b --image-root cub/images -o runs/tune
    """
    training.begin(model)
    from fgvr.stages.tune import fits, objective

    training.run(
        job, model, adapter, image_root, device, settings,
        required=("kind",),
        objective=lambda vlm, vision: objective(
            vlm, image_root, choice_reply=settings.choice_reply, vision=vision
        ),
        fits=lambda sight, record: fits(sight, record, settings.choice_reply),
    )
