"""`fgvr probe`: object features to metrics."""

from __future__ import annotations

import os

import click

from fgvr.cli.options import InputFile, adapter, device, image_root, model, settings, stage_io
from fgvr.errors import UsageError
from fgvr.job import Job
from fgvr.provenance import portable
from fgvr.settings import Probe


@click.command("probe")
@stage_io
@model
@adapter
@image_root
@click.option("--train", type=InputFile(), required=True, metavar="FILE", help="Records of the training images.")
@click.option("--features", type=click.Path(), metavar="FILE", help="Also write the object features, as safetensors.")
@device
@settings(Probe)
def command(
    job: Job,
    model: str,
    adapter: str | None,
    image_root: str,
    train: str,
    features: str | None,
    device: str,
    settings: Probe,
) -> None:
    """Fit a linear probe on a model's object features.

    Reads the test images' records (image, category) and writes metrics records: the accuracy of a linear probe
    fitted on --train, on the features of the last object token and on their mean; and, of the embeddings that
    alignment is about, alignment quality with the category names, inter-class distance, intra-class variance and
    retrieval R@1 between objects and names. A fifth of each category's training images chooses the probe's penalty.
    --features keeps the test images' features with their ids. Buffers the stream (records and features, not images).

    \b
    Examples:
      fgvr probe --model examples/toy/vlm --image-root images --train train.jsonl < test.jsonl
      fgvr probe --model examples/toy/vlm --adapter runs/toy/tune --image-root images --train train.jsonl test.jsonl |
        fgvr score --table
    """
    from fgvr.models.vlm import open_vlm
    from fgvr.stages import probe

    if features is not None:
        _check(features, job)
        job.settings["features"] = portable(features, job.output)
    known = job.load(train, required=("image", "category"), unique=True)
    vlm = open_vlm(model, adapter=adapter, device=device)
    with job.run(models=[vlm.about], recompute=True) as run:
        if run.complete:
            return
        items = job.progress(run.read(required=("image", "category")))
        kept, of_test = probe.features(items, vlm, image_root, settings.batch_size)
        test = list(run.checked(kept))
        of_train = probe.training_features(known, vlm, image_root, settings.batch_size)
        metrics = list(probe.probe(known, of_train, test, of_test, vlm, settings.seed))
        if features is not None:
            from fgvr import tensors

            tensors.save(features, of_test, [record["id"] for record in test], run.record())
        run.write(metrics)


def _check(features: str, job: Job) -> None:
    """Refuse a place that cannot be written before anything is computed."""
    if not os.path.isdir(os.path.dirname(os.path.realpath(features))):
        raise UsageError(f"--features {features}: there is no such folder; make it first")
    if job.output is not None and os.path.realpath(features) == os.path.realpath(job.output):
        raise UsageError(f"--features and -o are both {features}; name two files")
