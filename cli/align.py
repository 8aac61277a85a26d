"""`fgvr align`: stage I."""

from __future__ import annotations

import click

from fgvr.cli import training
from fgvr.cli.options import adapter, device, image_root, model, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Align


@click.command("align")
@stage_io(to_folder=True)
@model
@adapter
@image_root
@device
@settings(Align)
def command(job: Job, model: str, adapter: str | None, image_root: str, device: str, settings: Align) -> None:
    """Stage I: align objects, descriptions and category names by contrast.

    Reads mined triples (mine-negatives) and trains LoRA adapters on connector and language model with the three
    contrastive losses and description generation of Finedefics, Eqs 5-8; the vision tower stays frozen. Writes an
    adapter folder with its loss curve, log.jsonl. Reads the whole stream first. --resume goes on from the last
    checkpoint.

    \b
    Examples:
      fgvr align --model examples/toy/vlm --image-root images -o runs/align mined.jsonl
      fgvr align --model hf:HuggingFaceM4/idefics2-8b --image-root cub/images --batch-size 32 -o align mined.jsonl
    """
    from fgvr.stages.align import objective

    training.run(
        job,
        model,
        adapter,
        image_root,
        device,
        settings,
        required=("image", "description", "category", "negatives"),
        objective=lambda vlm: objective(vlm, image_root, settings.loss_form, settings.temperature, settings.reduction),
    )
