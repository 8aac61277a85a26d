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

    \b
    Examples:
      fgvr mine-negatives --encoder examples/toy/clip --image-root runs/toy/images < triples.jsonl > mined.jsonl
      fgvr mine-negatives --encoder examples/toy/clip --image-root runs/toy/images --from triples.jsonl test.jsonl
    """
    from fgvr.models import open_encoder
    from fgvr.stages.mine import mine

    candidates = job.load(pool, required=("image", "category", "description"), unique=True) if pool else None
    clip = open_encoder(encoder, device=device)
    required = ("image", "category") if pool else ("image", "category", "description")
    short: list[str] = []

    def counted(items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            if not isinstance(item, Bad) and len(item["negatives"]) < settings.per_anchor:
                short.append(item["id"])
            yield item

    with job.run(models=[clip.about], recompute=True) as run:
        items = job.progress(run.read(required))  # the work is done while reading
        mined = mine(items, clip, image_root, settings.per_anchor, settings.batch_size, candidates)
        run.write(counted(mined))
    if short:
        job.say(f"{len(short)} records have fewer than {settings.per_anchor} negatives: too few other categories")
