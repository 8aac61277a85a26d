"""`fgvr assemble`: a vision tower and a language model to one model."""

from __future__ import annotations

import click

from fgvr.cli.options import settings, stage_io
from fgvr.job import Job
from fgvr.settings import Assemble


@click.command("assemble")
@stage_io(source=False, to_folder=True)
@click.option("--vision", required=True, metavar="SPEC", help="CLIP or SigLIP of transformers: a folder or hf:NAME.")
@click.option("--llm", required=True, metavar="SPEC", help="Causal language model: a folder or hf:NAME.")
@settings(Assemble)
def command(job: Job, vision: str, llm: str, settings: Assemble) -> None:
    """Join a vision tower and a language model in LLaVA's architecture.

    Writes a model folder that transformers and every other command open: both parts as they are, the `<image>` token,
    processor and chat template (the language model's own, else Vicuna's), and a connector of two layers with random
    weights, which knows nothing before it is trained.

    \b
    Example:
      fgvr assemble --vision hf:openai/clip-vit-large-patch14-336 --llm hf:Qwen/Qwen2-7B-Instruct -o model
    """
    from fgvr.models.assembling import Assembled

    made = Assembled(vision, llm, settings.feature_layer, settings.seed)
    with job.run(models=made.about) as run:
        if not run.complete:
            made.save(run.folder)
