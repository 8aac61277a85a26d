"""`fgvr concept-attrs`: image records to attributes of their categories."""

from __future__ import annotations

import click

from fgvr.cli.options import InputFile, InputFolder, accounted, device, opening, record, settings, stage_io
from fgvr.errors import UsageError
from fgvr.job import Job
from fgvr.models.settings import Loading, Server
from fgvr.settings import ConceptAttrs


@click.command("concept-attrs")
@stage_io
@click.option("--model", metavar="SPEC", help="A folder, or SCHEME:NAME[@REVISION]; not for --source truth.")
@click.option("--documents", type=InputFile(), metavar="FILE", help="Records with `category` and `document`.")
@click.option("--image-root", type=InputFolder(), metavar="DIR", help="Folder that image paths start from.")
@record
@device
@settings(ConceptAttrs)
@settings(Loading, "loading")
@settings(Server, "server")
def command(
    job: Job, model: str | None, documents: str | None, image_root: str | None, record: str | None, device: str,
    settings: ConceptAttrs, loading: Loading, server: Server,
) -> None:  # fmt: skip
    """List required and likely attributes of each category.

    Reads image records, writes a concept record {category, required, likely, raw} for each category, in order of
    appearance: what the model knows by the name (text), sees on the first image (image), or takes from an
    encyclopaedia's page (document); or the most frequent `attributes_true` (truth, without a model). The wording is
    FINER's. `questions --from-attributes` asks by them, `score --reference` compares them. Buffers a record a category.

    \b
    Examples:
      fgvr concept-attrs --source truth test.jsonl > reference.jsonl
      fgvr concept-attrs --model examples/toy/vlm test.jsonl | fgvr score --reference reference.jsonl --table
    """
    from contextlib import ExitStack

    from fgvr import concepts
    from fgvr.models import open_answerer
    from fgvr.models.replay import recorded
    from fgvr.stages.concepts import concept_attributes, documents_of

    if (model is None) != (settings.source == "truth"):
        raise UsageError(f"--source {settings.source} {'needs' if model is None else 'takes no'} --model")
    if (documents is None) == (settings.source == "document"):
        raise UsageError("--source document and --documents FILE need each other")
    pages = documents_of(job.load(documents), documents) if documents is not None else None
    with ExitStack() as stack:
        answerer = None
        if model is not None:
            opened = open_answerer(model, device=device, **opening(model, loading, server))
            answerer = stack.enter_context(recorded(opened, record))
        templates = [concepts.PROMPTS[settings.source]] if answerer else []
        run = stack.enter_context(
            job.run(models=[answerer.about] if answerer else [], prompts=templates, recompute=True)
        )
        if answerer is not None:
            stack.enter_context(accounted(job, run, answerer))
        items = run.read(required=("category",))
        how = settings.source, answerer, image_root or ".", settings.batch_size, settings.max_new_tokens, pages
        run.write(concept_attributes(items, *how))
