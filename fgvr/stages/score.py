"""predictions, extractions -> metrics records.

A metrics record is {kind, metric, value, low, high, n}: shares in [0, 1] with a 95 % interval (null where there is
none) over n things; what a figure is of (a level, a position, a category) stands in further fields. Records with
`attributes_true` are scored by their `attributes` and their `description`. Metrics records, such as probe's, come
through as they are, so that one table can hold them. docs/evaluation.md defines every figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from fgvr import metrics
from fgvr.analysis import concepts, intervals
from fgvr.analysis.columns import Predictions, same_answers
from fgvr.analysis.concepts import Reference
from fgvr.analysis.descriptions import quality
from fgvr.analysis.formats import NOTHING, Say
from fgvr.analysis.intervals import figure, metric_record
from fgvr.analysis.statements import answers, statements, told
from fgvr.errors import FgvrError, RecordError
from fgvr.models.base import Encoder
from fgvr.records import Record, check, texts
from fgvr.stream import Bad, Item, bad

if TYPE_CHECKING:
    from numpy import ndarray

NEEDED = {
    "metric": ("kind", "metric", "value"),
    "prediction": ("kind", "prediction", "correct"),
    "extraction": (),
    "concept": ("category",),
}
RIGHT = {"open": "exact match"}  # what a share of right answers is called, where it is not "accuracy"
GRADED = {
    "substring": "substring match",
    "f1": "token F1",
    "em": "FINER EM, gold in prediction",
    "em_older": "FINER EM, prediction in gold",
    "finer_f1": "FINER F1",
    "rouge": "ROUGE-L",
    "names": "names the category",
    "circular": "circular accuracy",
    "top5": "top-5 accuracy",
}
SHARES = {"substring", "em", "em_older", "names", "circular", "top5"}  # each 0 or 1
CHUNK = 1024  # records taken at once


def known(record: Record, by: str | None = None) -> Record:
    """The record, when it can be scored; a metrics record without the id that reading it gave it.

    Raises:
        RecordError: there is nothing to score, or a field is of the wrong type.
    """
    kind = _sort(record)
    check(record, NEEDED[kind])
    if kind == "prediction":
        may = ("category", "answer", "image", "options")
        check(record, ("id", *(name for name in may if record.get(name) is not None)))
        if by is not None:
            check(record, (by,))
            if not isinstance(record[by], str):
                raise RecordError(f"{by!r} must be text for --by; name another field")
        texts(record, "aliases")
    if kind == "extraction":
        check(record, [name for name in ("attributes_true", "attributes", "description") if name in record])
        texts(record, "aliases")
    if kind == "concept":
        texts(record, "required"), texts(record, "likely")
    if kind == "metric" and any(not _number(record.get(name, 0)) for name in ("low", "high", "p", "n", "sd")):
        raise RecordError("'low', 'high', 'p', 'n' and 'sd' must be numbers; correct the record")
    return {name: value for name, value in record.items() if name != "id"} if kind == "metric" else record


def _number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _sort(record: Record) -> str:
    if "metric" in record:
        return "metric"
    if "prediction" in record or "correct" in record:
        return "prediction"
    if "attributes" in record or "description" in record:
        return "extraction"
    if isinstance(record.get("required"), list):
        return "concept"
    raise RecordError(NOTHING)


class Scored:
    """What is known of one run: predictions by kind, column by column, and the other records as they are."""

    def __init__(self, by: str | None = None) -> None:
        self.by = by
        self.predictions: dict[str, Predictions] = {}
        self.extractions: list[Record] = []
        self.metrics: list[Record] = []
        self.concepts: list[Record] = []

    def take(self, items: Iterable[Item]) -> Iterator[Bad]:
        """Take all records; gives back what cannot be scored."""
        chunk: list[Record] = []
        for item in items:
            if not isinstance(item, Bad):
                chunk.append(item)
                if len(chunk) < CHUNK:
                    continue
            yield from self._take(chunk)
            chunk = []
            if isinstance(item, Bad):
                yield item
        yield from self._take(chunk)

    def _take(self, chunk: list[Record]) -> Iterator[Bad]:
        kinds: dict[str, list[Record]] = {}
        for record in chunk:
            if "prediction" in record and "metric" not in record and type(record.get("kind")) is str:
                kinds.setdefault(record["kind"], []).append(record)
            else:
                yield from self._one(record)
        for kind, rows in kinds.items():
            try:
                self._of(kind).add(rows)
            except (KeyError, TypeError, ValueError, AttributeError, RecordError):  # some record is faulty
                for record in rows:
                    yield from self._one(record)

    def _one(self, record: Record) -> Iterator[Bad]:
        try:
            kept = known(record, self.by)
            kind = _sort(record)
        except RecordError as error:
            yield bad(record, error)
            return
        if kind == "prediction":
            try:
                self._of(record["kind"]).add([record])
            except RecordError as error:
                yield bad(record, error)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                yield bad(record, f"cannot be scored ({error}); correct the record")
        else:
            {"extraction": self.extractions, "metric": self.metrics, "concept": self.concepts}[kind].append(kept)

    def _of(self, kind: str) -> Predictions:
        return self.predictions.setdefault(kind, Predictions(kind, self.by))


def score(
    runs: Mapping[str, Scored], by: str | None = None, confused: int = 0, matrix: bool = False,
    encoder: Encoder | None = None, reference: Reference | None = None, say: Say = lambda line: None,
) -> Iterator[Record]:  # fmt: skip
    """The metrics of one or several runs; of several, also the paired difference of the last to each other one.

    Args:
        runs: by the name of the run; it enters the metrics records (`run`) when there are several.
        by: the field that they were taken with: the shares of right answers also for each of its values.
        confused: how many of the most confused pairs of classes are told. matrix: the whole confusion matrix is.
        encoder: its texts give the semantic accuracy of open answers.
        reference: what the attributes of concept records are compared with.
        say: told of questions of two runs that only seem to be the same.
    Raises:
        FgvrError: an id comes twice in a run.
    """
    *others, last = runs
    for name, run in runs.items():
        for found in _run(name, run, by, confused, matrix, encoder, reference):
            yield {"run": name, **found} if others else found
    for name in others:
        for found in _differences(runs[name], runs[last], f"{last} and {name}", say):
            yield {"run": last, "against": name, **found}


def _run(
    name: str, run: Scored, by: str | None, confused: int, matrix: bool, encoder: Encoder | None,
    reference: Reference | None,
) -> Iterator[Record]:  # fmt: skip
    for kind, table in run.predictions.items():
        if not intervals.all_differ(table["key"]):
            raise FgvrError(f"run {name!r}: a {kind} question comes twice; give each file once")
        yield from _predictions(table, by)
        yield from _confusion(table, confused, matrix)
        if encoder is not None and kind == "open":
            yield from _semantic(table, encoder)
    yield from statements(run.extractions, "attributes", "attribute accuracy", answers, each=True)
    yield from statements(run.extractions, "description", "description accuracy", told)
    if run.extractions:
        yield from quality(run.extractions, encoder)
    if run.concepts:
        if reference is None:
            raise FgvrError(f"run {name!r} holds concept attributes, which score needs --reference FILE for")
        yield from concepts.compared(run.concepts, reference, encoder)
    yield from run.metrics


# --- predictions ------------------------------------------------------------------------------------------------------


def _predictions(table: Predictions, by: str | None) -> Iterator[Record]:
    """Of one kind of question; a question whose answer is not known counts for the failure rate alone."""
    kind, name = table.kind, RIGHT.get(table.kind, "accuracy")
    marked = table["correct"] >= 0
    right, klass = table["correct"][marked] == 1, table["klass"][marked]
    unit = table.image(marked)
    if kind != "caption" and marked.any():
        yield figure(kind, name, intervals.share(right, unit))
        if (klass >= 0).all():
            yield figure(kind, f"mean-per-class {name}", intervals.mean_per_class(klass, right, unit))
        yield from _classes(table, marked, unit)
    yield figure(kind, "failure rate", intervals.share(table["failed"], table.image()))
    if kind == "mcq" and "count" in table:
        yield from _positions(table, marked)
    if kind == "yesno" and marked.any():
        yield from _yes(table, marked)
    yield from _replies(table)
    yield from _turned(table, marked, name)
    if by is not None and kind != "caption":
        group = table["group"][marked]
        for number, value in enumerate(table.groups.texts):
            if (group == number).any():
                own = None if unit is None else intervals.units(unit[group == number])
                yield {**figure(kind, name, intervals.share(right[group == number], own)), by: value}


def _pairs(table: Predictions, marked: ndarray) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """(gold, said, cell of each question, count) of the cells: said is the gold number where the answer is right, be
    it by an alias, and -1 where there is none."""
    import numpy as np

    gold = table["gold"][marked].astype(np.int64)
    said = np.where(table["correct"][marked] == 1, gold, table["said"][marked])
    wide = len(table.names.texts) + 1
    cells, cell, counts = np.unique(gold * wide + said + 1, return_inverse=True, return_counts=True)
    return cells // wide, cells % wide - 1, cell, counts


def _classes(table: Predictions, marked: ndarray, unit: ndarray | None) -> Iterator[Record]:
    """Macro F1; of open answers also how well they cluster the images."""
    if (table["gold"][marked] < 0).any():
        return
    gold, said, cell, counts = _pairs(table, marked)
    classes = len(set(gold.tolist()))
    found = intervals.statistic(cell, unit, intervals.macro_f1(gold, said))
    yield metric_record(table.kind, "macro F1", *found, classes)
    if table.kind != "open" or classes < 2:
        return
    n = len(cell)
    yield figure(table.kind, "clustering accuracy", intervals.share(intervals.matching(gold, said, counts)[cell], unit))
    clusters = said + 1  # what could not be read is one cluster
    yield metric_record(table.kind, "NMI", *intervals.statistic(cell, unit, intervals.nmi(gold, clusters)), n)
    yield metric_record(table.kind, "ARI", *intervals.statistic(cell, unit, intervals.ari(gold, clusters), -1.0), n)


def _positions(table: Predictions, marked: ndarray) -> Iterator[Record]:
    """Which positions are chosen (FOCI), and how often it is right where the right option stands at each."""
    chosen, place = table["chosen"], table["place"]
    read, placed = chosen >= 0, marked & (place >= 0)
    for metric, where, values in (
        ("position preference", read, lambda i: chosen[read] == i),
        ("accuracy by gold position", placed, lambda i: table["correct"][placed & (place == i)] == 1),
    ):
        for i in range(int(table["count"].max())) if where.any() else ():
            these = where if metric == "position preference" else where & (place == i)
            if these.any():
                found = intervals.share(values(i), table.image(these))
                yield {**figure(table.kind, metric, found), "position": chr(ord("A") + i)}


def _yes(table: Predictions, marked: ndarray) -> Iterator[Record]:
    """Precision and recall of "yes", and how often it is said (FOCI's notebook)."""
    yes = table.names["yes"]
    gold, said = table["gold"] == yes, table["said"] == yes
    for metric, where, values in (
        ("precision of yes", marked & said, gold), ("recall of yes", marked & gold, said),
        ("share of yes", table["said"] >= 0, said),
    ):  # fmt: skip
        if where.any():
            yield figure(table.kind, metric, intervals.share(values[where], table.image(where)))


def _replies(table: Predictions) -> Iterator[Record]:
    """The scores of replies, at each level."""
    import numpy as np

    for name in table.graded():
        short, _, level = name.partition("/")
        where = ~np.isnan(table[name])
        values, unit = table[name][where].astype(float), table.image(where)
        share = short in SHARES
        found = intervals.share(values == 1, unit) if share else intervals.mean(values, unit)
        yield {**figure(table.kind, GRADED[short], found), **({"level": level} if level else {})}


def _turned(table: Predictions, marked: ndarray, name: str) -> Iterator[Record]:
    """CircularEval: a question is right when it is in every order of its options."""
    import numpy as np

    if "base" not in table:
        return
    base = np.where(table["base"] == -1, table["key"], table["base"])[marked]
    if intervals.all_differ(base):
        return
    number = np.unique(base, return_inverse=True)[1]
    wrong = np.bincount(number, weights=table["correct"][marked] == 0)
    yield figure(table.kind, f"circular {name}", intervals.share(wrong == 0, None))


def _confusion(table: Predictions, confused: int, matrix: bool) -> Iterator[Record]:
    """The pairs of gold and wrong prediction with the most questions, then every cell of the matrix."""
    import numpy as np

    marked = table["correct"] >= 0
    if not (confused or matrix) or table.kind == "caption" or not marked.any() or (table["gold"][marked] < 0).any():
        return
    gold, said, _, counts = _pairs(table, marked)
    of_gold = np.bincount(gold, weights=counts).astype(int)
    text = table.names.texts
    wrong = [i for i in np.argsort(-counts, kind="stable") if said[i] not in (gold[i], -1)]
    for i in wrong[:confused]:
        n = int(of_gold[gold[i]])
        low, high = metrics.wilson(int(counts[i]), n)
        pair = {"gold": text[gold[i]], "said": text[said[i]], "count": int(counts[i])}
        yield {**metric_record(table.kind, "confused", int(counts[i]) / n, low, high, n), **pair}
    for i in range(len(counts)) if matrix else ():
        pair = {"gold": text[gold[i]], "said": None if said[i] < 0 else text[said[i]]}
        cell = metric_record(table.kind, "confusion", int(counts[i]), None, None, int(of_gold[gold[i]]))
        yield {**cell, **pair}


def _semantic(table: Predictions, encoder: Encoder, batch: int = 256) -> Iterator[Record]:
    """FineR's sACC: the mean cosine of the embeddings of predicted and right name; 0 where nothing could be read."""
    import numpy as np

    marked = (table["correct"] >= 0) & (table["gold"] >= 0)
    if not marked.any():
        return
    gold, said, cell, _ = _pairs(table, marked)
    used = np.unique(np.concatenate([gold, said[said >= 0]]))
    texts = [table.names.texts[i] for i in used]
    rows = np.concatenate([encoder.texts(texts[i : i + batch]).numpy() for i in range(0, len(texts), batch)])
    at = np.searchsorted(used, gold), np.searchsorted(used, np.maximum(said, 0)) % len(used)
    cosine = np.where(said >= 0, (rows[at[0]] * rows[at[1]]).sum(axis=1), 0.0)
    unit = table.image(marked)
    yield figure(table.kind, "semantic accuracy", intervals.mean(cosine[cell].astype(float), unit))


def _differences(first: Scored, second: Scored, who: str, say: Say) -> Iterator[Record]:
    """By how much the second run is better on the questions that both answered, with the p of McNemar's test.

    Questions are the same when their ids are; where no ids are, when they are the only ones about their image; and
    when, by what is known, their right answers are: other tools number the questions of every data set from 0.
    """
    import numpy as np

    for kind in [kind for kind in first.predictions if kind in second.predictions and kind != "caption"]:
        old, new = first.predictions[kind], second.predictions[kind]
        for name in ("key", "unit"):
            sides = [np.flatnonzero(table["correct"] >= 0) for table in (old, new)]
            left, right = old[name][sides[0]], new[name][sides[1]]
            if name == "unit" and not (intervals.all_differ(left) and intervals.all_differ(right)):
                continue
            both, at_old, at_new = np.intersect1d(left, right, return_indices=True)
            if len(both):
                break
        else:
            continue
        same = same_answers(old, new, sides[0][at_old], sides[1][at_new])
        if not same.all():
            count = f"{(~same).sum()} of {len(same)} {kind} questions"
            say(f"{who}: {count} have one id and two right answers; not compared")
            at_old, at_new = at_old[same], at_new[same]
        if not len(at_old):
            continue
        before, after = old["correct"][sides[0][at_old]], new["correct"][sides[1][at_new]]
        owners = old["unit"][sides[0][at_old]], new["unit"][sides[1][at_new]]
        unit = intervals.units(min(owners, key=lambda keys: len(np.unique(keys))))  # the wider units of the two
        found = intervals.mean(after.astype(float) - before, unit)
        p = metrics.mcnemar(int(((before == 1) & (after == 0)).sum()), int(((before == 0) & (after == 1)).sum()))
        yield {**figure(kind, f"{RIGHT.get(kind, 'accuracy')} difference", found), "p": p}
