"""`fgvr report`: runs to one page."""

from __future__ import annotations

import os

import click

from fgvr.cli.options import InputFile, InputFolder, OfFile, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Report


class RunPath(OfFile):
    """[NAME=]PATH of a file or of a run folder."""

    name = "run"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, str]:
        name, equals, path = str(value).partition("=")
        if not equals or os.path.exists(str(value)):
            name, path = "", str(value)
        return name or None, path if os.path.isdir(path) else self.file(path, param, ctx)


@click.command("report")
@click.argument("runs", metavar="RUN...", type=RunPath(), nargs=-1, required=True)
@stage_io(source=False)
@click.option("--image-root", type=InputFolder(), metavar="DIR", help="Folder that image paths start from.")
@click.option("--map", "maps", type=InputFile(), multiple=True, metavar="FILE", help="Places from fgvr probe --map.")
@click.option("--tables", type=click.Path(), metavar="DIR", help="Also write every table there: .csv, .md and .tex.")
@click.option("--figures", type=click.Path(), metavar="DIR", help="Also draw there: confusion, corrections, errors.")
@settings(Report)
def command(
    job: Job, runs: tuple[tuple[str | None, str], ...], image_root: str | None, maps: tuple[str, ...],
    tables: str | None, figures: str | None, settings: Report,
) -> None:  # fmt: skip
    """Show runs on one page: figures, confusion, errors, provenance.

    Each RUN is a folder of `make all`, or a file of predictions in any form that `fgvr score` reads, also another
    tool's; NAME=RUN names it, and files of one name are one run. Writes one HTML file that needs no network: tables
    that sort, filter and export, charts, errors with images of the category given, training curves, a map of
    embeddings, and what each number was made from. Images are looked for in --image-root, else in RUN/images. --latex
    writes the tables for a paper instead. Buffers the stream.

    \b
    Examples:
      fgvr report runs/toy > report.html
      fgvr report ours=predictions.jsonl theirs=finedefics.json --image-root CUB_200_2011/images -o report.html
    """
    from pathlib import Path

    from fgvr.errors import UsageError
    from fgvr.report import figures as drawings
    from fgvr.report import gather, page
    from fgvr.report import tables as forms

    if job.shard is not None:
        raise UsageError("--shard makes no sense for a report; leave it out")
    job.settings["runs"] = [name for name, _ in runs]
    found = gather.runs_of(runs)
    folders = dict.fromkeys(folder for _, _, folder in found if folder)
    wanted = [*(file for _, file, _ in found), *(file for folder in folders for file in gather.beside(folder).values())]
    sources = {file: job.attach(str(file)) for file in (*wanted, *map(Path, maps))}
    with job.run(recompute=True) as run:
        if run.complete:
            return
        root = Path(image_root) if image_root else None
        material = gather.load(found, sources, run.checked, root, settings.parser, job.say)
        run.passed = sum(len(each.predictions) for each in material.runs.values())
        for name in maps:
            material.add_map(name, sources[Path(name)])
        report = page.build(material, settings.title, settings.errors_shown, settings.thumbnail_px, job.say)
        if tables is not None:
            forms.save(report.tables, Path(tables))
        if figures is not None:
            drawings.save(report.data, material, Path(figures))
        run.write_text("\n".join(map(forms.latex, report.tables)) if settings.latex else page.html(report))
