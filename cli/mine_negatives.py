"""`fgvr mine-negatives`: triples to hard negatives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from fgvr.cli.options import InputFile, device, encoder, image_root, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Mine
from fgvr.stream import Bad, Item


@click.command("mine-negatives")
@stage_io
@encoder
@image_root
@click.option("--from", "pool", type=InputFile(), metavar="FILE", help="Take negatives from these triples instead.")
@device
@settings(Mine)
def command(job: Job, encoder: str, image_root: str, pool: str | None, device: str, settings: Mine) -> None:
    """Find the images most easily confused with each one.

    Reads triples (image, category, description), adds `negatives` [{id, category, description, similarity}]: of the
    most similar wrong categories, by the cosine of their nearest image, that image, hardest first. With --from the
    input needs no description. Writes in input order. Buffers the stream (records and features, not images).

    --by text compares each image with the categories' names instead, as FOCI does for its options: `negatives`
    [{category, similarity}], `category_similarity` and `category_rank` of the image's own category.

    \b
    Examples:
      fgvr mine-negatives --encoder examples/toy/clip --image-root runs/toy/images < triples.jsonl > mined.jsonl
      fgvr mine-negatives --encoder examples/toy/clip --image-root runs/toy/images --from triples.jsonl test.jsonl
    """
    from fgvr.models import open_encoder
    from fgvr.stages.mine import mine, mine_by_text

    plain = ("image", "category")
    described = plain if settings.by == "text" else (*plain, "description")
    candidates = job.load(pool, required=described, unique=True) if pool else None
    clip = open_encoder(encoder, device=device)
    required = plain if pool else described
    short: list[str] = []

    def counted(items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            if not isinstance(item, Bad) and len(item["negatives"]) < settings.per_anchor:
                short.append(item["id"])
            yield item

    with job.run(models=[clip.about], recompute=True) as run:
        items = job.progress(run.read(required))  # the work is done while reading
        how = settings.per_anchor, settings.batch_size
        if settings.by == "text":
            mined = mine_by_text(items, clip, image_root, *how, candidates or ())
        else:
            mined = mine(items, clip, image_root, *how, candidates)
        run.write(counted(mined))
    if short:
        job.say(f"{len(short)} records have fewer than {settings.per_anchor} negatives: too few other categories")
