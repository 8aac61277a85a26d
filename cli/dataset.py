"""`fgvr dataset`: data sets on disk to image records."""

from __future__ import annotations

from pathlib import Path

import click

from fgvr.cli.options import InputFile, InputFolder, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Folder, Toy


@click.group("dataset", no_args_is_help=False)
def command() -> None:
    """Turn a data set on disk into image records."""


split_option = click.option("--split", required=True, help="Which part of the data set: train, val, test.")


@command.command("toy")
@stage_io(source=False)
@click.option("--root", type=click.Path(file_okay=False), required=True, metavar="DIR", help="Where images are drawn.")
@click.option("--split", required=True, type=click.Choice(["train", "val", "test"]), help="Which images to draw.")
@settings(Toy)
def toy(job: Job, root: str, split: str, settings: Toy) -> None:
    """Draw a small world of birds: images under --root, image records out.

    An image depends on its id and the seed only. Streams.

    \b
    Example:
      fgvr dataset toy --root runs/toy/images --split test -o runs/toy/test.jsonl
    """
    from fgvr.datasets import open_dataset

    Path(root).mkdir(parents=True, exist_ok=True)
    with job.run(images=root) as run:
        run.write(open_dataset("toy")(Path(root), split, settings))


@command.command("folder")
@stage_io(source=False)
@click.option("--root", type=InputFolder(), required=True, metavar="DIR", help="Folder of split folders of categories.")
@split_option
@click.option("--split-file", type=InputFile(), metavar="CSV", help="Columns path, split and perhaps category.")
@click.option("--superclass", required=True, help="What all the images show: bird, car, …")
@settings(Folder)
def folder(
    job: Job, root: str, split: str, split_file: str | None, superclass: str, settings: Folder
) -> None:
    """Read images in folders: ROOT/SPLIT/CATEGORY/*.jpg, or as --split-file says.

    Writes image records sorted by path; the id is the path without its suffix, the category the folder's name with
    spaces for underscores. Hidden files and files that are no images by their suffix are left out. Streams.

    \b
    Example:
      fgvr dataset folder --root photos --split test --superclass product | jq -r .category | uniq -c
    """
    from fgvr.datasets.folder import list_split_file, list_split_folder, records

    found = list_split_file(job.attach(split_file), split) if split_file else list_split_folder(Path(root), split)
    with job.run(images=root) as run:
        run.write(records(Path(root), found, split, superclass, settings))
    if found.left_out:
        job.say(f"{found.left_out} files left out: hidden, or no image by their suffix")
