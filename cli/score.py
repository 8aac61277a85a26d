"""`fgvr score`: predictions to metrics."""

from __future__ import annotations

import click

from fgvr.cli.options import InputFile, device, settings, stage_io
from fgvr.cli.scoring import NAMED, Paper, in_a_paper, load, run_names, write
from fgvr.job import Job
from fgvr.settings import Score


@click.command("score")
@stage_io
@click.option("--compare", type=NAMED, multiple=True, metavar="NAME=FILE", help="Another run's records; repeatable.")
@click.option("--versus", type=InputFile(), metavar="FILE", help="The run to be better than; as --compare.")
@click.option("--name", metavar="NAME", help="What the input's own run is called. [default: its file's name]")
@click.option("--reference", type=InputFile(), metavar="FILE", help="Concept records to compare concept records with.")
@click.option("--encoder", metavar="SPEC", help="Text encoder for semantic accuracy and for distinctiveness.")
@in_a_paper
@device
@settings(Score)
def command(
    job: Job, compare: tuple[tuple[str, str], ...], versus: str | None, name: str | None, reference: str | None,
    encoder: str | None, paper: Paper, device: str, settings: Score,
) -> None:  # fmt: skip
    """Turn predictions into metrics.

    Reads predictions, also FOCI's results, VLMEvalKit's tables (csv, tsv, xlsx, json), lmms-eval's samples and FINER's
    output, and writes metrics records {kind, metric, value, low, high, n} with 95 % intervals: shares of right
    answers, their mean over categories, macro F1, unreadable replies, positions of options, and of open answers
    FINER's scores and clustering. docs/evaluation.md defines them. Of extractions and triples, what is
    unknown, empty, copied, leaking, and what each attribute tells of the category; with `attributes_true` also what is
    right. Of concept records (concept-attrs), how they agree with --reference. Metrics records come through.

    --compare and --versus add other runs: each record then names its `run`, and where two runs answered the same
    questions their paired difference is added (bootstrap interval, McNemar's p). Files of one NAME are one run; with
    --seeds runs NAME@1, NAME@2 are one as well: `value` is their mean, `sd` the standard deviation, `seeds` their
    number. Buffers some fifty bytes of a prediction.

    \b
    Examples:
      fgvr score < predictions.jsonl | jq 'select(.metric == "accuracy").value'
      fgvr score --table --compare before=predictions-before.jsonl --name after predictions.jsonl
      fgvr score --parser strict bird-200--finedefics.json --versus bird-200--idefics2.json
    """
    from fgvr.analysis.formats import read
    from fgvr.analysis.seeds import over_seeds
    from fgvr.analysis.writing import Writer
    from fgvr.errors import FgvrError, UsageError
    from fgvr.models import open_encoder
    from fgvr.output import AtomicFolder
    from fgvr.stages.granularity import concept_attributes
    from fgvr.stages.score import Scored, score

    own, other = run_names(name, job.source, versus)
    others = [*compare, *([(other, versus)] if versus else [])]
    if (others or paper.table) and settings.write_format != "fgvr":
        raise UsageError(f"--write-format {settings.write_format} holds one run; leave other runs and tables out")
    job.settings["compare"] = [other for other, _ in others]
    paper.load(job, settings)
    told = concept_attributes(job.load(reference), reference) if reference is not None else None
    runs = load(job, others, settings)
    clip = open_encoder(encoder, device=device) if encoder else None
    with job.run(recompute=True, models=[clip.about] if clip else []) as run:
        if run.complete:
            return
        assert run.source is not None and not isinstance(run.target, AtomicFolder)
        writer = Writer(settings.write_format, run.target.write)
        mine = runs.pop(own, None) or Scored(settings.by)
        items = read(run.source, settings.format, settings.parser, job.say)
        list(run.checked(mine.take(writer.passing(items))))
        all_runs = {**runs, own: mine}
        figures = list(score(all_runs, settings.by, settings.confused, settings.confusion, clip, told, job.say))
        if versus is not None and not any("against" in record for record in figures):
            raise FgvrError(f"no question of {versus} is one of {own}; compare runs on the same questions")
        write(run, writer, own, over_seeds(figures) if settings.seeds else figures, settings, paper)
