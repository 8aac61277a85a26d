"""`fgvr mine-negatives`: triples to hard negatives."""

from __future__ import annotations

import click

from fgvr.cli.mining import Extras, alike, opened
from fgvr.cli.options import How, InputFile, device, encoder, image_root, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Mine


@click.command("mine-negatives")
@stage_io
@encoder
@image_root
@click.option("--from", "pool", type=InputFile(), metavar="FILE", help="Take negatives from these triples instead.")
@click.option("--aliases", type=InputFile(), metavar="FILE", help="Records {category, aliases: [name, …]}.")
@click.option("--features", cls=How, type=click.Path(), metavar="DIR", help="Keep features here; use those kept.")
@click.option("--groups", cls=How, type=click.Path(), metavar="FILE", help="Also write groups of categories.")
@click.option("--preview", cls=How, type=click.Path(), metavar="FILE", help="Also write a page (HTML) to look at.")
@device
@settings(Mine)
def command(
    job: Job,
    encoder: str,
    image_root: str,
    pool: str | None,
    aliases: str | None,
    features: str | None,
    groups: str | None,
    preview: str | None,
    device: str,
    settings: Mine,
) -> None:
    """Find the images most easily confused with each one.

    Reads triples (image, category, description), adds `negatives` [{id, category, description, similarity}]: of the
    most similar wrong categories, by the cosine of their nearest image, that image, hardest first. Options choose
    other rankings and refuse false negatives; docs/mining.md has them in the order in which they act. With --from the
    input needs no description. Writes in input order. Buffers the stream (records and features, not images).

    --of names compares each image with the categories' names instead, as FOCI does for its options, and needs no
    descriptions: `negatives` [{category, similarity}], `category_similarity` and `category_rank` of the image's own.

    \b
    --encoder is a model, or features:FILE.safetensors made elsewhere, with ids in FILE.safetensors.ids, one a line.
    --groups writes {group, categories, inside}: clusters of categories that are each other's negatives.

    \b
    Examples:
      fgvr mine-negatives --encoder examples/toy/clip --image-root runs/toy/images < triples.jsonl > mined.jsonl
      fgvr mine-negatives --encoder examples/toy/clip --image-root runs/toy/images --from triples.jsonl test.jsonl
      fgvr mine-negatives --encoder hf:org/siglip --image-root images --features kept --relative-margin 0.05
        --duplicate 0.97 --preview look.html -o mined.jsonl triples.jsonl
    """
    from fgvr.stages.mine import mine, mine_names

    extras = Extras(job, image_root, groups, preview, settings)
    by_name = settings.of == "names"
    described = ("image", "category") if by_name else ("image", "category", "description")
    candidates = job.load(pool, required=described, unique=True) if pool else None
    known = alike(job, aliases)
    source, models = opened(job, encoder, image_root, features, device, settings)
    required = ("image", "category") if pool else described
    prompts = settings.templates.split("|") if by_name or settings.by != "image" else []
    with job.run(models=models, prompts=prompts, recompute=True) as run:
        items = job.progress(run.read(required))  # the work is done while reading
        if by_name:
            mined = mine_names(items, source, settings, candidates or (), report=extras.report)
        else:
            mined = mine(items, source, settings, candidates, aliases=known, wanted=extras.wanted, report=extras.report,
                         device=device)  # fmt: skip
        run.write(extras.seen(mined))
        run.summary = extras.report.summary()
    extras.write(run.complete, settings)
