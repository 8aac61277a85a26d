"""categories -> descriptions from what a language model knows, without an image, and how much they tell.

Finedefics (arXiv 2501.15140, section 2.2, Table 1b): the model is asked for distinguishing features, the name in its
reply is replaced by a pronoun, and a linear probe reads the category out of the reply's embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fgvr import prompts
from fgvr.analysis import linear
from fgvr.errors import FgvrError
from fgvr.metrics import wilson
from fgvr.models.base import Ask
from fgvr.records import Record
from fgvr.rng import for_record

if TYPE_CHECKING:
    from torch import Tensor

KIND = "category knowledge"
TEMPERATURE = 0.7


def describe(
    categories: Sequence[Record], answerer: Any, times: int, max_new_tokens: int, seed: int
) -> Iterator[Record]:
    """`times` drawn descriptions of each category, {id, category, superclass, raw, description, leaked}.

    Args:
        categories: records with `category`, and `superclass` where it is known.
        answerer: with `sample` (fgvr.models.base.Sampler).
    """
    for record in categories:
        name = record["category"]
        for n in range(times):
            key = f"{name}/{n}"
            draw = for_record(seed, key, "knowledge").randrange(1 << 31)
            raw = answerer.sample(Ask(prompts.describe_category(name)), max_new_tokens, TEMPERATURE, draw)
            said = prompts.parse_description(raw)
            hidden = prompts.hide_name(said, name, record.get("superclass") or "one")
            yield {"id": key, "category": name, "superclass": record.get("superclass"), "raw": raw,
                   "description": hidden, "leaked": prompts.leaks(said, name)}  # fmt: skip


def figures(described: Sequence[Record], features: dict[str, Tensor], seed: int) -> Iterator[Record]:
    """Metrics records: how many replies named the category, how many still do with the name hidden, how many are
    empty, and by place and pool the accuracy of a probe on half of each category's descriptions, tried on the other.

    Raises:
        FgvrError: too few descriptions for halves.
    """
    leaks = [r["leaked"] for r in described]
    still = [prompts.leaks(r["description"], r["category"]) for r in described]
    empty = [not r["description"] for r in described]
    for metric, marks in (("naming the category", leaks), ("naming it when hidden", still), ("empty", empty)):
        yield _share(metric, sum(marks), len(marks))
    rows = [i for i, r in enumerate(described) if r["description"] and not still[i]]
    names = [described[i]["category"] for i in rows]
    ids = [described[i]["id"] for i in rows]
    train, test = linear.split(ids, names, share=0.5, seed=seed)
    inner = linear.split([ids[i] for i in train], [names[i] for i in train], seed=seed + 1)
    fitted, held = ([train[i] for i in part] for part in inner)
    if not held or not test:
        raise FgvrError("category knowledge needs four descriptions a category; give a larger --knowledge")
    for key, found in features.items():
        x = found[rows]
        own = [[names[i] for i in part] for part in (fitted, held, test)]
        score = linear.evaluate(linear.fit(x[fitted], own[0], x[held], own[1]), x[test], own[2])
        place, _, pool = key.partition("/")
        made = {"kind": KIND, "metric": "accuracy", "value": score.accuracy, "low": score.low, "high": score.high}
        yield {**made, "n": score.n, **({} if place == "output" else {"place": place}), "pool": pool}


def _share(metric: str, count: int, n: int) -> Record:
    low, high = wilson(count, n)
    return {"kind": KIND, "metric": metric, "value": count / n, "low": low, "high": high, "n": n}
