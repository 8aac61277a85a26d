"""`fgvr score`: predictions to metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fgvr.cli.options import InputFile, device, settings, stage_io
from fgvr.job import Job
from fgvr.settings import Score


class Named(InputFile):
    """NAME=FILE: a file to read, and what its run is called."""

    name = "name=file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:  # type: ignore[override]  # a pair
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            self.fail(f"{value!r} is not NAME=FILE", param, ctx)
        return name, super().convert(path, param, ctx)


@click.command("score")
@stage_io
@click.option("--compare", type=Named(), multiple=True, metavar="NAME=FILE", help="Another run's records; repeatable.")
@click.option("--versus", type=InputFile(), metavar="FILE", help="The run to be better than; as --compare.")
@click.option("--name", metavar="NAME", help="What the input's own run is called. [default: its file's name]")
@click.option("--encoder", metavar="SPEC", help="Text encoder for the semantic accuracy of open answers.")
@device
@settings(Score)
def command(
    job: Job, compare: tuple[tuple[str, str], ...], versus: str | None, name: str | None, encoder: str | None,
    device: str, settings: Score,
) -> None:  # fmt: skip
    """Turn predictions into metrics.

    Reads predictions, also FOCI's results, VLMEvalKit's tables (csv, tsv, xlsx, json), lmms-eval's samples and FINER's
    output, and writes metrics records {kind, metric, value, low, high, n} with 95 % intervals: shares of right
    answers, their mean over categories, macro F1, unreadable replies, positions of options, and of open answers
    FINER's scores and clustering. docs/evaluation.md defines them. Extractions and triples with `attributes_true` are
    scored by their attributes and descriptions; metrics records come through as they are.

    --compare and --versus add other runs: each record then names its `run`, and where two runs answered the same
    questions their paired difference is added (bootstrap interval, McNemar's p). Files of one NAME are one run. Reads
    each file once and keeps about 50 bytes of a prediction.

    \b
    Examples:
      fgvr score < predictions.jsonl | jq 'select(.metric == "accuracy").value'
      fgvr score --table --compare before=predictions-before.jsonl --name after predictions.jsonl
      fgvr score --parser strict bird-200--finedefics.json --versus bird-200--idefics2.json
    """
    from fgvr.analysis.formats import read
    from fgvr.analysis.table import table
    from fgvr.analysis.writing import Writer
    from fgvr.errors import FgvrError, UsageError
    from fgvr.models import open_encoder
    from fgvr.output import AtomicFolder
    from fgvr.stages.score import Scored, score

    own = name or ("input" if job.source in (None, "-") else _stem(str(job.source)))
    others = [*compare, *([(versus if _stem(versus) == own else _stem(versus), versus)] if versus else [])]
    if others and settings.write_format != "fgvr":
        raise UsageError(f"--write-format {settings.write_format} holds one run; leave --compare and --versus out")
    job.settings["compare"] = [other for other, _ in others]
    runs: dict[str, Scored] = {}
    for other, path in others:
        file = job.attach(path)
        file.known_digest()
        for fault in runs.setdefault(other, Scored(settings.by)).take(read(file, None, settings.parser, job.say)):
            raise FgvrError(f"{path}: {fault}" if path not in fault.where else str(fault))
        file.digest()
    clip = open_encoder(encoder, device=device) if encoder else None
    with job.run(recompute=True, models=[clip.about] if clip else []) as run:
        if run.complete:
            return
        assert run.source is not None and not isinstance(run.target, AtomicFolder)
        items = read(run.source, settings.format, settings.parser, job.say)
        writer = Writer(settings.write_format, run.target.write)
        mine = runs.pop(own, None) or Scored(settings.by)
        for _ in run.checked(mine.take(writer.passing(items))):
            pass
        metrics = list(score({**runs, own: mine}, settings.by, settings.confused, settings.confusion, clip))
        if versus is not None and not any("against" in record for record in metrics):
            raise FgvrError(f"no question of {versus} is one of {own}; compare runs on the same questions")
        if settings.write_format != "fgvr":
            writer.end(own, metrics)
            if writer.left_out:
                job.say(f"{writer.left_out} predictions left out: {settings.write_format} holds choices only")
        elif settings.table:
            run.target.write("".join(f"{line}\n" for line in table(metrics)).encode())
        else:
            run.write(metrics)


def _stem(path: str) -> str:
    return Path(path).name.partition(".")[0]
