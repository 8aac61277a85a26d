"""What `fgvr study` does with files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fgvr.errors import FgvrError, UsageError
from fgvr.job import Job

if TYPE_CHECKING:
    from fgvr.analysis.general import Scores
    from fgvr.analysis.settings import Study as Settings
    from fgvr.analysis.study import Study


def run(
    job: Job, predictions: Sequence[tuple[str, str, str]], encoders: Sequence[str], general: Sequence[str],
    stairs: Sequence[str], plots: str | None, settings: Settings,
) -> None:  # fmt: skip
    """Read all, compare, write records or a table, and draw."""
    from fgvr.analysis.study import table

    if job.shard is not None:
        raise UsageError("--shard makes no sense for a study; leave it out")
    wrong = [pair for pair in encoders if "=" not in pair]
    if wrong:
        raise UsageError(f"--encoder {wrong[0]!r} is not MODEL=RUN")
    job.settings |= {"predictions": [f"{dataset}/{name}" for dataset, name, _ in predictions]}
    job.settings |= {"general": [Path(named.rpartition("=")[2]).name for named in general]}
    study = _study(job, predictions, encoders, general, stairs, settings)
    with job.run(recompute=True) as going:
        if going.complete:
            return
        if plots is not None:
            from fgvr.analysis.charts import draw

            if not draw(study, Path(plots)):
                job.say("--plots: one model without --general, --encoder, --step and --factors leaves nothing to draw")
        if settings.table:
            going.write_text("".join(f"{line}\n" for line in table(study)))
        else:
            going.write(list(study.records()))


def _study(
    job: Job, predictions: Sequence[tuple[str, str, str]], encoders: Sequence[str], general: Sequence[str],
    stairs: Sequence[str], settings: Settings,
) -> Study:  # fmt: skip
    from fgvr.analysis.contrasts import answers
    from fgvr.analysis.study import Study
    from fgvr.cli.scoring import load
    from fgvr.settings import Score

    sets: dict[str, list[tuple[str, str]]] = {}
    for dataset, name, path in predictions:
        if any(name == other for other, _ in sets.setdefault(dataset, [])):
            raise FgvrError(f"{dataset}/{name} comes twice; name each run once")
        sets[dataset].append((name, path))
    per_class, found = settings.named("per_class"), {}
    for dataset, files in sets.items():
        runs = {name: scored.predictions for name, scored in load(job, files, Score()).items()}
        found[dataset] = answers(dataset, runs, dataset in per_class, settings.measure)
    pairs = dict(pair.split("=", 1) for pair in encoders)
    if len(pairs) < len(encoders):
        raise UsageError("--encoder names a model twice; give each model one encoder")
    scores = _general(job, general, predictions)
    return Study(found, settings.named("general_sets"), pairs, scores, settings.named("factors"), stairs)


def _general(job: Job, files: Sequence[str], predictions: Sequence[tuple[str, str, str]]) -> Scores:
    from fgvr.analysis.general import joined, read

    parts = {}
    for named in files:
        model, equals, path = named.partition("=")
        path, whose = (path, model) if equals and not os.path.exists(named) else (named, None)
        parts[named] = read(path, b"".join(job.attach(path).lines()), whose)
    return joined(parts, list(dict.fromkeys(run for _, run, _ in predictions)))
