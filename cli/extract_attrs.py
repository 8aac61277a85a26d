"""`fgvr extract-attrs`: images to attributes."""

from __future__ import annotations

import click

from fgvr.cli.options import InputFile, accounted, device, image_root, model, opening, record, settings, stage_io
from fgvr.job import Job
from fgvr.models.settings import Loading, Server
from fgvr.settings import Extract


@click.command("extract-attrs")
@stage_io
@model
@click.option("--attrs", type=InputFile(), required=True, metavar="FILE", help="Attribute records from discover-attrs.")
@image_root
@record
@device
@settings(Extract)
@settings(Loading, "loading")
@settings(Server, "server")
def command(
    job: Job,
    model: str,
    attrs: str,
    image_root: str,
    record: str | None,
    device: str,
    settings: Extract,
    loading: Loading,
    server: Server,
) -> None:
    """Ask a model every attribute question about each image.

    Reads image records, adds `attributes` {name: answer} in the order of --attrs, of which the questions of the
    record's superclass are asked. An image and the words that its questions begin with are encoded once for all of
    them, where the model's family allows it exactly. Writes in input order. Streams.

    \b
    Examples:
      fgvr extract-attrs --model examples/toy/vlm --attrs attrs.jsonl --image-root images train.jsonl > out.jsonl
      head -3 train.jsonl | fgvr extract-attrs --model examples/toy/vlm --attrs attrs.jsonl --image-root images
    """
    from fgvr import prompts
    from fgvr.models import open_answerer
    from fgvr.models.replay import recorded
    from fgvr.stages.extract import by_superclass, extract, images_a_call

    questions = by_superclass(job.load(attrs, required=("superclass", "attribute", "question")))
    opened = open_answerer(model, device=device, **opening(model, loading, server))
    with (
        recorded(opened, record) as answerer,
        job.run(models=[answerer.about], prompts=[prompts.GROUP] if settings.group else []) as run,
        accounted(job, run, answerer),
    ):
        whole = images_a_call(questions, settings.batch_size, settings.group) if settings.confidence else 1
        items = run.read(required=("image", "superclass"), batch=whole)
        how = settings.batch_size, settings.max_new_tokens, settings.group, settings.confidence, settings.workers
        run.write(extract(items, answerer, questions, image_root, *how))
