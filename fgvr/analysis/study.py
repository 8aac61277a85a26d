"""Models on several data sets, as "Understanding the Fine-Grained Knowledge Capabilities of Vision-Language Models"
tells of them: accuracy on each and their mean, general ability beside it, each model's gap to its own vision encoder
and when the two are right together (section 3.4); of a grid the stairs (Table 1, Figure 8), and what changing one
factor and nothing else does (Figures 5 and 7).

A record is a metrics record of kind "study" with `run`, `against` for a difference, and what it is of: `dataset`,
`benchmark`, `of` ("fine-grained" or "general"), `factor`, `from`, `to`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from fgvr.analysis.contrasts import Answers, over_sets
from fgvr.analysis.intervals import Figure, figure
from fgvr.analysis.table import aligned
from fgvr.errors import FgvrError
from fgvr.records import Record

SCOPES = ("fine-grained", "general")
PART = "+"  # between the levels of the factors in a model's name


@dataclass
class Study:
    """All that is known.

    Args:
        sets: data set -> answers of all runs.
        general_sets: which of them show general ability.
        encoders: model -> the run of its vision encoder.
        scores: model -> benchmark -> share, measured elsewhere.
        factors: what the parts of the models' names are called.
        stairs: models, each a step above the one before.
    Raises:
        FgvrError: a model or an encoder lacks a data set, or a name is unknown or has another number of parts.
    """

    sets: Mapping[str, Answers]
    general_sets: Sequence[str] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    factors: Sequence[str] = ()
    stairs: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.runs = list(dict.fromkeys(run for answers in self.sets.values() for run in answers.right))
        self.models = [run for run in self.runs if run not in self.encoders.values()]
        for run in (*self.encoders, *self.encoders.values(), *self.stairs):
            if run not in self.runs:
                raise FgvrError(f"there are no predictions of {run!r}; there are those of {', '.join(self.runs)}")
        for name, answers in self.sets.items():
            wanted = self.runs if name not in self.general_sets else self.models
            lacks = [run for run in wanted if run not in answers.right]
            if lacks:
                raise FgvrError(f"{lacks[0]} has no predictions on {name}, as others have; evaluate it there")
        for unknown in set(self.general_sets) - set(self.sets):
            raise FgvrError(f"--general-sets {unknown}: there is no such data set")
        wrong = [m for m in self.models if self.factors and m.count(PART) + 1 != len(self.factors)]
        if wrong:
            raise FgvrError(f"{wrong[0]!r} is not {PART.join(self.factors)}; name models so, or leave --factors out")

    def _of(self, scope: str) -> list[str]:
        return [name for name in self.sets if (name in self.general_sets) == (scope == "general")]

    # --- figures ---

    def mean(self, run: str, scope: str) -> Figure | None:
        """The mean over the data sets and benchmarks of a scope; None without any."""
        found = [self.sets[name].accuracy(run) for name in self._of(scope) if run in self.sets[name].right]
        if scope == "general":
            found += [(value, None, None, 1) for value in self.scores.get(run, {}).values()]
        return over_sets(found) if found else None

    def contrast(self, coefficients: Mapping[str, float], scope: str) -> Figure | None:
        """The mean of a paired difference over the data sets and benchmarks of a scope."""
        found = [self.sets[name].contrast(coefficients) for name in self._of(scope)]
        if scope == "general" and all(run in self.scores for run in coefficients):
            for benchmark in next(iter(self.scores.values()), {}):
                value = sum(c * self.scores[run][benchmark] for run, c in coefficients.items())
                found.append((value, None, None, 1))
        return over_sets(found) if found else None

    def records(self) -> Iterator[Record]:
        """Every figure."""
        for run in self.runs:
            yield from self._levels(run)
        for model, encoder in self.encoders.items():
            yield from self._beside(model, encoder)
        for before, after in zip(self.stairs, self.stairs[1:], strict=False):
            yield from self._differences("step", {before: -1, after: 1}, run=after, against=before)
        for number, factor in enumerate(self.factors):
            yield from self._effects(number, factor)

    def _levels(self, run: str) -> Iterator[Record]:
        for name, answers in self.sets.items():
            if run in answers.right:
                metric = "accuracy" if answers.klass is None else "mean-per-class accuracy"
                yield {**figure("study", metric, answers.accuracy(run)), "run": run, "dataset": name}
        for benchmark, value in self.scores.get(run, {}).items():
            yield {**figure("study", "score", (value, None, None, 1)), "run": run, "benchmark": benchmark}
        for scope in SCOPES:
            if (found := self.mean(run, scope)) is not None:
                yield {**figure("study", "mean", found), "run": run, "of": scope}

    def _beside(self, model: str, encoder: str) -> Iterator[Record]:
        """A model and its own vision encoder: the gap, and the consistency of their answers (FOCI's)."""
        about = {"run": model, "against": encoder}
        names = self._of("fine-grained")
        for name in names:
            gap = self.sets[name].contrast({model: 1, encoder: -1})
            yield {**figure("study", "gap", gap), **about, "dataset": name}
        yield from self._differences("gap", {model: 1, encoder: -1}, **about)
        for right in (True, False):
            metric = f"accuracy where the encoder is {'right' if right else 'wrong'}"
            found = {name: self.sets[name].given(model, encoder, right) for name in names}
            for name, one in found.items():
                if one is not None:
                    yield {**figure("study", metric, one), **about, "dataset": name}
            if there := [one for one in found.values() if one is not None]:
                yield {**figure("study", metric, over_sets(there)), **about, "of": SCOPES[0]}

    def _differences(self, metric: str, coefficients: Mapping[str, float], **about: str) -> Iterator[Record]:
        for scope in SCOPES if metric != "gap" else SCOPES[:1]:
            if (found := self.contrast(coefficients, scope)) is not None:
                yield {**figure("study", metric, found), **about, "of": scope}

    def pairs(self, number: int) -> dict[tuple[str, str], list[tuple[str, str]]]:
        """(from, to) of the levels of a factor -> the models that differ in it and in nothing else."""
        parts = {model: model.split(PART) for model in self.models}
        levels = list(dict.fromkeys(part[number] for part in parts.values()))
        by = {tuple(part): model for model, part in parts.items()}
        found: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for low, high in combinations(levels, 2):
            for part, model in by.items():
                other = by.get((*part[:number], high, *part[number + 1 :]))
                if part[number] == low and other is not None:
                    found.setdefault((low, high), []).append((model, other))
        return found

    def _effects(self, number: int, factor: str) -> Iterator[Record]:
        for (low, high), pairs in self.pairs(number).items():
            for before, after in pairs:
                about = {"run": after, "against": before, "factor": factor}
                yield from self._differences("difference", {before: -1, after: 1}, **about)
            coefficients = {run: sign / len(pairs) for pair in pairs for run, sign in zip(pair, (-1, 1), strict=True)}
            told = {"factor": factor, "from": low, "to": high}
            for record in self._differences("effect", coefficients, **told):
                yield {**record, "n": len(pairs)}


# --- tables ---


def table(study: Study) -> list[str]:
    """Lines for people, in percent and percentage points: models, then stairs and effects where there are any."""
    lines = aligned(_models(study))
    if study.stairs:
        lines += ["", *aligned(_stairs(study))]
    if study.factors:
        effects = [record for record in study.records() if record["metric"] == "effect"]
        lines += ["", *aligned(_effects(effects))]
    return lines


def _models(study: Study) -> list[list[str]]:
    others = set(study.encoders.values())
    who = others.pop() if len(others) == 1 else "encoder"
    beside = [who, "gap", f"where {who} right", f"where {who} wrong"] if study.encoders else []
    general = any(study.mean(run, "general") is not None for run in study.runs)
    rows = [["", *study.sets, "fine-grained mean", *(["general mean"] if general else []), *beside]]
    for run in study.models:
        cells = [_percent(answers.accuracy(run)[:1]) for answers in study.sets.values()]
        cells += [_percent(study.mean(run, scope)) for scope in SCOPES[: 1 + general]]
        if study.encoders:
            found = {r["metric"]: r for r in _own(study, run) if r.get("of") == SCOPES[0]}
            encoder = study.encoders.get(run)
            cells.append(_percent(study.mean(encoder, SCOPES[0])) if encoder else "")
            where = (f"accuracy where the encoder is {word}" for word in ("right", "wrong"))
            cells += [_cell(found.get(name), name == "gap") for name in ("gap", *where)]
        rows.append([run, *cells])
    return rows


def _own(study: Study, model: str) -> list[Record]:
    return list(study._beside(model, study.encoders[model])) if model in study.encoders else []


def _stairs(study: Study) -> list[list[str]]:
    rows = [["stairs", *study.factors, "fine-grained", "step", "general", "step"]]
    for before, run in zip(["", *study.stairs], study.stairs, strict=False):
        cells = run.split(PART) if study.factors else []
        for scope in SCOPES:
            step = study.contrast({before: -1, run: 1}, scope) if before else None
            cells += [_percent((study.mean(run, scope) or ())[:1]), _percent(step, True)]
        rows.append([run, *cells])
    return rows


def _effects(effects: Sequence[Record]) -> list[list[str]]:
    rows = [["effect of", "from", "to", *SCOPES, "pairs"]]
    kinds = dict.fromkeys((record["factor"], record["from"], record["to"]) for record in effects)
    for kind in kinds:
        own = {r["of"]: r for r in effects if (r["factor"], r["from"], r["to"]) == kind}
        count = str(next(iter(own.values()))["n"])
        rows.append([*kind, *(_cell(own.get(scope), True) for scope in SCOPES), count])
    return rows


def _cell(record: Record | None, signed: bool) -> str:
    return "" if record is None else _percent((record["value"], record["low"], record["high"]), signed)


def _percent(found: Sequence[float | None] | None, signed: bool = False) -> str:
    """63.0, or with its interval +5.1 [+3.9, +6.3]."""
    if not found or found[0] is None:
        return ""
    value, low, high = (100 * x if x is not None else None for x in (*found, None, None)[:3])
    sign = "+" if signed else ""
    text = f"{value:{sign}.1f}"
    return text if low is None or high is None else f"{text} [{low:{sign}.1f}, {high:{sign}.1f}]"
