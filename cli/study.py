"""`fgvr study`: models and grids side by side."""

from __future__ import annotations

import click

from fgvr.analysis.settings import Study
from fgvr.cli.options import FileWith, How, settings, stage_io
from fgvr.job import Job

ANSWERED = FileWith("DATASET/RUN=FILE", "(?P<DATASET>[^=/]+)/(?P<RUN>[^=]+)=(?P<FILE>.+)")


@click.command("study")
@click.argument("predictions", metavar="DATASET/RUN=FILE...", type=ANSWERED, nargs=-1, required=True)
@stage_io(source=False)
@click.option("--encoder", "encoders", multiple=True, metavar="MODEL=RUN",
              help="Which run is the model's own vision encoder; repeatable.")  # fmt: skip
@click.option("--general", multiple=True, metavar="[MODEL=]FILE", help="Scores of general ability; repeatable.")
@click.option("--step", "stairs", multiple=True, metavar="MODEL", help="The next step of the stairs; repeatable.")
@click.option("--plots", cls=How, type=click.Path(), metavar="DIR", help="Also draw figures there, as .png and .svg.")
@settings(Study)
def command(
    job: Job, predictions: tuple[tuple[str, str, str], ...], encoders: tuple[str, ...], general: tuple[str, ...],
    stairs: tuple[str, ...], plots: str | None, settings: Study,
) -> None:  # fmt: skip
    """Compare models on several data sets, and with their own vision encoders.

    Reads predictions (of eval, or other tools' as score reads them), one FILE for each run on each data set, where all
    runs answer the same questions. Writes metrics records: accuracy on each data set and its mean, the gap of each
    model to the run that --encoder names and its accuracy where that one is right and where it is wrong, and general
    ability, from --general (a CSV with `model`, lmms-eval's or VLMEvalKit's result) or --general-sets. Of a grid whose
    runs are named by their levels (small+clip+none): with --factors what changing one of them alone does, with --step
    the stairs. Differences are paired, with 95 % intervals. Buffers some fifty bytes of a prediction.

    \b
    Examples:
      fgvr study birds/toy=predictions.jsonl birds/clip=encoder.jsonl --encoder toy=clip --table
      fgvr study pets/a=a.jsonl pets/b=b.jsonl --general scores.csv --plots figures > study.jsonl
    """
    from fgvr.cli import studying

    studying.run(job, predictions, encoders, general, stairs, plots, settings)
