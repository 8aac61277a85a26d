"""image -> extraction: every attribute question answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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

    def work(records: list[Record]) -> list[Item]:
        opened: list[tuple[Record, list[Ask]] | Item] = []
        for record in records:
            try:
                opened.append((record, _asks(record, questions, root)))
            except RecordError as error:
                opened.append(bad(record, error))
        asks = [entry[1] for entry in opened if isinstance(entry, tuple)]
        replies = iter(_replies(model, asks, batch, max_new_tokens))
        return [_merge(entry[0], next(replies), questions) if isinstance(entry, tuple) else entry for entry in opened]

    most = max(len(asked) for asked in questions.values())
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


def _replies(model: Answerer, asks: Sequence[list[Ask]], batch: int, max_new_tokens: int) -> Iterator[list[str]]:
    """The replies to each image's asks. Calls are filled image by image; only an image with more asks than `batch`
    is split."""
    waiting: list[list[Ask]] = []
    for own in asks:
        if waiting and sum(map(len, waiting)) + len(own) > batch:
            yield from _call(model, waiting, batch, max_new_tokens)
            waiting = []
        waiting.append(own)
    yield from _call(model, waiting, batch, max_new_tokens)


def _call(model: Answerer, asks: Sequence[list[Ask]], batch: int, max_new_tokens: int) -> Iterator[list[str]]:
    flat = [ask for own in asks for ask in own]
    replies: list[str] = []
    for start in range(0, len(flat), batch):
        replies += model.reply(flat[start : start + batch], max_new_tokens)
    said = iter(replies)
    for own in asks:
        yield [next(said) for _ in own]


def _merge(record: Record, replies: Sequence[str], questions: Questions) -> Record:
    named = zip(questions[record["superclass"]], map(prompts.parse_answer, replies), strict=True)
    return {**record, "attributes": dict(named)}
