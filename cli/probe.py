"""`fgvr probe`: features to metrics."""

from __future__ import annotations

from typing import Any

import click

from fgvr.cli.options import How, InputFile, InputFolder, adapter, device, model, settings, stage_io
from fgvr.job import Job
from fgvr.provenance import portable
from fgvr.settings import Probe


@click.command("probe")
@stage_io
@model
@adapter
@click.option("--image-root", type=InputFolder(), metavar="DIR", help="Folder that image paths start from.")
@click.option("--train", type=InputFile(), required=True, metavar="FILE", help="Records of the training images.")
@click.option("--val", type=InputFile(), metavar="FILE", help="Records that choose. [default: a fifth of --train]")
@click.option("--features", type=click.Path(), metavar="FILE", help="Also write the object features, as safetensors.")
@click.option("--map", "drawing", type=click.Path(), metavar="FILE", help="Also lay out the features in the plane.")
@click.option("--text-encoder", metavar="SPEC", help="A CLIP that is probed on the descriptions of --knowledge, too.")
@click.option("--cache", cls=How, type=click.Path(), metavar="DIR", help="Keep features there; encode no image twice.")
@device
@settings(Probe)
def command(
    job: Job, model: str, adapter: str | None, image_root: str | None, train: str, val: str | None,
    features: str | None, drawing: str | None, text_encoder: str | None, cache: str | None, device: str,
    settings: Probe,
) -> None:  # fmt: skip
    """Fit a linear probe on a model's object features.

    Reads the test images' records (image, category) and writes metrics records: the accuracy of a linear probe
    fitted on --train, on the features of the last object token and on their mean; and, of the embeddings that
    alignment is about, alignment quality with the category names, modality gap, inter-class distance, intra-class
    variance and retrieval R@1 and R@5 between objects and names. What has a penalty to choose chooses it on --val, or
    on a fifth of each category's training images, never on test images.

    --at probes other places: tower, connector, layers of the language model by number, or all of them (layers). A CLIP
    has one place; so have features that are there already (--model FILE.safetensors). --probes adds a sweep of 52
    settings, nearest neighbours and few-shot probes. --knowledge N also has the model describe each category N times
    without an image, and probes that. --features keeps the test images' features with their ids. --map writes where
    objects, names and `description`s lie, with a .png and a .svg beside, for `fgvr report`. Buffers the stream (records
    and features, not images).

    \b
    Examples:
      fgvr probe --model examples/toy/vlm --image-root images --train train.jsonl < test.jsonl
      fgvr probe --model examples/toy/vlm --at tower,connector,layers --image-root images --train train.jsonl \\
        test.jsonl | fgvr score --table
    """
    from fgvr.cli.probing import Probing, check, open_text_encoder
    from fgvr.errors import UsageError
    from fgvr.models.places import open_places
    from fgvr.stages.probe import Stored

    for option, path in (("--features", features), ("--map", drawing)):
        if path is not None:
            check(option, path, job, (train, val, *model.split(",")))
            job.settings[option[2:]] = portable(path, job.output)
    job.settings.pop("drawing")
    known = job.load(train, required=("image", "category"), unique=True)
    chosen = job.load(val, required=("image", "category"), unique=True) if val is not None else None
    clip = open_text_encoder(text_encoder, settings, device)
    if model.endswith(".safetensors"):
        places: Any = Stored(model)
    elif image_root is None:
        raise UsageError("missing option '--image-root'; only features of a file need none")
    else:
        places = open_places(model, settings.places, settings.pools, adapter, device)
    with job.run(models=[places.about, *([clip.about] if clip else [])], recompute=True) as run:
        if not run.complete:
            work = Probing(places, image_root, cache, adapter, settings, clip)
            run.write(work.metrics(run, known, chosen))
            work.keep(run, features, drawing)
