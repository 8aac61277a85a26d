"""Predictions column by column: what scoring needs of each record, in some forty bytes.

Names become numbers (equal after fgvr.answers.normalise), ids and images become hashes, and the scores of replies are
taken as they pass, so that a million predictions fit into memory without their texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fgvr import metrics
from fgvr.analysis import intervals
from fgvr.answers import normalise
from fgvr.errors import RecordError
from fgvr.records import Record, texts

if TYPE_CHECKING:
    from numpy import ndarray

_NONE = type(None)
LEVELS = ("superordinate", "coarse", "fine")
GRADES = ("substring", "f1", "em", "em_older", "finer_f1", "rouge", "names", "circular", "top5")  # scores of a reply
TOLD = {"circular/": "correct_in_all", "top5/": "correct_top5"}  # those that eval has found already


class Names(dict[str | None, int]):
    """Text -> number, one for all spellings that `normalise` makes equal; None -> -1."""

    def __init__(self) -> None:
        self.texts: list[str] = []  # the first spelling of each number
        self._known: dict[str, int] = {}
        self[None] = -1

    def __missing__(self, text: str | None) -> int:
        if type(text) is not str:
            raise TypeError(f"not a text: {text!r}")
        form = normalise(text) or text
        number = self._known.setdefault(form, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
        self[text] = number
        return number

    def numbers(self, texts: Sequence[str]) -> list[int]:
        """The numbers of texts, -2 for one that has none."""
        return [self._known.get(normalise(text) or text, -2) for text in texts]


class Predictions:
    """The predictions of one kind of question in one run.

    Columns, (N,): `key`, `unit`, `base`: hashes of id, unit (else image, else id) and base, the question that this one
    is with its options turned (or id); `correct`: 1, 0, -1 for no known answer; `failed`: the reply could not be read;
    `klass`, `gold`, `said`: numbers in `names` of category, answer and prediction; `chosen`, `place`: the option that
    was chosen and the right one, -1 for none; `count`: options; `group`: number in `groups` of the field `by`; and the
    scores of replies, "em/coarse" (NaN: not at this level).
    """

    def __init__(self, kind: str, by: str | None) -> None:
        self.kind, self.by = kind, by
        self.names, self.groups = Names(), Names()
        self._parts: dict[str, list[Any]] = {}
        self._images: Any = False  # not known yet

    def add(self, rows: Sequence[Record]) -> None:
        """All of them or, raising what a record that cannot be used raises (KeyError, RecordError, …), none."""
        import numpy as np

        names, groups = self.names, self.groups
        correct, said = [row["correct"] for row in rows], [row["prediction"] for row in rows]
        answers, options = [row.get("answer") for row in rows], [row.get("options") for row in rows]
        for name, values, kinds in (("correct", correct, {bool, _NONE}), ("options", options, {list, _NONE})):
            if not set(map(type, values)) <= kinds:
                raise TypeError(f"{name!r} of a wrong type")
        for row, answer, shown in zip(rows, answers, options, strict=True):
            if shown and (index := row.get("answer_index")) is not None and answer is not None:
                _agree(index, answer, shown)
        column = {
            "key": np.array([hash(row["id"]) for row in rows], dtype=np.int64),
            "unit": np.array([hash(row.get("unit") or row.get("image") or row["id"]) for row in rows], dtype=np.int64),
            "correct": np.array([-1 if c is None else c for c in correct], dtype=np.int8),
            "failed": np.array([text is None for text in said]),
            "klass": np.array([names[row.get("category")] for row in rows], dtype=np.int32),
            "gold": np.array([names[answer] for answer in answers], dtype=np.int32),
        }
        if any(options):
            both = ("chosen", said), ("place", answers)
            column |= {
                name: np.array([o.index(t) if o and t in o else -1 for o, t in zip(options, texts, strict=True)], "i1")
                for name, texts in both
            }
            column["count"] = np.array([len(o) if o else 0 for o in options], dtype=np.int8)
        bases = [row.get("base") for row in rows]
        if any(bases):
            column["base"] = np.array([hash(b or row["id"]) for b, row in zip(bases, rows, strict=True)], np.int64)
        if self.kind != "caption":  # a caption is no name
            column["said"] = np.array([names[text] for text in said], dtype=np.int32)
        if self.by is not None:
            column["group"] = np.array([groups[row[self.by]] for row in rows], dtype=np.int32)
        scores = {"open": _open_scores, "caption": _caption_scores}.get(self.kind)
        graded = [{**(scores(row) if scores else {}), **_told(row)} for row in rows]
        for name in dict.fromkeys(name for found in graded for name in found):
            column[name] = np.array([found.get(name, np.nan) for found in graded], dtype=np.float64)
        self._append(column, len(rows))

    def _append(self, column: dict[str, Any], count: int) -> None:
        """Add a part to every column; a part that one side lacks is filled up."""

        have = sum(len(part) for part in self._parts.get("key", ()))
        for name in {**self._parts, **column}:
            parts = self._parts.setdefault(name, [_filling(column[name].dtype, have)] if have else [])
            parts.append(column[name] if name in column else _filling(parts[0].dtype, count))

    def image(self, where: ndarray | None = None) -> ndarray | None:
        """(N,) numbers of the images, of the questions `where` says; None when each has its own."""
        if self._images is False:
            self._images = intervals.units(self["unit"])
        if self._images is None or where is None:
            return self._images
        return intervals.units(self._images[where])

    def __getitem__(self, name: str) -> ndarray:
        import numpy as np

        if len(self._parts[name]) > 1:
            self._parts[name] = [np.concatenate(self._parts[name])]
        return self._parts[name][0]

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def graded(self) -> list[str]:
        """The names of the scores of replies, "finer_f1/coarse"."""
        return [name for name in self._parts if name.partition("/")[0] in GRADES]


def _agree(index: Any, answer: str, options: Sequence[Any]) -> None:
    """Raises RecordError unless the answer is the option of that number: where two fields name two options, nobody
    knows which of them the reply was judged by."""
    there = type(index) is int and 0 <= index < len(options)
    if not there or options[index] != answer:
        what = repr(options[index]) if there else f"none of its {len(options)} options"
        raise RecordError(f"answer_index {index!r} is {what}, but its answer is {answer!r}; correct one of them")


def same_answers(one: Predictions, other: Predictions, left: ndarray, right: ndarray) -> ndarray:
    """Whether the right answers of questions `left` of one run and `right` of another are equal, or one is not known:
    (N,)."""
    import numpy as np

    known = np.array([*other.names.numbers(one.names.texts), -2])
    gold, again = one["gold"][left], other["gold"][right]
    return (gold < 0) | (again < 0) | (known[gold] == again)


def _filling(dtype: Any, count: int) -> Any:
    """What stands where a column has nothing: NaN, no position, no base."""
    import numpy as np

    return np.full(count, np.nan if np.issubdtype(dtype, np.floating) else -1, dtype=dtype)


def _told(row: Record) -> dict[str, float]:
    return {name: float(row[field]) for name, field in TOLD.items() if row.get(field) is not None}


# --- scores of replies ------------------------------------------------------------------------------------------------


def _open_scores(row: Record) -> dict[str, float]:
    """The scores of an open reply, at each level at which its labels are known."""
    answer, prediction, raw = row.get("answer"), row["prediction"], row.get("raw")
    if answer is None:
        return {}
    reply = raw if isinstance(raw, str) else prediction or ""
    golds = (answer, *texts(row, "aliases"))
    found = dict(zip(("substring/", "f1/"), _plain_scores(prediction or "", golds), strict=True))
    for level, allowed in _allowed(row, golds).items():
        scores = _finer_scores(reply, allowed)
        found |= {f"{name}/{level}": score for name, score in zip(("em", "em_older", "finer_f1"), scores, strict=True)}
    return found


def _allowed(row: Record, golds: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """FINER's golds by level: the labels of that level and of all finer ones. Without labels the answers alone."""
    labels, level = row.get("labels"), row.get("level")
    if not isinstance(labels, dict):
        return {level or "": golds}
    at = {name: _label(labels.get(name)) for name in LEVELS}
    if not any(at.values()):
        return {level or "": golds}
    wanted = [level] if level in LEVELS else [name for name in LEVELS if at[name]]
    every = {name: tuple(dict.fromkeys(t for n in LEVELS[LEVELS.index(name) :] for t in at[n])) for name in wanted}
    return {name: texts or golds for name, texts in every.items()}


def _label(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in texts if isinstance(text, str)]


@lru_cache(maxsize=65536)  # the same names come again and again
def _plain_scores(prediction: str, golds: tuple[str, ...]) -> tuple[float, float]:
    return float(any(metrics.substring(prediction, gold) for gold in golds)), metrics.token_f1(prediction, golds)


@lru_cache(maxsize=65536)
def _finer_scores(reply: str, golds: tuple[str, ...]) -> tuple[float, float, float]:
    said = metrics.finer_answer(reply)
    older = metrics.finer_em(said, golds, "prediction-in-gold")
    return metrics.finer_em(said, golds), older, metrics.token_f1(said, golds, gold_words=10)


def _caption_scores(row: Record) -> dict[str, float]:
    """ROUGE-L against the reference, and whether the caption names the category."""
    said, answer, category = row["prediction"] or "", row.get("answer"), row.get("category")
    found = {"rouge/": metrics.rouge_l(said, answer)} if isinstance(answer, str) else {}
    if isinstance(category, str):
        found["names/"] = float(f" {normalise(category)} " in f" {normalise(said)} ")
    return found
