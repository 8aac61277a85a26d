"""question -> prediction: what a model replies, and what the reply says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fgvr import answers, metrics, prompts
from fgvr.errors import FgvrError, RecordError
from fgvr.images import open_image
from fgvr.models.base import Answerer, Ask
from fgvr.records import Record, check
from fgvr.stages.questions import final_prompt
from fgvr.stream import Item, bad, ordered

if TYPE_CHECKING:
    from PIL.Image import Image


def evaluate(
    items: Iterable[Item],
    model: Answerer,
    root: str | Path,
    parser: str,
    batch: int,
    max_new_tokens: int,
    choose: str = "reply",
) -> Iterator[Item]:
    """Add `raw`, `prediction` and `correct` (see `judge`).

    Args:
        items: question records; `answer` where it is known.
        parser: how an option is read out of a reply, a key of fgvr.answers.STRATEGIES.
        batch: questions a call.
        max_new_tokens: longest reply.
        choose: "reply", or "letter" or "text": the option whose letter or text is the likeliest reply is taken.
    """

    def work(records: list[Record]) -> list[Item]:
        opened: dict[str, Image] = {}  # questions on one image share it: a model encodes it once a call
        asks: list[Ask | Item] = []
        for record in records:
            try:
                _check(record)
                prompt, path = final_prompt(record), record["image"]
                if path not in opened:
                    opened[path] = open_image(root, path)
                asks.append(Ask(prompt, opened[path]))
            except RecordError as error:
                asks.append(bad(record, error))
        pairs = [(record, ask) for record, ask in zip(records, asks, strict=True) if isinstance(ask, Ask)]
        scored = [pair for pair in pairs if choose != "reply" and pair[0]["kind"] == "mcq"]
        asked = [ask for record, ask in pairs if choose == "reply" or record["kind"] != "mcq"]
        replies = iter(model.reply(asked, max_new_tokens) if asked else [])
        scores = _scores(model, scored, choose, batch)

        def result(record: Record) -> Item:
            if choose != "reply" and record["kind"] == "mcq":
                return choice(record, next(scores))
            return judge(record, next(replies), parser)

        return [result(r) if isinstance(ask, Ask) else ask for r, ask in zip(records, asks, strict=True)]

    return ordered(items, batch, work)


def _scores(model: Answerer, pairs: list[tuple[Record, Ask]], choose: str, batch: int) -> Iterator[list[float]]:
    """For each question the mean log-probability of each of its options as the reply."""
    likelihood = getattr(model, "likelihood", None)
    if pairs and likelihood is None:
        raise FgvrError("this model gives no likelihoods; use --choose reply")
    flat = [
        (ask, chr(ord("A") + i) if choose == "letter" else option)
        for record, ask in pairs
        for i, option in enumerate(record["options"])
    ]
    found: list[float] = []
    for start in range(0, len(flat), batch):
        part = flat[start : start + batch]
        found += likelihood([ask for ask, _ in part], [reply for _, reply in part])  # type: ignore[misc]
    values = iter(found)
    for record, _ in pairs:
        yield [round(next(values), 6) for _ in record["options"]]


def choice(record: Record, scores: list[float]) -> Record:
    """The question with `scores`, one an option; `prediction`, the best (of equals the first); `correct`; no `raw`."""
    prediction = record["options"][max(range(len(scores)), key=scores.__getitem__)]
    answer = record.get("answer")
    correct = None if answer is None else metrics.exact(prediction, [answer])
    return {**record, "raw": None, "prediction": prediction, "correct": correct, "scores": scores}


def judge(record: Record, raw: str, parser: str = "strict") -> Record:
    """The question with `raw`, the reply as it came; `prediction`, what it says; and `correct`.

    prediction: the text of the option that the reply names; for an open question the cleaned reply; null when
        nothing can be read out of it.
    correct: whether that is the answer; null where no answer is known. A name is right when it equals the answer or
        one of the record's `aliases` but for case, punctuation and articles (fgvr.metrics.exact).
    """
    prediction = _option(record, raw, parser) if record["kind"] == "mcq" else prompts.parse_answer(raw) or None
    answer = record.get("answer")
    correct = None
    if answer is not None:
        right = [answer, *(record.get("aliases") or [])] if record["kind"] == "open" else [answer]
        correct = prediction is not None and metrics.exact(prediction, right)
    return {**record, "raw": raw, "prediction": prediction, "correct": correct}


def _option(record: Record, raw: str, parser: str) -> str | None:
    index = answers.read_option(raw, record["options"], parser)
    return None if index is None else record["options"][index]


def _check(record: Record) -> None:
    """Refuse an answer that cannot be compared with, before the model is asked. Raises RecordError."""
    if record.get("answer") is not None:
        check(record, ("answer",))
    aliases = record.get("aliases") or []
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise RecordError("'aliases' must be a list of texts; correct the record")
    options = record.get("options") if record["kind"] == "mcq" else None
    if isinstance(options, list) and record.get("answer") is not None and record["answer"] not in options:
        raise RecordError("'answer' is none of the 'options'; correct the record")
