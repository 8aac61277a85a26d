"""`fgvr summarise`: attributes to a description."""

from __future__ import annotations

from collections import Counter

import click

from fgvr.cli.options import device, model, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Summarise


@click.command("summarise")
@stage_io
@model
@device
@settings(Summarise)
def command(job: Job, model: str, device: str, settings: Summarise) -> None:
    """Write each image's attributes as one description.

    Reads extractions (superclass, attributes), adds `description`: with image and category that makes a triple. The
    model sees the attributes, not the image. A description that names the record's category has the name replaced by
    "this <superclass>"; how many did is said at the end. Writes in input order. Streams.

    \b
    Examples:
      fgvr summarise --model examples/toy/vlm < extracted.jsonl > triples.jsonl
      head -3 extracted.jsonl | fgvr summarise --model examples/toy/vlm | jq -r .description
    """
    from fgvr import prompts
    from fgvr.models import open_answerer
    from fgvr.stages.summarise import summarise

    answerer = open_answerer(model, device=device)
    notes: Counter[str] = Counter()
    with job.run(models=[answerer.about], prompts=[prompts.SUMMARISE]) as run:
        items = run.read(required=("superclass", "attributes"))
        run.write(summarise(items, answerer, settings.batch_size, settings.max_new_tokens, notes))
    if notes["leaks"]:
        job.say(f"{notes['leaks']} descriptions named their category; the name was replaced")
