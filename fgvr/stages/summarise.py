"""extraction -> triple: the attributes of an image as one description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from fgvr import prompts
from fgvr.models.base import Answerer, Ask
from fgvr.records import Record
from fgvr.stages.discover import shortened
from fgvr.stream import Item, bad, ordered


def summarise(
    items: Iterable[Item], model: Answerer, batch: int, max_new_tokens: int, notes: Counter[str] | None = None
) -> Iterator[Item]:
    """Add `description`, which the language model writes from `attributes` without seeing the image.

    A description that names the record's category would let alignment read the answer: the name is replaced.

    Args:
        items: records with `attributes` and `superclass`; `category` where there is one.
        batch: records asked at once.
        notes: counts the descriptions that named their category, under "leaks".
    Source: Finedefics (arXiv 2501.15140), section 3.1.
    """

    def work(records: list[Record]) -> list[Item]:
        asks = [Ask(prompts.summarise(record["superclass"], record["attributes"])) for record in records]
        replies = model.reply(asks, max_new_tokens)
        return [_merge(record, reply, notes) for record, reply in zip(records, replies, strict=True)]

    return ordered(items, batch, work)


def _merge(record: Record, reply: str, notes: Counter[str] | None) -> Item:
    text = prompts.parse_description(reply)
    if not text:
        return bad(record, f"the reply holds no description: {shortened(reply)}; name another --model, or leave it out")
    category = record.get("category")
    hidden = prompts.hide_name(text, category, record["superclass"]) if isinstance(category, str) else text
    if hidden != text and notes is not None:
        notes["leaks"] += 1
    return {**record, "description": hidden}
