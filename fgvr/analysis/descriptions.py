"""Whether descriptions are worth training on, told before training.

Finedefics (arXiv 2501.15140) checks its own by a linear probe of their embeddings (section 4.3, "Effects of description
quality": 68.27 % on Oxford-IIIT Pet, half of its training images for training). The other figures are ours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

from fgvr import metrics, prompts
from fgvr.answers import normalise
from fgvr.records import Record

if TYPE_CHECKING:
    from fgvr.models.base import Encoder

KIND = "descriptions"
SHUFFLES = 20
BATCH = 256  # texts encoded at once


def quality(records: Sequence[Record], encoder: Encoder | None = None, seed: int = 0) -> Iterator[Record]:
    """Metrics records {kind, metric, value, low, high, n} of triples or extractions.

    unknown       share of answers that say nothing is known
    empty         share of descriptions without a word
    duplicate     share of descriptions that another record has too
    leaking       share of descriptions that name their category or one of its aliases
    length        words a description, mean
    information   mutual information of an attribute's answers with the category, for each attribute, highest first
    distinctiveness, inter-class distance    with an encoder, see `distinctiveness`

    Records without a field are left out of what needs it. Shares have 95 % Wilson intervals.
    """
    answers = [str(value) for record in records for value in record.get("attributes", {}).values()]
    yield from _share("unknown", [prompts.is_unknown(answer) for answer in answers])
    told = [record for record in records if isinstance(record.get("description"), str)]
    texts = [normalise(record["description"]) for record in told]
    counts = Counter(texts)
    yield from _share("empty", [not text for text in texts])
    yield from _share("duplicate", [counts[text] > 1 for text in texts])
    yield from _share("leaking", [_leaks(r) for r in told if isinstance(r.get("category"), str)])
    if told:
        words = [len(record["description"].split()) for record in told]
        yield _metric("length", sum(words) / len(words), None, None, len(words))
    yield from information(records, seed)
    if encoder is not None and told:
        yield from distinctiveness(told, encoder, seed)


def information(records: Sequence[Record], seed: int = 0) -> Iterator[Record]:
    """What each attribute's answers tell of the category, in bits, beyond what as many answers would tell by chance:

        I(answer; category) - mean of I over shuffled answers,   I = sum p(a, c) log2(p(a, c) / (p(a) p(c)))

    Answers that are all different tell nothing then, although I itself is highest for them.
    """
    columns: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        if isinstance(record.get("category"), str):
            for name, value in record.get("attributes", {}).items():
                columns.setdefault(name, []).append((normalise(str(value)), record["category"]))
    found = []
    for name, pairs in columns.items():
        answers, categories = (list(column) for column in zip(*sorted(pairs), strict=True))
        told = mutual_information(answers, categories)
        draw, chance = Random(f"{seed}\0{name}"), 0.0
        for _ in range(SHUFFLES):
            draw.shuffle(answers)
            chance += mutual_information(answers, categories) / SHUFFLES
        found.append({**_metric("information", round(told - chance, 4), None, None, len(pairs)), "attribute": name})
    yield from sorted(found, key=lambda record: (-record["value"], record["attribute"]))


def mutual_information(first: Sequence[str], second: Sequence[str]) -> float:
    """I(first; second) in bits, from counts; 0 <= I <= the smaller entropy."""
    both, one, other = Counter(zip(first, second, strict=True)), Counter(first), Counter(second)
    n = len(first)
    return sum(c / n * math.log2(c * n / (one[a] * other[b])) for (a, b), c in both.items())


def distinctiveness(records: Sequence[Record], encoder: Encoder, seed: int = 0) -> Iterator[Record]:
    """How well the category can be read out of a description's embedding, by a linear probe on one half of each
    category's descriptions, tried on the other half; and the inter-class distance (analysis.alignment) of
    descriptions, beside that of the bare category names.

    Args:
        records: with `id`, `description` and `category`; a category with one description trains only.
        seed: of the halves and of the fifth that chooses the probe's penalty.
    Returns:
        No value (null) where no category has four descriptions, or there is one category only.
    """
    import torch

    from fgvr.analysis import alignment, linear

    records = [record for record in records if isinstance(record.get("category"), str)]
    categories = [record["category"] for record in records]
    names = sorted(set(categories))
    if len(names) < 2 or max(Counter(categories).values()) < 4:
        yield _metric("distinctiveness", None, None, None, 0)
        return
    texts = [record["description"] for record in records]
    parts = [encoder.texts(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    features = torch.cat(parts)
    ids = [record["id"] for record in records]
    train, test = linear.split(ids, categories, share=0.5, seed=seed)
    held = linear.split([ids[i] for i in train], [categories[i] for i in train], seed=seed + 1)
    fitted, chosen = ([train[i] for i in part] for part in held)
    own = [[categories[i] for i in rows] for rows in (fitted, chosen, test)]
    score = linear.evaluate(linear.fit(features[fitted], own[0], features[chosen], own[1]), features[test], own[2])
    yield _metric("distinctiveness", score.accuracy, score.low, score.high, score.n)
    distance = alignment.inter_class_distance(features, categories)
    yield {**_metric("inter-class distance", round(distance, 4), None, None, len(names)), "of": "descriptions"}
    distance = alignment.inter_class_distance(encoder.texts(names), names)
    yield {**_metric("inter-class distance", round(distance, 4), None, None, len(names)), "of": "names"}


def _leaks(record: Record) -> bool:
    names = (record["category"], *(record.get("aliases") or ()))
    return any(prompts.leaks(record["description"], name) for name in names if isinstance(name, str))


def _share(metric: str, holds: Sequence[bool]) -> Iterator[Record]:
    if holds:
        low, high = metrics.wilson(sum(holds), len(holds))
        yield _metric(metric, sum(holds) / len(holds), low, high, len(holds))


def _metric(metric: str, value: float | None, low: float | None, high: float | None, n: int) -> Record:
    return {"kind": KIND, "metric": metric, "value": value, "low": low, "high": high, "n": n}
