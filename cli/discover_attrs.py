"""`fgvr discover-attrs`: a super-category to attribute questions."""

from __future__ import annotations

import click

from fgvr.cli.options import accounted, device, model, opening, prompt, record, settings, stage_io
from fgvr.job import Job
from fgvr.models.settings import Loading, Server
from fgvr.settings import Discover


def _list(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    return list(value)  # as a run record has it


@click.command("discover-attrs")
@stage_io(source=False)
@model
@click.option("--superclass", required=True, help="What all the images show: bird, car, …")
@click.option("--class-unit", default="categories", show_default=True, help="What its categories are called.")
@prompt
@click.option("--attribute", multiple=True, callback=_list, metavar="NAME", help="Add an attribute; repeatable.")
@click.option("--drop", multiple=True, callback=_list, metavar="NAME|TYPE", help="Leave an attribute out, or all of a "
              "type (colour, shape, texture, size, other); repeatable.")  # fmt: skip
@record
@device
@settings(Discover)
@settings(Loading, "loading")
@settings(Server, "server")
def command(
    job: Job, model: str, superclass: str, class_unit: str, prompt: str | None, attribute: list[str], drop: list[str],
    record: str | None, device: str, settings: Discover, loading: Loading, server: Server,
) -> None:  # fmt: skip
    """Ask a model which attributes tell categories apart.

    Reads no records; asks the language model once and writes an attribute record (superclass, attribute, question,
    type) for the general description and for each attribute that the reply lists, near-duplicates merged. With
    --samples several replies are drawn and what most of them name is kept. A --prompt file may hold {superclass} and
    {class_unit}. A reply without attributes ends with status 1.

    \b
    Examples:
      fgvr discover-attrs --model examples/toy/vlm --superclass bird --class-unit species > attrs.jsonl
      fgvr discover-attrs --model examples/toy/vlm --superclass bird --drop colour | jq -r .question
    """
    from fgvr import prompts
    from fgvr.models import open_answerer
    from fgvr.models.replay import recorded
    from fgvr.stages.discover import discover

    template = job.text(prompt) if prompt is not None else prompts.DISCOVER
    opened = open_answerer(model, device=device, **opening(model, loading, server))
    templates = [template, prompts.GENERAL, prompts.EXTRACT_GENERAL, prompts.EXTRACT]
    with (
        recorded(opened, record) as answerer,
        job.run(models=[answerer.about], prompts=templates) as run,
        accounted(job, run, answerer),
    ):
        how = settings.samples, settings.keep, settings.temperature, settings.seed
        run.write(discover(answerer, superclass, class_unit, settings.max_new_tokens, template, *how, attribute, drop))
