"""Scores of general ability that others have measured: of a table, of lmms-eval's results, of VLMEvalKit's.

Shares, or percentages where a score of the file's same benchmark is above 1.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from fgvr.errors import FgvrError

Scores = dict[str, dict[str, float]]  # model -> benchmark -> share
FORMS = "a table with `model` and a column a benchmark, or lmms-eval's or VLMEvalKit's result"


def read(label: str, data: bytes, model: str | None = None) -> Scores:
    """The scores of a file.

    A CSV has the columns model, benchmark, score, or model and one for each benchmark. VLMEvalKit's `…_acc.csv` has a
    column Overall: the benchmark is called after the file. lmms-eval's JSON has `results`: of each task its overall
    metric, else its first.

    Args:
        label: the file's name. model: whose scores they are, where the file does not say.
    Raises:
        FgvrError: it is none of these, does not say whose, or a score is no number from 0 to 100.
    """
    text = data.decode("utf-8-sig", "replace")
    try:
        found = _lmms_eval(label, json.loads(text), model) if text.lstrip()[:1] == "{" else _table(label, text, model)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FgvrError(f"--general {label}: {error}; give {FORMS}") from error
    if not any(found.values()):
        raise FgvrError(f"--general {label}: holds no scores; give {FORMS}")
    return found


def _number(text: Any) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise ValueError(f"the score {text!r} is neither a share nor a percentage")
    return value


def _share(text: Any) -> float:
    value = _number(text)
    return value / 100 if value > 1 else value


def _set(scores: dict[str, float], benchmark: str, text: Any) -> None:
    value = _number(text)
    if scores.setdefault(benchmark, value) != value:
        raise ValueError(f"{benchmark} has the scores {scores[benchmark]:g} and {value:g}")


def _table(label: str, text: str, model: str | None) -> Scores:
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in text[:200] else ","))
    names = {str(name).lower(): name for name in (rows[0] if rows else {})}
    if "overall" in names:
        return {_owner(label, model): {_benchmark(label, str(model)): _share(rows[0][names["overall"]])}}
    found: Scores = {}
    for row in rows:
        whose = found.setdefault(row[names["model"]] if "model" in names else _owner(label, model), {})
        if {"benchmark", "score"} <= set(names):
            _set(whose, row[names["benchmark"]], row[names["score"]])
        for name, text in row.items() if not {"benchmark", "score"} <= set(names) else ():
            if name != names.get("model") and text not in (None, ""):
                _set(whose, str(name), text)
    percent = {name for own in found.values() for name, value in own.items() if value > 1}
    return {model: {n: v / 100 if n in percent else v for n, v in own.items()} for model, own in found.items()}


def _benchmark(label: str, model: str) -> str:
    """runs/Qwen2-VL-7B_MMBench_DEV_EN_acc.csv -> MMBench_DEV_EN."""
    stem = label.rpartition("/")[2].rpartition(".")[0]
    for end in ("_acc", "_score"):
        stem = stem.removesuffix(end)
    return stem.removeprefix(f"{model.rpartition('/')[2]}_")


def _owner(label: str, model: str | None) -> str:
    if model is None:
        raise FgvrError(f"--general {label}: does not say whose scores it holds; give MODEL={label}")
    return model


def _lmms_eval(label: str, found: Mapping[str, Any], model: str | None) -> Scores:
    scores: dict[str, float] = {}
    for task, metrics in found["results"].items():
        numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and "stderr" not in k and "," in k}
        overall = [k for k in numbers if k.partition(",")[0].lower() in ("overall", "average")]
        if numbers:
            scores[task] = _share(numbers[(overall or list(numbers))[0]])
    return {model or found.get("model_name") or _owner(label, None): scores}


def joined(parts: Mapping[str, Scores], models: list[str]) -> Scores:
    """All files' scores of some models, the benchmarks that all of them have.

    Raises:
        FgvrError: two files differ in a score, or the models have no benchmark in common.
    """
    found: Scores = {model: {} for model in models}
    for label, scores in parts.items():
        for model in models:
            for benchmark, value in scores.get(model, {}).items():
                if found[model].setdefault(benchmark, value) != value:
                    raise FgvrError(f"--general {label}: has another {benchmark} of {model} than a file before it")
    known = {model: own for model, own in found.items() if own}
    shared = set.intersection(*map(set, known.values())) if known else set()
    if parts and not shared:
        raise FgvrError(f"--general: none of {', '.join(models)} have a benchmark in common; check the models' names")
    return {model: {name: own[name] for name in own if name in shared} for model, own in known.items()}
