"""`fgvr questions`: records to questions."""

from __future__ import annotations

import click

from fgvr.cli import questioning
from fgvr.cli.options import InputFile, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Questions


@click.command("questions")
@questioning.alone
@stage_io
@click.option("--options", type=InputFile(), metavar="FILE", help="Options as FOCI's and Finedefics' files list them.")
@click.option("--from-attributes", "attributes", type=InputFile(), metavar="FILE",
              help="Concept records of concept-attrs, for knowledge and dialogue.")  # fmt: skip
@settings(Questions)
def command(job: Job, options: str | None, attributes: str | None, settings: Questions) -> None:
    """Build open-set and multiple-choice questions.

    Reads records (image, category), writes a question record for each of --kinds, with ids ID/open, ID/mcq, ID/yesno
    and ID/caption: kind, question, options, answer and answer_index. `question` is the bare question; eval and tune
    put the options and the instruction behind it. Other fields are copied, but not attributes, description and
    negatives, which are long and hint at the answer. Buffers the stream when there are options.

    --distractors: `negatives` takes the categories of the record's negatives, then random ones; `topwrong` the most
    similar wrong ones, `foci4` the same by FOCI's rule (mine-negatives --of names); both keep `similarities` and
    `gold_in_top`. `same-coarse` draws among categories with a common coarse label. With --options and no FILE operand,
    questions are made from that file alone, and stdin is not read; with FILE (or -), for its records.

    FINER's kinds (docs/finer.md): granularity asks for the label at each level, ids ID/superordinate, ID/coarse,
    ID/fine; knowledge for the name by attributes and taxonomy, without the image; dialogue is a conversation to learn
    from (`turns`): coarse label, attributes, fine label.

    \b
    Examples:
      fgvr questions mined.jsonl > questions.jsonl
      fgvr questions --kinds mcq --distractors random test.jsonl | jq -r '.options[]' | sort | uniq -c
      fgvr questions --kinds granularity test.jsonl | fgvr eval --model examples/toy/vlm --image-root images
      fgvr questions --options bird-200-ViT-L-14-laion2b_s32b_b82k-4.json > questions.jsonl
    """
    from fgvr import finer, prompts
    from fgvr.stages.granularity import KINDS, Finer
    from fgvr.stages.options import MINED
    from fgvr.stages.questions import questions

    kinds = settings.chosen("open,mcq" if options is None else "mcq")
    listed = questioning.listed(job, options)
    required = ["image", "category"]
    if {"mcq", "yesno"} & set(kinds) and settings.distractors in MINED and listed is None:
        required.append("negatives")
    asked = {"open": prompts.OPEN, "mcq": prompts.OPEN, "yesno": prompts.YES_NO, "caption": prompts.DESCRIBE}
    templates = [asked[kind] for kind in kinds if kind in asked and (settings.question is None or kind == "caption")]
    templates += finer.TEMPLATES if "granularity" in kinds and settings.question is None else []
    known = questioning.known_attributes(job, attributes, kinds, settings.variant)
    own = settings.level, settings.concept, settings.answers, settings.variant, known, settings.seed, settings.question
    ours = Finer(*own) if set(KINDS) & set(kinds) else None
    how = settings.question, settings.choices, settings.distractors, settings.seed, settings.level, listed
    with job.run(prompts=templates, recompute=True) as run:
        items = listed.items if listed is not None and job.source is None else run.read(required)
        run.write(questions(items, kinds, *how, ours, settings.per_class))
        questioning.say(job, ours)
