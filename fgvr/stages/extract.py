"""image -> extraction: every attribute question answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fgvr import prompts
from fgvr.errors import FgvrError, RecordError
from fgvr.models.base import Answerer, Ask, Said
from fgvr.records import Record
from fgvr.stages.asking import Asker, Shown
from fgvr.stages.discover import shortened
from fgvr.stream import Item, bad, ordered

if TYPE_CHECKING:
    from PIL.Image import Image

Questions = Mapping[str, Mapping[str, str]]  # superclass -> attribute -> question


def by_superclass(attrs: Iterable[Record]) -> Questions:
    """Attribute records as questions, in their order.

    Raises:
        FgvrError: there are none, or one attribute of a super-category comes twice.
    """
    found: dict[str, dict[str, str]] = {}
    for record in attrs:
        asked = found.setdefault(record["superclass"], {})
        if record["attribute"] in asked:
            raise FgvrError(f"attribute {record['attribute']!r} of {record['superclass']!r} comes twice; remove one")
        asked[record["attribute"]] = record["question"]
    if not found:
        raise FgvrError("there are no attribute records; run `fgvr discover-attrs` first")
    return found


def extract(
    items: Iterable[Item],
    model: Answerer,
    questions: Questions,
    root: str | Path,
    batch: int,
    max_new_tokens: int,
    group: bool = False,
    confidence: bool = False,
    workers: int = 1,
) -> Iterator[Item]:
    """Add `attributes` {name: answer}, in the order of the questions of the record's super-category.

    Args:
        items: records with `image` and `superclass`.
        batch: questions a call, at most. The questions of one image stay in one call where they fit: a model encodes
            an image once a call. A call that runs out of memory is made again in halves.
        max_new_tokens: longest reply.
        group: one question an image, whose reply is a JSON object of all answers; a reply without any is a bad record.
        confidence: also add `confidence` {name: mean log-probability of the answer's tokens, null where unknown}.
        workers: threads that decode images while the model works.
    """
    asker = Asker(model, batch, max_new_tokens, confidence)
    shown = Shown(root, lambda record: record["image"] if record["superclass"] in questions else None, workers)

    def work(records: list[Record]) -> list[Item]:
        asks: list[list[Ask] | Item] = []
        for record, image in zip(records, shown.opened(records), strict=True):
            try:
                if isinstance(image, RecordError):
                    raise image
                asks.append(_asks(record, image, questions, group))
            except RecordError as error:
                asks.append(bad(record, error))
        said = iter(asker([ask for asked in asks if isinstance(asked, list) for ask in asked]))
        return [
            _merge(record, [next(said) for _ in asked], questions, group, confidence)
            if isinstance(asked, list)
            else asked
            for record, asked in zip(records, asks, strict=True)
        ]

    return ordered(shown.begun(items), images_a_call(questions, batch, group), work)


def images_a_call(questions: Questions, batch: int, group: bool) -> int:
    """Images whose questions go into one call of `batch` questions."""
    return max(1, batch // (1 if group else max(len(asked) for asked in questions.values())))


def _asks(record: Record, image: Image | None, questions: Questions, group: bool) -> list[Ask]:
    """The questions about one image, all with the same image object."""
    asked = questions.get(record["superclass"])
    if asked is None:
        there = ", ".join(questions)
        advice = f"run `fgvr discover-attrs --superclass {record['superclass']}` first"
        raise RecordError(f"no attributes of {record['superclass']!r} among those of {there}; {advice}")
    if group:
        return [Ask(prompts.group_question(asked, record["superclass"]), image, prompts.group_schema(asked))]
    return [Ask(question, image) for question in asked.values()]


def _merge(record: Record, said: list[Said], questions: Questions, group: bool, confidence: bool) -> Item:
    names = questions[record["superclass"]]
    if group:
        answers = prompts.parse_group(said[0].text, names)
        if not any(answers.values()):
            why = f"the reply answers no question: {shortened(said[0].text)}"
            return bad(record, f"{why}; raise --max-new-tokens, or ask without --group")
    else:
        answers = {name: prompts.parse_answer(text) for name, (text, _) in zip(names, said, strict=True)}
    merged = {**record, "attributes": answers}
    if confidence:
        sure = {name: value and round(value, 4) + 0.0 for name, (_, value) in zip(names, said, strict=True)}
        merged["confidence"] = sure
    return merged
