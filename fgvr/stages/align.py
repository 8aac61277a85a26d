"""mined triples -> adapter: stage I of Finedefics, attribute augmented contrastive learning (section 3.2, Eqs 5-8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgvr import losses, prompts, rng
from fgvr.errors import FgvrError
from fgvr.models.vlm import Vlm
from fgvr.models.writing import Sight
from fgvr.names import Aliases
from fgvr.records import check_triple, texts
from fgvr.stages import tune
from fgvr.training.conversations import Talk, coded, distinct, lessons, reply_loss
from fgvr.training.gradcache import Chunk, Parts, Step, Yielded, buckets, cached, whole
from fgvr.training.order import Grouping
from fgvr.training.vision import Vision

Record = dict[str, Any]
# the texts that --pairs contrasts
FIELDS = {"attribute": ("description", "category"), "object-category": ("category",)}
SIMPLE = 3  # simple negatives of a triple that has no hard ones (Finedefics has 3)


@dataclass(frozen=True)
class Objective:
    """The loss of one batch of mined triples: L_G + (OAC + ACC + CCC) / 2 (Eq 8), or as `weights` say.

    The batch is the contrastive batch, however small the micro-batches. Each different description and category name of
    it, the negatives' included, goes through the language model once, beside texts of like length.

    Args:
        form, temperature, reduction: see fgvr.losses.
        question: what the description answers; {superclass} is filled in. None: fgvr.prompts.describe.
        pairs: "attribute"; or "object-category", where one term, OCC, takes the place of OAC and ACC (ablation 3b).
        pool: see fgvr.models.vlm.
        aliases: names that mean one category. Rows of one category, and negatives of the row's own, are masked in
            every term of the paper's form.
        micro_batch: records in memory at once; fewer than the batch has need a gradient cache.
        vision: where object tokens come from.
        answers: a record -> questions and answers on its image, whose token loss is added (ablation 3c, one stage).
    """

    vlm: Vlm
    image_root: str | Path
    form: str
    temperature: float | losses.Temperature
    reduction: str
    question: str | None = None
    pairs: str = "attribute"
    pool: str = "eos"
    weights: losses.Weights = losses.Weights()  # noqa: RUF009  frozen
    aliases: Aliases | None = None
    micro_batch: int | None = None
    vision: Vision | None = None
    answers: Callable[[Record], Sequence[Talk]] | None = None

    def __call__(self, records: Sequence[Record], now: Step | None = None) -> Yielded:
        """See fgvr.training.trainer.Losses."""
        vlm, now = self.vlm, now or Step.alone(self.micro_batch)
        batch = Batch(records, self.aliases or Aliases(), self.pairs)
        count, size = len(records), now.size(len(records))
        lengths = vlm.tokens(batch.texts)[1].sum(1).tolist()
        chunks = list(self._objects(records, size, now))
        chunks += [self._texts(batch, group) for group in buckets(lengths, size * max(lengths))]
        shape = (count + len(batch.texts), vlm.model.get_input_embeddings().weight.shape[1])
        run = whole if now.at_once(count) else cached
        yield from run(chunks, lambda embedded: self._contrast(batch, embedded, now), shape, vlm.device, now)

    def _objects(self, records: Sequence[Record], size: int, now: Step) -> Iterator[Chunk]:
        """Object embeddings, with what is said about their images."""
        vlm, sight = self.vlm, self.vision or Vision(self.vlm, self.image_root)
        described = [[Talk(self._asked(r), r["description"])] for r in records] if self.weights.generation else None
        told = [[x for talk in self.answers(r) for x in lessons(vlm, talk)] for r in records] if self.answers else None
        always = now.ranks.sharded
        looks = [tune.looking(sight, record["image"]) for record in records]
        terms = (Spoken(vlm, "generation", described, self.weights.generation, looks, always),
                 Spoken(vlm, "answers", told, 1.0, looks, always))  # fmt: skip

        order = sorted(range(len(records)), key=lambda n: (-sum(term.counts[n] for term in terms if term), n))

        def chunk(rows: Sequence[int]) -> Chunk:
            shown = sight.show([records[n]["image"] for n in rows])

            def make(more: bool) -> tuple[Tensor, Tensor | None, Parts]:
                features = shown.features(again=not more)
                made = vlm.pool_features(features, self.pool)
                parts: Parts = {}
                found = [term.loss(rows, features, parts) for term in terms if more and term]
                return made, sum(found[1:], found[0]) if found else None, parts

            return Chunk(rows, "objects", make)

        return (chunk(order[n : n + size]) for n in range(0, len(records), size))

    def _texts(self, batch: Batch, group: Sequence[int]) -> Chunk:
        """Embeddings of some texts of the batch."""
        written = [batch.texts[n] for n in group]
        at = [batch.rows + n for n in group]
        return Chunk(at, "texts", lambda more: (self.vlm.pool_texts(written, self.pool), None, {}))

    def _contrast(self, batch: Batch, embedded: Tensor, now: Step) -> tuple[Tensor, Parts]:
        """The weighted contrastive terms, and each by itself."""
        tau: float | Tensor
        tau = self.temperature() if isinstance(self.temperature, losses.Temperature) else self.temperature
        if isinstance(tau, Tensor) and now.ranks.rank:
            tau = tau.detach()  # each process computes this loss; its gradient must not add up
        terms = batch.terms(embedded, self.form, tau, self.reduction)
        zero = embedded.new_zeros(())  # the generation's share comes with the chunks
        first = terms.get("oac", terms.get("occ", zero))
        joint = losses.total(zero, first, terms.get("acc", zero), terms["ccc"], self.weights)
        learnt = {"temperature": tau.detach()} if isinstance(tau, Tensor) else {}
        told = {"loss": joint.detach(), **{k: t.detach() for k, t in terms.items()}, **learnt}
        return joint, {**told, "texts": len(batch.texts)}

    def _asked(self, record: Record) -> str:
        superclass = record.get("superclass", "object")
        return prompts.describe(superclass) if self.question is None else self.question.replace(
            "{superclass}", superclass)  # fmt: skip


objective = Objective


def fits(sight: Vision, record: Record, pairs: str) -> None:
    """Raises RecordError for a triple that cannot be learnt (records.check_triple, tune.fits), before training."""
    check_triple(record, FIELDS[pairs])
    tune.fits(sight, {**record, "kind": "open", "question": "", "answer": record["description"]})


class Batch:
    """The texts of a batch, each different one once, and which of them stands where in the losses.

    The embedding matrix has the B objects first, then `texts`.
    """

    def __init__(self, records: Sequence[Record], aliases: Aliases, pairs: str = "attribute") -> None:
        slots, mask = _slots(records)
        own = [aliases.group(record["category"]) for record in records]
        false = [[aliases.group(slots[i * mask.shape[1] + k]["category"]) == group for k in range(mask.shape[1])]
                 for i, group in enumerate(own)]  # fmt: skip
        self.rows, self.pairs, self.mask, self.groups = len(records), pairs, mask, own
        self.true = mask & ~torch.tensor(false)
        fields = FIELDS[pairs]
        self.texts, at = distinct([r[field] for field in fields for r in (*records, *slots)])
        self.at = dict(zip(fields, at.chunk(len(fields)), strict=True))

    def _split(self, embedded: Tensor, field: str) -> tuple[Tensor, Tensor]:
        every = embedded[self.rows + self.at[field].to(embedded.device)]
        return every[: self.rows], every[self.rows :].view(self.rows, -1, embedded.shape[1])

    def terms(self, embedded: Tensor, form: str, temperature: float | Tensor, reduction: str) -> dict[str, Tensor]:
        """The contrastive terms, each 0-d: oac, acc and ccc; or occ and ccc."""
        device = embedded.device
        same = losses.same_category(self.groups, device) if form == "paper" else None
        mask = (self.true if form == "paper" else self.mask).to(device)
        how: dict[str, Any] = {"mask": mask, "temperature": temperature, "reduction": reduction, "form": form}
        o, (c, neg_c) = embedded[: self.rows], self._split(embedded, "category")
        ccc = losses.category_category(c, neg_c, **how)
        if self.pairs == "object-category":
            return {"occ": losses.object_category(o, c, neg_c, same=same, **how), "ccc": ccc}
        a, neg_a = self._split(embedded, "description")
        return {
            "oac": losses.object_attribute(o, a, neg_a, same=same, **how),
            "acc": losses.attribute_category(a, c, neg_a, neg_c, same=same, **how),
            "ccc": ccc,
        }


class Spoken:
    """One generation term of a batch: the mean over its reply tokens, in shares for the micro-batches.

    Args:
        talks: those of each record; None: the batch has no such term.
        looks: how each record's image stands in a prompt (conversations.coded).
        always: call the language model also for rows without any.
    """

    def __init__(
        self, vlm: Vlm, name: str, talks: Sequence[Sequence[Talk]] | None, weight: float,
        looks: Sequence[Callable[[], Sight] | None], always: bool = False,
    ) -> None:  # fmt: skip
        self.vlm, self.name, self.weight, self.talks, self.always = vlm, name, weight, talks or [], always
        self.counts = [
            sum(label >= 0 for talk in some for label in coded(vlm, talk, look)[1])
            for some, look in zip(self.talks, looks, strict=bool(self.talks))
        ]

    def __bool__(self) -> bool:
        return sum(self.counts) > 0

    def loss(self, rows: Sequence[int], features: Sequence[Tensor], parts: Parts) -> Tensor:
        """The share of some rows, weighted; `parts` get its value and the number of its tokens."""
        asked = [(talk, feature) for n, feature in zip(rows, features, strict=True) for talk in self.talks[n]]
        tokens = sum(self.counts[n] for n in rows)
        if not asked:
            some = [talk for talks in self.talks for talk in talks][:1]
            return (reply_loss(self.vlm, some, features[:1]) if self.always else features[0].sum()) * 0
        found = reply_loss(self.vlm, [talk for talk, _ in asked], [f for _, f in asked]) * (tokens / sum(self.counts))
        parts[self.name] = found.detach()
        parts["loss"] = parts.get("loss", 0.0) + self.weight * found.detach()
        parts["tokens"] = parts.get("tokens", 0) + tokens
        return self.weight * found


def contrastive(
    vlm: Vlm, records: Sequence[Record], features: Sequence[Tensor], form: str, temperature: float, reduction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """OAC, ACC and CCC of a batch, each 0-d, everything encoded at once."""
    batch = Batch(records, Aliases())
    embedded = torch.cat([vlm.pool_features(features), vlm.pool_texts(batch.texts)])
    found = batch.terms(embedded, form, temperature, reduction)
    return found["oac"], found["acc"], found["ccc"]


def _slots(records: Sequence[Record]) -> tuple[list[Record], Tensor]:
    """All negatives as B x K slots, a row with fewer filled up with its first (or itself), and which slots are real."""
    negatives = [record.get("negatives") or [] for record in records]
    width = max(1, max(map(len, negatives)))
    fill = [row[0] if row else record for row, record in zip(negatives, records, strict=True)]
    slots = [row[k] if k < len(row) else one for row, one in zip(negatives, fill, strict=True) for k in range(width)]
    mask = torch.tensor([[k < len(row) for k in range(width)] for row in negatives])
    return slots, mask


def with_negatives(records: Sequence[Record], kind: str, seed: int, aliases: Aliases) -> list[Record]:
    """Triples with the negatives of `--negatives`: their own ("hard"); as many drawn from the other categories of all
    triples ("simple", Finedefics Table 6), by (seed, id); or none.

    Raises:
        FgvrError: no triple has hard negatives; there is no other category to draw from.
    """
    if kind == "hard":
        if not any(record.get("negatives") for record in records):
            raise FgvrError("no triple has a negative; run `fgvr mine-negatives` again, or give --negatives none")
        return list(records)
    if kind == "none":
        return [{**record, "negatives": []} for record in records]
    pool = sorted(records, key=lambda record: record["id"])
    groups = [aliases.group(record["category"]) for record in pool]
    least = len(pool) - max(Counter(groups).values())  # triples of other categories, for any triple
    if not least:
        raise FgvrError("--negatives simple draws from other categories, and there is one; give triples of more")

    def drawn(record: Record) -> Record:
        own, draw = aliases.group(record["category"]), rng.for_record(seed, record["id"], "simple negatives")
        wanted = min(len(record.get("negatives") or []) or SIMPLE, least)
        chosen: dict[int, None] = {}
        while len(chosen) < wanted:
            place = draw.randrange(len(pool))
            if groups[place] != own:
                chosen[place] = None
        return {**record, "negatives": [{k: pool[n][k] for k in ("id", "category", "description")} for n in chosen]}

    return [drawn(record) for record in records]


def grouping(records: Sequence[Record], groups: Iterable[Record], pairs: str) -> Grouping:
    """Batches within groups of categories (of `fgvr mine-negatives --groups`): hard negatives of a row are then other
    rows' positives. A category that is in none is a group by itself.

    Raises:
        FgvrError: a category is in two groups.
    """
    number: dict[str, int] = {}
    for n, group in enumerate(groups):
        for category in texts(group, "categories"):
            if category in number:
                raise FgvrError(f"--groups: category {category!r} is in two groups; make them again (mine-negatives)")
            number[category] = n
    return Grouping(
        [number.get(record["category"], record["category"]) for record in records],
        [record["category"] for record in records],
        [{one[field] for one in (r, *(r.get("negatives") or ())) for field in FIELDS[pairs]} for r in records],
    )


def joined(
    questions: Iterable[Record], records: Iterable[Record], talk: Callable[[Record], Talk]
) -> dict[str, list[Talk]]:
    """Questions and answers by the image that they are on, for `answers`.

    Raises:
        FgvrError: a question is on an image that no triple has.
    """
    found: dict[str, list[Talk]] = {record["image"]: [] for record in records}
    for question in questions:
        image = question["image"]
        if image not in found:
            raise FgvrError(f"--questions: {question['id']}: no triple has its image {image!r}; leave it out")
        found[image].append(talk(question))
    return found
