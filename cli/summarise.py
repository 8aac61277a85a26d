"""`fgvr summarise`: attributes to a description."""

from __future__ import annotations

from collections import Counter

import click

from fgvr.cli.options import InputFolder, accounted, device, model, opening, prompt, record, settings, stage_io
from fgvr.job import Job
from fgvr.models.settings import Loading, Server
from fgvr.settings import Summarise


@click.command("summarise")
@stage_io
@model
@prompt
@click.option("--cub", type=InputFolder(), metavar="DIR", help="CUB_200_2011, whose annotations --source truth tells.")
@record
@device
@settings(Summarise)
@settings(Loading, "loading")
@settings(Server, "server")
def command(
    job: Job, model: str, prompt: str | None, cub: str | None, record: str | None, device: str, settings: Summarise,
    loading: Loading, server: Server,
) -> None:  # fmt: skip
    """Write each image's attributes as one description.

    Reads extractions (superclass, attributes), adds `description`: with image and category that makes a triple. The
    model sees the attributes, not the image. A description that names the record's category has the name replaced by
    "this <superclass>"; how many did is said at the end. A --prompt file may hold {superclass}, {general} and
    {attributes}; a line with {attribute} and {value} is repeated for each attribute. --noise reads FILE twice. Writes
    in input order. Streams, but for --noise.

    \b
    Examples:
      fgvr summarise --model examples/toy/vlm < extracted.jsonl > triples.jsonl
      fgvr summarise --model examples/toy/vlm --noise 0.5 extracted.jsonl | jq -r .description
    """
    from fgvr.datasets.cub_attributes import truth
    from fgvr.errors import UsageError
    from fgvr.models import open_answerer
    from fgvr.models.replay import recorded
    from fgvr.stages.summarise import SOURCES, donors, summarise, with_truth, wording

    if cub is not None and (settings.source != "truth" or settings.noise or settings.level == "none"):
        raise UsageError("--cub is for --source truth, without --noise and --level none; leave it out")
    field = "image" if cub is not None else SOURCES.get(settings.source, "category")
    annotated = truth(cub) if cub is not None else None
    template = job.text(prompt) if prompt is not None else None
    others = None
    if settings.noise:
        if job.source in ("-", None):
            raise UsageError("--noise takes answers of other records; give FILE instead of stdin")
        others = donors(job.load(job.source, required=("superclass", field, "category")), field)
    opened = open_answerer(model, device=device, **opening(model, loading, server))
    notes: Counter[str] = Counter()
    with (
        recorded(opened, record) as answerer,
        job.run(models=[answerer.about], prompts=[wording(template, settings.level, settings.source)]) as run,
        accounted(job, run, answerer),
    ):
        items = run.read(required=("superclass", *((field,) if settings.level != "none" else ())))
        items = with_truth(items, annotated) if annotated is not None else items
        how = template, settings.level, settings.source, settings.noise, others, settings.seed
        run.write(summarise(items, answerer, settings.batch_size, settings.max_new_tokens, notes, *how))
    if notes["leaks"]:
        job.say(f"{notes['leaks']} descriptions named their category; the name was replaced")
