"""`fgvr merge`: an adapter into its base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fgvr.cli import training
from fgvr.cli.options import InputFile, InputFolder, device, model, settings, stage_io
from fgvr.errors import FgvrError, UsageError
from fgvr.job import Job
from fgvr.training.settings import Merge

if TYPE_CHECKING:
    from fgvr.models.vlm import Vlm


@click.command("merge")
@stage_io(source=False, to_folder=True)
@model
@click.option("--adapter", type=InputFolder(hashed=True), required=True, metavar="DIR",
              help="Adapter folder from align or tune.")  # fmt: skip
@click.option("--image-root", type=InputFolder(), metavar="DIR", help="Folder that image paths start from.")
@device
@settings(Merge)
@click.argument("records", metavar="[RECORDS]", required=False, type=InputFile())
def command(
    job: Job,
    model: str,
    adapter: str,
    image_root: str | None,
    device: str,
    settings: Merge,
    records: str | None,
) -> None:
    """Merge an adapter into its base: a model folder of its own.

    Writes weights, processor and chat template as transformers loads them, in the base's own precision. An
    adapter trained with --quantise nf4 has learnt on a rounded base: it is merged into that one, dequantised, unless
    --base original is given. With sample records (image and answer, description or category) it says how far the
    merged model's logits are from those of base and adapter apart. align's adapter, and tune's that goes on from it,
    are one adapter each.

    \b
    Examples:
      fgvr merge --model examples/toy/vlm --adapter runs/toy/tune -o runs/toy/merged
      fgvr merge --model hf:HuggingFaceM4/idefics2-8b --adapter tune -o merged --image-root cub/images sample.jsonl
    """
    training.there(model)
    from fgvr.models import loading
    from fgvr.models.vlm import open_vlm
    from fgvr.stages.merge import merge

    if records is not None and image_root is None:
        raise UsageError("sample records have images; give --image-root")
    sample = job.load(records, required=("image",)) if records is not None else []
    if records is not None and not sample:
        raise FgvrError(f"{records}: holds no records to measure on; leave it out, or name another file")
    trained = "dequantised" if "quantised" in loading.trained_on(adapter) else "original"
    base = settings.base or trained
    opened = [open_vlm(model, adapter, device)]

    def load() -> Vlm:
        return opened.pop() if opened else open_vlm(model, adapter, device)

    with job.run(models=[opened[0].about]) as going:
        if going.complete:
            return
        merged, errors = merge(load, trained, base, loading.own_dtype(model), sample, image_root or "")
        merged.save(going.folder)
        going.summary = {"base": base, "output_error": {kind: round(error, 8) for kind, error in errors.items()}}
        for kind, error in errors.items():
            chosen = "merged into" if kind == base else "it would be, of"
            job.say(f"relative output error on {len(sample)} records: {error:.2g}, {chosen} the {kind} base")
        if not errors:
            job.say(f"merged into the {base} base")
