"""extraction -> triple: the attributes of an image as one description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from fgvr import prompts
from fgvr.errors import FgvrError, RecordError
from fgvr.models.base import Answerer, Ask
from fgvr.records import Record, texts
from fgvr.rng import for_record
from fgvr.stages.asking import Asker
from fgvr.stages.discover import shortened
from fgvr.stream import Item, bad, each, ordered

SOURCES = {"image": "attributes", "truth": "attributes_true"}  # --source -> the field that is told
Values = Mapping[str, Mapping[str, Mapping[str, list[str]]]]  # superclass -> attribute -> category -> its answers


def summarise(
    items: Iterable[Item],
    model: Answerer,
    batch: int,
    max_new_tokens: int,
    notes: Counter[str] | None = None,
    template: str | None = None,
    level: str = "long",
    source: str = "image",
    noise: float = 0.0,
    donors: Values | None = None,
    seed: int = 0,
) -> Iterator[Item]:
    """Add `description`, which the language model writes from `attributes` without seeing the image.

    A description that names the record's category would let alignment read the answer: the name, and each of
    `aliases`, is replaced.

    Args:
        items: records with `superclass` and the field of `source`; `category` where there is one.
        batch: records asked at once.
        notes: counts the descriptions that named their category, under "leaks".
        template: the question (prompts.summarise) instead of the paper's.
        level: "long" (five sentences), "short" (the first sentence of a reply to the same question for one), or
            "none" (one sentence that tells nothing; no model is asked): the paper's Table 6c.
        source: "image": from `attributes`; "truth": from `attributes_true`, the upper bound; "class": what the model
            knows of the category, without an image, asked once for each category.
        noise: share of a record's attributes that get an answer of another category out of `donors`, drawn by (seed,
            id).
    Source: Finedefics (arXiv 2501.15140), section 3.1 and Table 6.
    """
    if level == "none":
        return each(
            items, lambda r: {**r, "description": prompts.fill(prompts.NO_DESCRIPTION, superclass=r["superclass"])}
        )
    asker = Asker(model, batch, max_new_tokens)
    asked = template or (prompts.SUMMARISE_SHORT if level == "short" else prompts.SUMMARISE)
    told: dict[str, str] = {}  # category -> reply

    def by_category(records: list[Record]) -> list[str]:
        new = list(dict.fromkeys(r["category"] for r in records if r["category"] not in told))
        asks = [Ask(prompts.describe_category(name)) for name in new]
        told.update((name, text) for name, (text, _) in zip(new, asker(asks), strict=True))
        return [told[record["category"]] for record in records]

    def by_attributes(records: list[Record]) -> list[str]:
        values = [_noisy(r, r[SOURCES[source]], noise, donors or {}, seed) for r in records]
        asks = [Ask(prompts.summarise(r["superclass"], v, asked)) for r, v in zip(records, values, strict=True)]
        return [text for text, _ in asker(asks)]

    ask: Callable[[list[Record]], list[str]] = by_category if source == "class" else by_attributes

    def work(records: list[Record]) -> list[Item]:
        return [_merge(r, reply, level, notes) for r, reply in zip(records, ask(records), strict=True)]

    return ordered(items, batch, work)


def wording(template: str | None, level: str, source: str) -> str:
    """The prompt that shapes the descriptions, for the run record."""
    short = {"short": prompts.SUMMARISE_SHORT, "none": prompts.NO_DESCRIPTION}.get(level)
    return template or short or (prompts.DESCRIBE_CATEGORY if source == "class" else prompts.SUMMARISE)


def with_truth(items: Iterable[Item], annotated: Mapping[str, Mapping[str, str]]) -> Iterator[Item]:
    """Records with `attributes_true` from annotations by image path, which a record's `image` ends with."""

    def add(record: Record) -> Record:
        found = annotated.get("/".join(record["image"].split("/")[-2:]))
        if not found:
            raise RecordError(f"image {record['image']!r} has no sure annotation; leave the record out")
        return {**record, "attributes_true": dict(found)}

    return each(items, add)


def donors(records: Iterable[Record], field: str) -> Values:
    """The answers that `noise` draws from, in an order that does not depend on the records'.

    Raises:
        FgvrError: all are of one category.
    """
    found: dict[str, dict[str, dict[str, set[str]]]] = {}
    for record in records:
        attributes = found.setdefault(record["superclass"], {})
        for name, value in record[field].items():
            attributes.setdefault(name, {}).setdefault(record["category"], set()).add(str(value))
    if len({category for names in found.values() for by in names.values() for category in by}) < 2:
        raise FgvrError("--noise takes answers of other categories, and the input has only one; leave it out")
    return {
        superclass: {name: {c: sorted(by[c]) for c in sorted(by)} for name, by in names.items()}
        for superclass, names in found.items()
    }


def _noisy(record: Record, values: Mapping[str, str], noise: float, donors: Values, seed: int) -> Mapping[str, str]:
    if not noise:
        return values
    if not isinstance(record.get("category"), str):
        raise RecordError("record has no 'category', which --noise needs; add it")
    draw = for_record(seed, record["id"], "noise")
    made = dict(values)
    for name in draw.sample(sorted(made), round(noise * len(made))):
        by = donors.get(record["superclass"], {}).get(name, {})
        others = [category for category in by if category != record["category"]]
        if others:
            made[name] = draw.choice(by[draw.choice(others)])
    return made


def _merge(record: Record, reply: str, level: str, notes: Counter[str] | None) -> Item:
    text = prompts.parse_description(reply)
    if level == "short":
        text = prompts.first_sentence(text)
    if not text:
        return bad(record, f"the reply holds no description: {shortened(reply)}; name another --model, or leave it out")
    hidden = text
    for name in (record.get("category"), *texts(record, "aliases")):
        if isinstance(name, str):
            hidden = prompts.hide_name(hidden, name, record["superclass"])
    if hidden != text and notes is not None:
        notes["leaks"] += 1
    return {**record, "description": hidden}
