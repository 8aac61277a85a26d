"""triple -> mined: the images most easily confused with each one, by CLIP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fgvr.models.base import Encoder
from fgvr.records import Record
from fgvr.stages.embed import embed, embed_all
from fgvr.stream import Bad, Item

if TYPE_CHECKING:
    from torch import Tensor

LABEL = "an image of a {}"  # FOCI's prompt
DIGITS = 4  # of a similarity: an image's float32 features differ in the last bits from batch size to batch size


def mine(
    items: Iterable[Item],
    encoder: Encoder,
    root: str | Path,
    per_anchor: int,
    batch: int,
    pool: Sequence[Record] | None = None,
) -> Iterator[Item]:
    """Add `negatives`: of the `per_anchor` most similar wrong categories the most similar image each, hardest first.

    Needs the whole stream; holds its records and one feature row for each image, never the images.

    Args:
        items: records with `image` and `category`, and with `description` where they are the pool.
        pool: triples that negatives are taken from; None: the stream itself.
        batch: images encoded at once.
    Raises:
        FgvrError: an image of `pool` cannot be read.
    Source: Finedefics (arXiv 2501.15140), section 3.2: three most similar but incorrect categories, one image each.
    """
    kept, features = embed(items, encoder.images, root, batch)
    anchors = [item for item in kept if not isinstance(item, Bad)]
    candidates, of_pool = anchors, features
    if pool is not None:
        candidates, of_pool = list(pool), embed_all(pool, encoder.images, root, batch, "--from")
    found = iter(_negatives(anchors, features, candidates, of_pool, per_anchor))
    for item in kept:
        yield item if isinstance(item, Bad) else {**item, "negatives": next(found)}


def mine_by_text(
    items: Iterable[Item],
    encoder: Encoder,
    root: str | Path,
    per_anchor: int,
    batch: int,
    pool: Sequence[Record] = (),
) -> Iterator[Item]:
    """Add the zero-shot classifier's view of each image: `category_similarity` of its own category, its
    `category_rank` (1: the most similar of all), and as `negatives` the most similar wrong categories, hardest first.

    Args:
        items: records with `image` and `category`; the categories are theirs and those of `pool`.
    Source: FOCI's options_generation.py: CLIP, "an image of a {label}". Ties: the right category first, then by name.
    """
    kept, features = embed(items, encoder.images, root, batch)
    anchors = [item for item in kept if not isinstance(item, Bad)]
    names = sorted({record["category"] for record in (*anchors, *pool)})
    prompts = [LABEL.format(name) for name in names]
    texts = [encoder.texts(prompts[i : i + batch]) for i in range(0, len(prompts), batch)]
    found = _ranked(anchors, features, names, texts, per_anchor)
    for item in kept:
        yield item if isinstance(item, Bad) else {**item, **next(found)}


def _ranked(
    anchors: Sequence[Record], features: list[Tensor], names: list[str], texts: list[Tensor], per_anchor: int
) -> Iterator[Record]:
    """What `mine_by_text` adds to each anchor, in their order; one batch of similarities in memory at a time."""
    if not anchors:
        return
    import torch

    place = {name: i for i, name in enumerate(names)}
    columns = torch.cat(texts).T
    own = iter([place[record["category"]] for record in anchors])
    for rows in features:
        cosine = rows @ columns
        best = cosine.sort(dim=1, descending=True, stable=True).indices[:, : per_anchor + 1].tolist()
        for line, order, gold in zip(cosine, best, own, strict=False):
            wrong = [i for i in order if i != gold][:per_anchor]
            yield {
                "category_similarity": round(line[gold].item(), DIGITS),
                "category_rank": 1 + int((line > line[gold]).sum()),
                "negatives": [{"category": names[i], "similarity": round(line[i].item(), DIGITS)} for i in wrong],
            }


def _negatives(
    anchors: Sequence[Record], features: list[Tensor], pool: Sequence[Record], of_pool: list[Tensor], per_anchor: int
) -> Iterator[list[Record]]:
    """The negatives of each anchor, in their order."""
    if not anchors or not pool:
        yield from ([] for _ in anchors)
        return
    import torch

    from fgvr.topk import hard_negatives

    index, cosine = hard_negatives(
        torch.cat(features),
        [record["category"] for record in anchors],
        torch.cat(of_pool),
        [record["category"] for record in pool],
        [record["id"] for record in pool],
        per_anchor,
    )
    for row, similarities in zip(index.tolist(), cosine.tolist(), strict=True):
        yield [_negative(pool[i], s) for i, s in zip(row, similarities, strict=True) if i >= 0]


def _negative(record: Record, similarity: float) -> Record:
    chosen = {name: record[name] for name in ("id", "category", "description")}
    return {**chosen, "similarity": round(similarity, DIGITS)}
