"""`fgvr discover-attrs`: a super-category to attribute questions."""

from __future__ import annotations

import click

from fgvr.cli.options import device, model, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Discover


@click.command("discover-attrs")
@stage_io(source=False)
@model
@click.option("--superclass", required=True, help="What all the images show: bird, car, …")
@click.option("--class-unit", default="categories", show_default=True, help="What its categories are called.")
@device
@settings(Discover)
def command(job: Job, model: str, superclass: str, class_unit: str, device: str, settings: Discover) -> None:
    """Ask a model which attributes tell categories apart.

    Reads no records; asks the language model once and writes an attribute record (superclass, attribute, question)
    for the general description and for each attribute that the reply lists. A reply without any ends with status 1.

    \b
    Examples:
      fgvr discover-attrs --model examples/toy/vlm --superclass bird --class-unit species > attrs.jsonl
      fgvr discover-attrs --model examples/toy/vlm --superclass bird | jq -r .question
    """
    from fgvr import prompts
    from fgvr.models import open_answerer
    from fgvr.stages.discover import discover

    answerer = open_answerer(model, device=device)
    templates = [prompts.DISCOVER, prompts.GENERAL, prompts.EXTRACT_GENERAL, prompts.EXTRACT]
    with job.run(models=[answerer.about], prompts=templates) as run:
        run.write(discover(answerer, superclass, class_unit, settings.max_new_tokens))
