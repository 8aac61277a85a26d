"""`fgvr score`: predictions to metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fgvr.cli.options import InputFile, stage_io
from fgvr.job import Job
from fgvr.records import Record


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
@click.option("--name", metavar="NAME", help="What the input's own run is called. [default: its file's name]")
@click.option("--by", metavar="FIELD", help="The share of right answers also by category, superclass, …")
@click.option("--table", is_flag=True, help="Write a table for people, not records.")
def command(
    job: Job, compare: tuple[tuple[str, str], ...], name: str | None, by: str | None, table: bool
) -> None:
    """Turn predictions into metrics.

    Reads predictions and writes metrics records {kind, metric, value, low, high, n}: for each kind of question the
    share of right answers (95 % Wilson interval), its mean over categories, and the share of replies that name no
    answer. Extractions and triples with `attributes_true` are scored by their attributes and descriptions; metrics
    records come through as they are. --compare adds other runs: each record then names its `run`, and where two runs
    answered the same questions their paired difference is added (bootstrap interval, McNemar's p). Files of one NAME
    are one run. Buffers.

    \b
    Examples:
      fgvr score < predictions.jsonl | jq 'select(.metric == "accuracy").value'
      fgvr score --table --compare before=predictions-before.jsonl --name after predictions.jsonl
    """
    from fgvr.analysis.table import table as lines
    from fgvr.errors import FgvrError, RecordError
    from fgvr.output import AtomicFolder
    from fgvr.stages.score import known, score
    from fgvr.stream import each

    own = name or ("input" if job.source in (None, "-") else Path(str(job.source)).name.partition(".")[0])
    job.settings["compare"] = [other for other, _ in compare]
    runs: dict[str, list[Record]] = {}
    for other, path in compare:
        for record in job.load(path, unique=True):
            try:
                runs.setdefault(other, []).append(known(record, by))
            except RecordError as error:
                raise FgvrError(f"{path}: {record['id']}: {error}") from error
    with job.run(recompute=True) as run:
        if run.complete:
            return
        found = run.checked(each(run.read(), lambda record: known(record, by)))
        own_records = [*runs.pop(own, []), *found]
        metrics = list(score({**runs, own: own_records}, by))
        if table:
            assert not isinstance(run.target, AtomicFolder)
            run.target.write("".join(f"{line}\n" for line in lines(metrics)).encode())
        else:
            run.write(metrics)
