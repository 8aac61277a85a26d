"""question -> prediction: what a model replies or finds likeliest, and whether it is right.

Four ways (`scoring`), each of which gives the same fields:

generate  the model replies, greedily, and an option or a name is read out of the reply.
letter    the option whose letter (a yes-or-no question: whose word) is likeliest as the next thing said.
option    the option whose whole text is the likeliest reply; `normalise` says how texts of other lengths compare.
label     the same over all category names, whatever options there are: top-1 and top-5.

What has no options is replied to in the first three.

Three ways of asking (`prompting`): the question alone; `attr-seek`, FINER's two turns, the attributes first, of which
only the first turn shows the image; `cot`, with an invitation to think before the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from fgvr import answers, finer, metrics, prompts
from fgvr.errors import FgvrError, RecordError
from fgvr.models.base import Answerer, Ask
from fgvr.records import Record, check, image_of, texts
from fgvr.stages.asking import Shown
from fgvr.stages.questions import attribute_question, final_prompt, read_reply
from fgvr.stream import Item, bad, ordered

BEST = 5
GREY = 336  # pixels of the image that shows nothing
Scores = list[float | None]


def evaluate(
    items: Iterable[Item],
    model: Answerer,
    root: str | Path,
    parser: str,
    batch: int,
    max_new_tokens: int,
    scoring: str = "generate",
    normalise: str = "mean",
    cyclic: bool = False,
    categories: Sequence[str] = (),
    prompting: str = "direct",
    opening_tokens: int = 256,
    workers: int = 1,
) -> Iterator[Item]:
    """Add `raw` (null when nothing was generated), `prediction`, `correct` and `scores` (see the module and `judge`);
    and `earlier`, what was asked and replied before, where anything was.

    Args:
        items: question records; `answer` where it is known.
        parser: how an option is read out of a reply, a key of fgvr.answers.STRATEGIES.
        batch: questions a call.
        max_new_tokens: longest reply.
        normalise: a text's score is the "sum" or the "mean" of its tokens' log-probabilities, or the sum less that of
            the same reply to the same question on a plain grey image ("prior").
        cyclic: ask a multiple-choice question once in each rotation of its options (`in_all_orders`).
        categories: the names of "label".
        prompting: a key of fgvr.finer.PROMPTINGS. opening_tokens: longest reply to the first turn of "attr-seek".
        workers: threads that decode images while the model works.
    """
    asker = _Asker(model, scoring, parser, max_new_tokens, normalise, categories, opening_tokens)
    shown = Shown(root, _path, workers)

    def work(records: list[Record]) -> list[Item]:
        views: dict[int, list[_Asked]] = {}
        opened: dict[int, Any] = dict(enumerate(shown.opened(records)))
        done: dict[int, Item] = {n: bad(records[n], e) for n, e in opened.items() if isinstance(e, RecordError)}
        images = {number: image for number, image in opened.items() if number not in done}
        known = asker.concepts([(records[number], image) for number, image in images.items()])
        for (number, image), record in zip(images.items(), known, strict=True):
            try:
                views[number] = _views(record, image, scoring, prompting, cyclic)
            except RecordError as error:
                done[number] = bad(record, error)
        asks = [asked for own in views.values() for asked in own]
        results = iter([r for start in range(0, len(asks), batch) for r in asker(asks[start : start + batch])])
        done |= {number: in_all_orders(own[0][0], [next(results) for _ in own]) for number, own in views.items()}
        return [done[number] for number in range(len(records))]

    return ordered(shown.begun(items), batch, work)


_Asked = tuple[Record, Ask, str | None]  # with the question of a first turn, where there are two


def _path(record: Record) -> str | None:
    """The image of a question that can be asked; None for one without."""
    _check(record)
    return image_of(record)


def _views(record: Record, image: Any, scoring: str, prompting: str, cyclic: bool) -> list[_Asked]:
    """What is asked for a record: one question, or one in each rotation of its options."""
    if scoring == "label":
        return [(record, Ask(_open(record), image), None)]
    opening = attribute_question(record) if prompting == "attr-seek" else None
    turned = rotations(record) if cyclic else [record]
    return [(view, Ask(final_prompt(view, prompting), image), opening) for view in turned]


class _Asker:
    """Records and their questions in, predictions out; one method for each way of scoring."""

    def __init__(
        self,
        model: Answerer,
        scoring: str,
        parser: str,
        max_new_tokens: int,
        normalise: str,
        categories: Sequence[str],
        opening_tokens: int,
    ) -> None:
        self.model: Any = model
        self.opening_tokens = opening_tokens
        self._told: dict[tuple[Any, ...], str] = {}
        self.scoring, self.parser, self.max_new_tokens = scoring, parser, max_new_tokens
        self.normalise, self.categories = normalise, list(categories)
        self._priors: dict[tuple[str, tuple[str, ...]], list[float]] = {}

    def __call__(self, asked: Sequence[_Asked]) -> Iterator[Record]:
        earlier, replies = self._conversations(asked)
        pairs = [
            (record, replace(ask, before=((opening, earlier[n]),)) if n in earlier and opening else ask)
            for n, (record, ask, opening) in enumerate(asked)
        ]
        scored = [pair for pair in pairs if self._by_score(pair[0])]
        found = iter(getattr(self, self.scoring)(scored) if scored else [])
        rest = [n for n, (record, _) in enumerate(pairs) if n not in replies and not self._by_score(record)]
        said = self._replies([pairs[n][1] for n in rest], self.max_new_tokens, once=False)
        replies |= dict(zip(rest, said, strict=True))
        for n, (record, ask) in enumerate(pairs):
            made = next(found) if self._by_score(record) else judge(record, replies[n], self.parser)
            yield told(made, ask.before) if ask.before else made

    def _conversations(self, asked: Sequence[_Asked]) -> tuple[dict[int, str], dict[int, str]]:
        """By place: the replies to first turns, and those to second turns where the model took both at once."""
        begun = [n for n, (_, _, opening) in enumerate(asked) if opening is not None]
        both = [n for n in begun if hasattr(self.model, "converse") and not self._by_score(asked[n][0])]
        one = [n for n in begun if n not in both]
        openings = [str(asked[n][2]) for n in one]
        said = self._replies([Ask(text, asked[n][1].image) for n, text in zip(one, openings, strict=True)],
                             self.opening_tokens)  # fmt: skip
        earlier, replies = dict(zip(one, said, strict=True)), {}
        if both:
            firsts = [str(asked[n][2]) for n in both]
            limits = self.opening_tokens, self.max_new_tokens
            found = self.model.converse([asked[n][1] for n in both], firsts, *limits)
            earlier |= {n: first for n, (first, _) in zip(both, found, strict=True)}
            replies = {n: second for n, (_, second) in zip(both, found, strict=True)}
        return earlier, replies

    def _replies(self, asks: Sequence[Ask], most: int, once: bool = True) -> list[str]:
        """Questions without an image are asked once and for all; with `once`, others that are equal once a call."""
        at = range(len(asks))
        shown = [0 if ask.image is None else id(ask.image) if once else -1 - n for n, ask in zip(at, asks, strict=True)]
        keys = [(ask.prompt, image, ask.before, most) for ask, image in zip(asks, shown, strict=True)]
        new = {key: ask for key, ask in zip(keys, asks, strict=True) if key not in self._told}
        told = dict(zip(new, self.model.reply(list(new.values()), most), strict=True)) if new else {}
        found = [told[key] if key in told else self._told[key] for key in keys]
        if len(self._told) > 10_000:
            self._told.clear()
        self._told.update((key, reply) for key, reply in told.items() if not key[1])
        return found

    def concepts(self, shown: Sequence[tuple[Record, Any]]) -> list[Record]:
        """The records, {concept} of their question filled in: what the model itself replies to their `steps`."""
        found = [record for record, _ in shown]
        before: list[list[tuple[str, str]]] = [[] for _ in shown]
        concept = [str(record.get("superclass") or "object") for record in found]
        for step in range(max((len(record.get("steps") or ()) for record in found), default=0)):
            at = [n for n, record in enumerate(found) if step < len(record.get("steps") or ())]
            texts = [found[n]["steps"][step].replace("{concept}", concept[n]) for n in at]
            asks = [Ask(text, shown[n][1]) for n, text in zip(at, texts, strict=True)]
            for n, text, reply in zip(at, texts, self._replies(asks, self.max_new_tokens), strict=True):
                before[n].append((text, reply))
                concept[n] = prompts.parse_answer(finer.reply_after(reply), 60).strip(" .'\"[]") or concept[n]
        for n, record in enumerate(found):
            if before[n]:
                question = record["question"].replace("{concept}", concept[n])
                found[n] = told({**record, "question": question, "concept": concept[n]}, before[n])
        return found

    def _by_score(self, record: Record) -> bool:
        return self.scoring == "label" or (self.scoring != "generate" and record["kind"] in ("mcq", "yesno"))

    def letter(self, pairs: Sequence[tuple[Record, Ask]]) -> list[Record]:
        self._can("letters", "generate")
        words = [
            [chr(ord("A") + i) for i in range(len(r["options"]))] if r["kind"] == "mcq" else r["options"]
            for r, _ in pairs
        ]
        found = self.model.letters([ask for _, ask in pairs], words)
        return [choice(record, scores) for (record, _), scores in zip(pairs, found, strict=True)]

    def option(self, pairs: Sequence[tuple[Record, Ask]]) -> list[Record]:
        found = self._texts([ask for _, ask in pairs], [record["options"] for record, _ in pairs])
        return [choice(record, scores) for (record, _), scores in zip(pairs, found, strict=True)]

    def label(self, pairs: Sequence[tuple[Record, Ask]]) -> list[Record]:
        found = self._texts([ask for _, ask in pairs], [self.categories] * len(pairs))
        return [ranked(record, self.categories, scores) for (record, _), scores in zip(pairs, found, strict=True)]

    def _texts(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        self._can("likelihood", "generate or letter")
        found = self.model.likelihood(asks, texts)
        if self.normalise == "mean":
            return [[total / count for total, count in row] for row in found]
        sums = [[total for total, _ in row] for row in found]
        if self.normalise == "sum":
            return sums
        return [
            [total - prior for total, prior in zip(row, self._prior(ask, own), strict=True)]
            for ask, own, row in zip(asks, texts, sums, strict=True)
        ]

    def _prior(self, ask: Ask, texts: Sequence[str]) -> list[float]:
        from PIL import Image

        key = ask.prompt, tuple(texts)
        if key not in self._priors:
            if len(self._priors) >= 1000:
                self._priors.clear()
            nothing = Ask(ask.prompt, Image.new("RGB", (GREY, GREY), (127, 127, 127)))
            self._priors[key] = [total for total, _ in self.model.likelihood([nothing], [texts])[0]]
        return self._priors[key]

    def _can(self, method: str, instead: str) -> None:
        if not hasattr(self.model, method):
            raise FgvrError(f"this model gives no likelihoods of {method}; use --scoring {instead}")


def told(record: Record, turns: Iterable[tuple[str, str]]) -> Record:
    """The record with further turns in `earlier`."""
    more = [{"question": question, "reply": reply} for question, reply in turns]
    return {**record, "earlier": [*record.get("earlier", ()), *more]}


def _open(record: Record) -> str:
    """The bare question, for names to be scored as its answer."""
    check(record, ("kind", "question"))
    if record["kind"] not in ("mcq", "open"):
        raise RecordError(f"kind {record['kind']!r} asks for no category name; leave it out of --scoring label")
    return record["question"]


def rotations(record: Record) -> list[Record]:
    """A multiple-choice question with its options turned by 0, 1, ... places; any other question alone."""
    if record["kind"] != "mcq":
        return [record]
    check(record, ("options",))
    per_option = [name for name in ("options", "option_aliases") if record.get(name)]
    return [
        {**record, **{name: [*record[name][turn:], *record[name][:turn]] for name in per_option}}
        for turn in range(max(1, len(record["options"] or [])))
    ]


def in_all_orders(record: Record, found: Sequence[Record]) -> Record:
    """One prediction out of those of the question's rotations; the only one stays as it is.

    scores: the logarithm of the mean, over the orders, of each option's share of probability among the options
        ("cyclic permutation", Zheng et al., arXiv:2309.03882); of replies the share of orders that named it.
    prediction: the best of these; of replies that are level that of the record's own order, else null.
    orders: the prediction in each order; correct_in_all: whether all are right (MMBench's CircularEval,
        arXiv:2307.06281). raw: the reply in the record's own order; raws: all.
    """
    if len(found) == 1:
        return found[0]
    options, orders = record["options"], [one["prediction"] for one in found]
    answer = record.get("answer")
    scores: Scores
    if found[0]["raw"] is None:
        shares = [dict(zip(one["options"], _shares(one["scores"]), strict=True)) for one in found]
        means = [sum(share[option] for share in shares) / len(shares) for option in options]
        scores = [round(math.log(mean), 4) if mean > 0 else None for mean in means]
        made = choice(record, scores)
    else:
        votes = [orders.count(option) for option in options]
        best = [option for option, count in zip(options, votes, strict=True) if count == max(votes) > 0]
        prediction = best[0] if len(best) == 1 else orders[0] if orders[0] in best else None
        scores = [round(count / len(orders), 4) for count in votes]
        made = {
            **record, "raw": found[0]["raw"], "prediction": prediction, "correct": _right(record, prediction),
            "scores": scores, "raws": [one["raw"] for one in found],
        }  # fmt: skip
    all_right = None if answer is None else all(one["correct"] for one in found)
    made |= {"earlier": found[0]["earlier"]} if "earlier" in found[0] else {}
    return {**made, "orders": orders, "correct_in_all": all_right}


def _shares(scores: Scores) -> list[float]:
    """Probabilities among the options; what could not be seen has none."""
    known = [score for score in scores if score is not None]
    most = max(known, default=0.0)
    weights = [0.0 if score is None else math.exp(score - most) for score in scores]
    return [weight / (sum(weights) or 1) for weight in weights]


def choice(record: Record, scores: Sequence[float | None]) -> Record:
    """The question with `scores`, one an option, rounded to 1e-4, which is more than batches change in float32;
    `prediction`, the best (of equals the first; null when no score is known); `correct`; no `raw`."""
    rounded = [None if score is None else round(score, 4) for score in scores]
    best = max((i for i, score in enumerate(rounded) if score is not None), key=rounded.__getitem__, default=None)  # type: ignore[arg-type]
    prediction = None if best is None else record["options"][best]
    correct = _right(record, prediction)
    return {**record, "raw": None, "prediction": prediction, "correct": correct, "scores": rounded}


def ranked(record: Record, names: Sequence[str], scores: Sequence[float]) -> Record:
    """The question with `top`, the BEST names and their scores, best first (of equals by name); `prediction`, the
    first; `correct`; `correct_top5`."""
    order = sorted(range(len(names)), key=lambda i: (-round(scores[i], 4), names[i]))[:BEST]
    top = [{"category": names[i], "score": round(scores[i], 4)} for i in order]
    known = record.get("answer") is not None
    hits = [_right(record, names[i], aliases=True) for i in order]
    return {
        **record, "raw": None, "prediction": names[order[0]], "correct": hits[0],
        "correct_top5": any(hits) if known else None, "top": top,
    }  # fmt: skip


def judge(record: Record, raw: str, parser: str = "strict") -> Record:
    """The question with `raw`, the reply as it came; `prediction`, what it says; and `correct`.

    prediction: the text of the option that the reply names; for an open question the cleaned reply; null when
        nothing can be read out of it.
    correct: whether that is the answer; null where no answer is known. A name is right when it equals the answer or
        one of the record's `aliases` but for case, punctuation and articles (fgvr.metrics.exact). A caption is
        neither right nor wrong.
    """
    prediction = read_reply(record, raw, parser)
    correct = None if record["kind"] == "caption" else _right(record, prediction)
    return {**record, "raw": raw, "prediction": prediction, "correct": correct}


def _right(record: Record, prediction: str | None, aliases: bool = False) -> bool | None:
    answer = record.get("answer")
    if answer is None:
        return None
    right = [answer, *(record.get("aliases") or [])] if aliases or record["kind"] == "open" else [answer]
    return prediction is not None and metrics.exact(prediction, right)


def names_of(records: Iterable[Item], fields: Sequence[str] = ("category",)) -> list[str]:
    """The category names of some records, sorted: in each the first of `fields` that it has.

    Raises:
        FgvrError: there are fewer than two, or two that read alike.
    """
    firsts = (next((r[f] for f in fields if isinstance(r.get(f), str)), None) for r in records if isinstance(r, dict))
    found = {name for name in firsts if name}
    if len(found) < 2:
        raise FgvrError(f"{len(found)} categories to choose from; give --categories FILE with a `category` a record")
    for one, other in pairwise(sorted(found, key=lambda name: (answers.normalise(name), name))):
        if answers.normalise(one) == answers.normalise(other):
            raise FgvrError(f"categories {one!r} and {other!r} read alike; give one of them another name")
    return sorted(found)


def _check(record: Record) -> None:
    """Refuse an answer that cannot be compared with, before the model is asked. Raises RecordError."""
    steps = record.get("steps")
    if steps is not None and not (isinstance(steps, list) and all(isinstance(step, str) for step in steps)):
        raise RecordError("'steps' must be a list of texts; correct the record")
    if record.get("answer") is not None:
        check(record, ("answer",))
    texts(record, "aliases")
    options = record.get("options") if record["kind"] == "mcq" else None
    if isinstance(options, list) and record.get("answer") is not None:
        if record["answer"] not in options:
            raise RecordError("'answer' is none of the 'options'; correct the record")
        if record.get("answer_index") not in (None, options.index(record["answer"])):
            raise RecordError("'answer_index' is not the place of 'answer' in 'options'; correct the record")
