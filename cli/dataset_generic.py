"""`fgvr dataset toy | folder | table | hf`: images of no published data set."""

from __future__ import annotations

from pathlib import Path

import click

from fgvr.cli.dataset_published import labels_option, read_labels
from fgvr.cli.options import InputFile, InputFolder, settings, stage_io
from fgvr.datasets.settings import Folder, Hf, Table, Toy
from fgvr.job import Job

split_option = click.option("--split", required=True, help="Which part of the data set: train, val, test.")
superclass_option = click.option("--superclass", required=True, help="What all the images show: bird, car, …")
root_option = click.option(
    "--root", type=InputFolder(), required=True, metavar="DIR", help="Folder that image paths start from."
)
into_option = click.option(
    "--root", type=click.Path(file_okay=False), required=True, metavar="DIR", help="Where images are written."
)


@click.command("toy")
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
    from fgvr.datasets.toy import records

    Path(root).mkdir(parents=True, exist_ok=True)
    with job.run(images=root) as run:
        run.write(records(Path(root), split, settings))


@click.command("folder")
@stage_io(source=False)
@click.option("--root", type=InputFolder(), required=True, metavar="DIR", help="Folder of split folders of categories.")
@split_option
@click.option("--split-file", type=InputFile(), metavar="CSV", help="Columns path, split and perhaps category.")
@superclass_option
@labels_option
@settings(Folder)
def folder(
    job: Job, root: str, split: str, split_file: str | None, superclass: str, labels: str | None, settings: Folder
) -> None:
    """Read images in folders: ROOT/SPLIT/CATEGORY/*.jpg, or as --split-file says.

    Writes image records sorted by path; the id is the path without its suffix, the category the folder's name with
    spaces for underscores. Hidden files and files that are no images by their suffix are left out. Streams.

    \b
    Example:
      fgvr dataset folder --root photos --split test --superclass product | jq -r .category | uniq -c
    """
    from fgvr.datasets.folder import list_split_file, list_split_folder, records

    given = read_labels(job, labels)
    found = list_split_file(job.attach(split_file), split) if split_file else list_split_folder(Path(root), split)
    with job.run(images=root) as run:
        items = records(Path(root), found, split, superclass, settings)
        run.write(given.put(items, job.say) if given else items)
    if found.left_out:
        job.say(f"{found.left_out} files left out: hidden, or no image by their suffix")


@click.command("table")
@stage_io(source=False)
@click.option("--file", required=True, type=InputFile(), metavar="FILE", help="CSV, TSV or else JSONL; - for stdin.")
@root_option
@split_option
@superclass_option
@labels_option
@settings(Table)
def table(
    job: Job, file: str, root: str, split: str, superclass: str, labels: str | None, settings: Table
) -> None:
    """Read images that the rows of a table name.

    Writes image records in the order of the rows; the id is the image's path without its suffix. Categories that differ
    only in case or Unicode form are one, spelt as the table's first row has it. Streams.

    \b
    Example:
      fgvr dataset table --file flowers.jsonl --category-column label --root data --split test --superclass flower
    """
    from fgvr.datasets.table import records

    given = read_labels(job, labels)
    source = job.attach(file)
    with job.run(images=root) as run:
        items = records(source, Path(root), split, superclass, settings, job.say)
        run.write(given.put(items, job.say) if given else items)


@click.command("hf")
@stage_io(source=False)
@click.option("--from", "name", required=True, metavar="NAME", help="Hub id, parquet file, or folder of parquet files.")
@into_option
@split_option
@superclass_option
@labels_option
@settings(Hf)
def hf(job: Job, name: str, root: str, split: str, superclass: str, labels: str | None, settings: Hf) -> None:
    """Read a data set of the library `datasets`; needs fgvr[hf].

    Images are written below --root as they are stored, <split>/<number>; category names have spaces for underscores.
    Of local files those whose name holds the split are read, or else all. Streams.

    \b
    Example:
      fgvr dataset hf --from birds/train-00000-of-00001.parquet --root images --split train --superclass bird
    """
    from fgvr.datasets.hf import open_rows, parquet, records

    given = read_labels(job, labels)
    rows = open_rows(name, split, settings)
    if files := parquet(name):
        job.settings["name"] = Path(name).name
        for path in files:
            job.attach(path)
    Path(root).mkdir(parents=True, exist_ok=True)
    with job.run(images=root) as run:
        items = records(rows, Path(root), split, superclass, settings)
        run.write(given.put(items, job.say) if given else items)


COMMANDS = (toy, folder, table, hf)
