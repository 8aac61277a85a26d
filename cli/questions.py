"""`fgvr questions`: records to questions."""

from __future__ import annotations

import click

from fgvr.cli.options import settings, stage_io
from fgvr.job import Job
from fgvr.settings import Questions


@click.command("questions")
@stage_io
@settings(Questions)
def command(job: Job, settings: Questions) -> None:
    """Build open-set and multiple-choice questions.

    Reads records (image, category; mined ones for --distractors negatives), writes a question record for each of
    --kinds, with ids ID/open and ID/mcq: kind, question, options, answer and answer_index. `question` is the bare
    question; eval and tune put the options and the instruction behind it. Other fields are copied, but not
    attributes, description and negatives, which are long and hint at the answer. Buffers the stream when
    multiple-choice questions are wanted.

    \b
    Examples:
      fgvr questions mined.jsonl > questions.jsonl
      fgvr questions --kinds mcq --distractors random test.jsonl | jq -r '.options[]' | sort | uniq -c
    """
    from fgvr import prompts
    from fgvr.stages.questions import questions

    required = ["image", "category"]
    if "mcq" in settings.chosen and settings.distractors == "negatives":
        required.append("negatives")
    templates = [] if settings.question is not None else [prompts.OPEN]
    how = settings.question, settings.options, settings.distractors, settings.seed
    with job.run(prompts=templates, recompute=True) as run:
        run.write(questions(run.read(required), settings.chosen, *how))
