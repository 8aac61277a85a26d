"""`fgvr eval`: questions to predictions."""

from __future__ import annotations

import os

import click

from fgvr.cli.evaluating import answering, ranked, recordable
from fgvr.cli.options import InputFile, accounted, adapter, device, image_root, model, record, settings, stage_io
from fgvr.job import Job
from fgvr.models.settings import Loading, Server
from fgvr.settings import Eval


@click.command("eval")
@stage_io
@model
@adapter
@image_root
@click.option("--categories", type=InputFile(), metavar="FILE", help="Records whose `category` --scoring label ranks.")
@record
@device
@settings(Eval)
@settings(Loading, "loading")
@settings(Server, "server")
def command(
    job: Job, model: str, adapter: str | None, image_root: str, categories: str | None, record: str | None, device: str,
    settings: Eval, loading: Loading, server: Server,
) -> None:  # fmt: skip
    """Answer questions with a model.

    SPEC is a folder or hf:NAME (transformers), openai:NAME (an OpenAI-compatible server; key in OPENAI_API_KEY),
    clip:NAME (open_clip) or clip-of:MODEL (the CLIP that MODEL's vision encoder is). Reads questions (image, kind,
    question; options of a multiple-choice one), adds `raw`, the reply; `prediction`, the option or name read out of it,
    null when it names none; and `correct`, null where the question has no `answer`. An open answer must equal `answer`
    or one of `aliases` but for case, punctuation and articles.

    With --scoring letter or option no choice is generated: the likeliest is taken and `scores` holds one figure an
    option. --scoring label ranks all categories, those of --categories or of the input file: `top` holds the best
    five, `correct_top5` whether the answer is among them. --permutations cyclic adds `orders`, the prediction in each
    order, and `correct_in_all`. --prompting attr-seek asks for visible attributes, then, in the same conversation, the
    question; cot invites the model to think first. `earlier` holds what was asked and replied before the question.
    Writes in input order. Streams.

    \b
    Examples:
      fgvr eval --model examples/toy/vlm --image-root images < questions.jsonl > predictions.jsonl
      fgvr eval --model examples/toy/vlm --adapter runs/toy/tune --image-root images questions.jsonl | fgvr score
      fgvr eval --prompting attr-seek --model examples/toy/vlm --image-root images questions.jsonl | fgvr score
      fgvr eval --model clip:examples/toy/clip --scoring label --image-root images questions.jsonl | fgvr score
    """
    from fgvr import finer, prompts
    from fgvr.models.replay import recorded
    from fgvr.stages.evaluate import evaluate

    scheme = "hf" if os.path.isdir(model) else model.partition(":")[0]
    scoring = settings.scoring or ("option" if scheme in ("clip", "clip-of") else "generate")
    names = ranked(job, scoring, categories)
    recordable(record, scoring, settings.prompting)
    opened = answering(model, device, adapter, loading, server, settings.template)
    longest = settings.max_new_tokens or (512 if settings.prompting == "cot" else 32)
    asked = [prompts.MULTIPLE_CHOICE, *finer.PROMPTINGS[settings.prompting]]
    with (
        recorded(opened, record) as answerer,
        job.run(models=[answerer.about], prompts=asked) as run,
        accounted(job, run, answerer),
    ):
        whole = 1 if scoring == "generate" else settings.batch_size
        items = run.read(required=("kind", "question"), batch=whole)
        plain = settings.parser, settings.batch_size, longest, scoring, settings.normalise
        more_settings = settings.permutations == "cyclic", names, settings.prompting, settings.opening_tokens
        run.write(evaluate(items, answerer, image_root, *plain, *more_settings, settings.workers))
