"""image -> extraction: every attribute question answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fgvr import prompts
from fgvr.errors import FgvrError, RecordError
from fgvr.images import open_image
from fgvr.models.base import Answerer, Ask
from fgvr.records import Record
from fgvr.stream import Item, bad, ordered

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
    items: Iterable[Item], model: Answerer, questions: Questions, root: str | Path, batch: int, max_new_tokens: int
) -> Iterator[Item]:
    """Add `attributes` {name: answer}, in the order of the questions of the record's super-category.

    Args:
        items: records with `image` and `superclass`.
        batch: questions a call, at most. The questions of one image stay in one call where they fit: a model encodes
            an image once a call.
        max_new_tokens: longest reply.
    """
    most = max(len(asked) for asked in questions.values())

    def work(records: list[Record]) -> list[Item]:
        opened: list[list[Ask] | Item] = []
        for record in records:
            try:
                opened.append(_asks(record, questions, root))
            except RecordError as error:
                opened.append(bad(record, error))
        flat = [ask for asks in opened if isinstance(asks, list) for ask in asks]
        replies: list[str] = []
        for start in range(0, len(flat), batch):  # one call, unless an image alone has more
            replies += model.reply(flat[start : start + batch], max_new_tokens)
        said = iter(replies)
        return [
            _merge(record, said, questions) if isinstance(asks, list) else asks
            for record, asks in zip(records, opened, strict=True)
        ]

    return ordered(items, max(1, batch // most), work)


def _asks(record: Record, questions: Questions, root: str | Path) -> list[Ask]:
    """The questions about one image, all with the same image object."""
    asked = questions.get(record["superclass"])
    if asked is None:
        there = ", ".join(questions)
        advice = f"run `fgvr discover-attrs --superclass {record['superclass']}` first"
        raise RecordError(f"no attributes of {record['superclass']!r} among those of {there}; {advice}")
    image = open_image(root, record["image"])
    return [Ask(question, image) for question in asked.values()]


def _merge(record: Record, replies: Iterator[str], questions: Questions) -> Record:
    names = questions[record["superclass"]]
    return {**record, "attributes": {name: prompts.parse_answer(next(replies)) for name in names}}
