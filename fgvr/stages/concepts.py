"""image records -> concept records: for each category what tells it apart, "required" and "likely" attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fgvr import concepts, prompts
from fgvr.errors import FgvrError, RecordError
from fgvr.images import open_image
from fgvr.models.base import Answerer, Ask
from fgvr.records import Record, check
from fgvr.stages.asking import Asker
from fgvr.stream import Bad, Item, bad, ordered

SOURCES = ("text", "image", "document", "truth")


def documents_of(records: Iterable[Record], where: str) -> dict[str, str]:
    """category -> the passage of its document. Raises FgvrError for a record without one, and for a category twice."""
    found: dict[str, str] = {}
    for record in records:
        name, text = record.get("category"), record.get("document")
        if not isinstance(name, str) or not isinstance(text, str):
            raise FgvrError(f"{where}: a record has no text in `category` or `document`; add it")
        if name in found:
            raise FgvrError(f"{where}: category {name!r} comes twice; remove one")
        found[name] = concepts.passage(text)
    return found


def by_category(items: Iterable[Item]) -> Iterator[Item]:
    """One record for each category, in order of appearance: its first one, with `values`, the counts of its
    `attributes_true` over all."""
    first: dict[str, Record] = {}
    for item in items:
        if isinstance(item, Bad):
            yield item
            continue
        own = first.setdefault(item["category"], {**item, "values": {}})
        truth = item.get("attributes_true")
        for name, value in truth.items() if isinstance(truth, dict) else ():
            own["values"].setdefault(name, Counter())[str(value)] += 1
    yield from first.values()


def concept_attributes(
    items: Iterable[Item],
    source: str,
    model: Answerer | None,
    root: str | Path,
    batch: int,
    max_new_tokens: int,
    documents: Mapping[str, str] | None = None,
) -> Iterator[Item]:
    """Concept records {id, category, superclass, required, likely, raw}, one for each category; needs the whole stream.

    Args:
        items: records with `category`, and what `source` reads.
        source: "text": what the model knows by the name; "image": what it sees on the category's first image, told the
            superclass, not the name; "document": the name and a passage of `documents` (none where it lacks one);
            "truth": the most frequent values of `attributes_true`, without a model and without `raw`.
    """
    if source == "truth":
        for item in by_category(items):
            yield item if isinstance(item, Bad) else _truth(item)
        return
    assert model is not None
    asker = Asker(model, batch, max_new_tokens)

    def ask(record: Record) -> Ask:
        if source == "image":
            check(record, ("image", "superclass"))
            text = prompts.fill(concepts.IMAGE, concept=record["superclass"])
            return Ask(text, open_image(root, record["image"]))
        document = (documents or {}).get(record["category"], "")
        return Ask(prompts.fill(concepts.PROMPTS[source], concept=record["category"], document=document))

    def work(records: list[Record]) -> list[Item]:
        asks: list[Ask | Item] = []
        for record in records:
            try:
                asks.append(ask(record))
            except RecordError as error:
                asks.append(bad(record, error))
        said = iter(asker([one for one in asks if isinstance(one, Ask)]))
        return [
            _read(record, next(said).text) if isinstance(one, Ask) else one
            for record, one in zip(records, asks, strict=True)
        ]

    yield from ordered(by_category(items), batch, work)


def _read(record: Record, reply: str) -> Record:
    found: Record = {**concepts.parse(reply), "raw": reply}
    return _head(record) | found


def _head(record: Record) -> Record:
    kept: Record = {name: record[name] for name in ("superclass", "aliases", "labels") if name in record}
    return {"id": f"concept/{record['category']}", "category": record["category"]} | kept


def _truth(record: Record) -> Item:
    if not record["values"]:
        return bad(record, "record has no 'attributes_true'; take another --source")
    most = {name: sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[0][0] for name, counts in
            record["values"].items()}  # fmt: skip
    told = [f"{'no' if value == 'none' else value} {name}" for name, value in most.items()]
    return {**_head(record), "required": told, "likely": []}
