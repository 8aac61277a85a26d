"""`fgvr eval`: questions to predictions."""

from __future__ import annotations

import click

from fgvr.cli.options import adapter, device, image_root, model, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Eval


@click.command("eval")
@stage_io
@model
@adapter
@image_root
@device
@settings(Eval)
def command(job: Job, model: str, adapter: str | None, image_root: str, device: str, settings: Eval) -> None:
    """Answer questions with a model.

    Reads questions (image, kind, question; options of a multiple-choice one), adds `raw`, the reply; `prediction`,
    the option or name read out of it, null when it names none; and `correct`, null where the question has no
    `answer`. An open answer must equal `answer` or one of `aliases` but for case, punctuation and articles.
    With --choose letter or text no choice is generated: the option whose letter or text has the highest mean
    log-probability as the reply is taken, and `scores` holds one figure an option. Writes in input order. Streams.

    \b
    Examples:
      fgvr eval --model examples/toy/vlm --image-root images < questions.jsonl > predictions.jsonl
      fgvr eval --model examples/toy/vlm --adapter runs/toy/tune --image-root images questions.jsonl | fgvr score
    """
    from fgvr import prompts
    from fgvr.models import open_answerer
    from fgvr.stages.evaluate import evaluate

    answerer = open_answerer(model, device=device, adapter=adapter)
    with job.run(models=[answerer.about], prompts=[prompts.MULTIPLE_CHOICE]) as run:
        items = run.read(required=("image", "kind", "question"))
        parts = settings.parser, settings.batch_size, settings.max_new_tokens, settings.choose
        run.write(evaluate(items, answerer, image_root, *parts))
