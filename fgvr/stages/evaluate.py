"""question -> prediction: what a model replies, and what the reply says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fgvr import answers, metrics, prompts
from fgvr.errors import RecordError
from fgvr.images import open_image
from fgvr.models.base import Answerer, Ask
from fgvr.records import Record, check
from fgvr.stages.questions import final_prompt
from fgvr.stream import Item, bad, ordered

if TYPE_CHECKING:
    from PIL.Image import Image


def evaluate(
    items: Iterable[Item], model: Answerer, root: str | Path, parser: str, batch: int, max_new_tokens: int
) -> Iterator[Item]:
    """Add `raw`, `prediction` and `correct` (see `judge`).

    Args:
        items: question records; `answer` where it is known.
        parser: how an option is read out of a reply, a key of fgvr.answers.STRATEGIES.
        batch: questions a call.
        max_new_tokens: longest reply.
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
        asked = [ask for ask in asks if isinstance(ask, Ask)]
        replies = iter(model.reply(asked, max_new_tokens) if asked else [])
        return [
            judge(record, next(replies), parser) if isinstance(ask, Ask) else ask
            for record, ask in zip(records, asks, strict=True)
        ]

    return ordered(items, batch, work)


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
