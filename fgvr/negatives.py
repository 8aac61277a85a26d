"""Hard negatives of Finedefics (arXiv 2501.15140, section 3.2), within rules; docs/mining.md has them in their order.

Everything is exact and independent of blocks, order and threads: similarities are products of `topk.unit` vectors, ties
go to the lower category name and then to the lower id (string order), draws depend on the anchor's id.
Memory: one block of anchors x one block of pool images, one block of anchors x C, the result, and the pool's features
in float64 as far as topk.KEPT_BYTES go. Shapes: N anchors, M pool images, C categories, D width.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fgvr import rng
from fgvr.names import Aliases
from fgvr.rules import NONE, Choice, Found, Images, Rules, Shared, bound, check, nothing, same_files
from fgvr.topk import KEPT_BYTES, blocks, first_k, unit

Texts = tuple[Sequence[str], Tensor]


def hard_negatives(
    anchors: Images,
    pool: Images,
    choice: Choice = Choice(),  # noqa: B008  frozen
    rules: Rules = Rules(),  # noqa: B008
    *,
    texts: Texts | None = None,
    aliases: Aliases | None = None,
    block: int = 2048,
    device: torch.device | str = "cpu",
) -> Found:
    """The negatives of each anchor: of the first `per_anchor` wrong categories that have any, the `per_category`
    nearest images each (strategy "random": drawn ones), and of all these the `per_anchor` nearest.

    Args:
        texts: category names and their (T, D) features, for by "text" and "both"; must name every category of the pool.
        aliases: names that mean one category.
        block: anchors, and pool images, compared at a time; changes speed and memory, never the result.
        device: where products are computed.
    Raises:
        ValueError: lengths or shapes disagree, an id of the pool comes twice, a choice is unknown, texts are missing,
            or a feature has no direction.
    """
    check(anchors, pool, choice, texts, block)
    found = Found(*nothing(len(anchors.ids), choice.per_anchor))
    miner = Miner(anchors, pool, choice, rules, texts, aliases or Aliases(), block, torch.device(device))
    for rows in blocks(len(anchors.ids), block):
        index, cosine = miner.block(rows, found)
        found.index[rows, : index.shape[1]], found.cosine[rows, : index.shape[1]] = index.cpu(), cosine.cpu()
    return found


class Miner:
    """The pool in (category, id) order and what is asked of it. A place is a position in that order."""

    def __init__(
        self,
        anchors: Images,
        pool: Images,
        choice: Choice,
        rules: Rules,
        texts: Texts | None,
        aliases: Aliases,
        block: int,
        device: torch.device,
    ) -> None:
        self.anchors, self.pool, self.choice, self.rules, self.device = anchors, pool, choice, rules, device
        self.order = sorted(range(len(pool.ids)), key=lambda i: (pool.categories[i], pool.ids[i]))
        inside = [pool.categories[i] for i in self.order]
        self.names = sorted(set(inside))
        self.starts = [bisect.bisect_left(inside, name) for name in self.names] + [len(inside)]
        self.parts = list(self._parts(block))
        small = pool.features.numel() * 8 <= KEPT_BYTES
        self.whole = self._unit(pool.features[self.order]) if small else None
        self.same, self.elsewhere = same_files(anchors, pool, self.order)
        self._name(aliases)
        # one measure is bounded by the rules: the image score, unless only texts count
        self.nearest = choice.by != "text" and choice.ranked_by == "nearest"
        self.targets: dict[str, Tensor] = {}
        if choice.by != "text" and not self.nearest:
            # sums of multiples of 2^-26 are exact, whatever the order of the pool
            self.targets["image"] = unit(torch.stack([self._members(c).sum(0) for c in range(len(self.names))]))
            self.of_own = _rows(self.targets["image"], self.own)
        if texts is not None and choice.by != "image":
            row = {name: n for n, name in enumerate(texts[0])}
            vectors = self._unit(texts[1])
            self.targets["text"] = vectors[[row[name] for name in self.names]]
            if choice.by == "text":
                self.of_own = _rows(vectors, torch.tensor([row.get(name, -1) for name in anchors.categories]))

    def _parts(self, block: int) -> Iterator[tuple[int, int]]:
        """Spans of categories: together `block` images, or one larger category."""
        first = 0
        for c in range(1, len(self.starts)):
            if c + 1 == len(self.starts) or self.starts[c + 1] - self.starts[first] > block:
                yield first, c
                first = c

    def _name(self, aliases: Aliases) -> None:
        """Each anchor's category (-1: not in the pool), and the group of names that it and each category belong to."""
        code = {name: number for number, name in enumerate(self.names)}
        group: dict[str, int] = {}
        of_anchor = [group.setdefault(aliases.group(name), len(group)) for name in self.anchors.categories]
        of_name = [group.setdefault(aliases.group(name), len(group)) for name in self.names]
        self.own = torch.tensor([code.get(name, -1) for name in self.anchors.categories], device=self.device)
        self.group = torch.tensor(of_anchor, device=self.device)
        self.groups = torch.tensor(of_name, device=self.device)

    def _unit(self, features: Tensor) -> Tensor:
        return unit(features.to(self.device))

    def _vectors(self, first: int, last: int) -> Tensor:
        """(last - first, D) unit vectors of some places."""
        if self.whole is not None:
            return self.whole[first:last]
        return self._unit(self.pool.features[self.order[first:last]])

    def _members(self, category: int) -> Tensor:
        return self._vectors(self.starts[category], self.starts[category + 1])

    # --- one block of anchors ---

    def block(self, rows: slice, found: Found) -> tuple[Tensor, Tensor]:
        """(n, <= per_anchor) indices into the pool and cosines; adds to what `found` counts."""
        anchors = self._unit(self.anchors.features[rows])
        own = self.own[rows, None] == torch.arange(len(self.names), device=self.device)
        alias = (self.group[rows, None] == self.groups) & ~own
        found.count(alias, "alias")
        positive = self._positive(anchors, rows) if self.rules.positives else None
        if positive is not None:
            least = NONE if self.rules.relative_margin is None else 0
            found.without_positive += int((positive <= least).sum())
        order = self._order(rows, self._scores(anchors, rows, own | alias, positive, found))
        place, cosine = self._images(anchors, rows, order, positive, found)
        cosine, rank = first_k(cosine, min(self.choice.per_anchor, cosine.shape[1]))
        place = place.gather(1, rank)
        index = torch.tensor(self.order, device=self.device)[place]
        return index.masked_fill(cosine == NONE, -1), cosine

    def _positive(self, anchors: Tensor, rows: slice) -> Tensor:
        """(n, 1) score of each anchor with its own category, -inf where there is none. Of images: the nearest that
        does not show the anchor's own picture."""
        if not self.nearest:
            mine = self.of_own[rows]
            return (anchors * mine).sum(1, True).masked_fill(~mine.any(1, True), NONE)
        positive = torch.full((len(anchors), 1), NONE, dtype=torch.float64, device=self.device)
        uncounted = Found(*nothing(0, 0))
        for c, here in _grouped(self.own[rows]):
            similarity = anchors[here] @ self._members(c).T
            self._refuse(similarity, self._numbers(rows, here), self.starts[c], uncounted, self.same)
            positive[here] = similarity.amax(1, True)
        return positive

    def _scores(
        self, anchors: Tensor, rows: slice, closed: Tensor, positive: Tensor | None, found: Found
    ) -> list[Tensor]:
        """One (n, C) table of scores for each measure, -inf for what may not be a negative."""
        tables = [self._nearest(anchors, rows, closed, positive, found)] if self.nearest else []
        for target in self.targets.values():
            table = (anchors @ target.T).masked_fill_(closed, NONE)
            if not tables:
                bound(table, positive, self.rules, found)
            tables.append(table)
        return [table.masked_fill(tables[0] == NONE, NONE) for table in tables]

    def _nearest(
        self, anchors: Tensor, rows: slice, closed: Tensor, positive: Tensor | None, found: Found
    ) -> Tensor:
        """(n, C) cosine with each category's nearest allowed image."""
        table = torch.full(closed.shape, NONE, dtype=torch.float64, device=self.device)
        ruled = bool(self.elsewhere) or self.rules != Rules()
        for first, last in self.parts:
            similarity = anchors @ self._vectors(self.starts[first], self.starts[last]).T
            sizes = [self.starts[c + 1] - self.starts[c] for c in range(first, last)]
            if ruled:
                each = torch.repeat_interleave(torch.tensor(sizes, device=self.device))
                similarity.masked_fill_(closed[:, first:last].index_select(1, each), NONE)
                self._refuse(similarity, range(rows.start, rows.stop), self.starts[first], found, self.elsewhere)
                bound(similarity, positive, self.rules, found)
            for c, part in zip(range(first, last), similarity.split(sizes, dim=1), strict=True):
                table[:, c] = part.amax(1)
        return table.masked_fill_(closed, NONE)

    def _refuse(
        self, similarity: Tensor, numbers: Sequence[int], first: int, found: Found, shared: Shared
    ) -> None:
        """Set pairs that show one picture to -inf, in place: anchors `numbers` x places from `first` on."""
        rules = self.rules
        if shared:
            hit = torch.zeros_like(similarity, dtype=torch.bool)
            for row, number in enumerate(numbers):
                for place in shared.get(number, ()):
                    if first <= place < first + hit.shape[1]:
                        hit[row, place - first] = True
            found.remove(similarity, hit, "same image")
        if rules.hash_distance is not None:
            assert self.anchors.hashes is not None and self.pool.hashes is not None
            mine = self.anchors.hashes[list(numbers)].to(self.device).float()
            theirs = self.pool.hashes[self.order[first : first + similarity.shape[1]]].to(self.device).float()
            alike = mine @ theirs.T >= mine.shape[1] - 2 * rules.hash_distance
            found.remove(similarity, alike, "perceptual hash")
        if rules.duplicate is not None:
            found.remove(similarity, similarity >= rules.duplicate, "duplicate")

    def _numbers(self, rows: slice, here: Tensor) -> list[int]:
        return [rows.start + i for i in here.tolist()]

    # --- choosing ---

    def _order(self, rows: slice, tables: list[Tensor]) -> Tensor:
        """(n, W) categories in the order in which they are tried, -1 where none is left."""
        choice, count = self.choice, len(self.names)
        # rules about pictures may leave nothing of a category that another measure has chosen
        emptied = (bool(self.elsewhere) or self.rules.pictures) and not self.nearest
        need = count if emptied or choice.strategy == "random" else min(count, choice.per_anchor)
        low = 0
        if choice.band is not None and choice.strategy == "band":
            low, need = choice.band[0] - 1, min(count, choice.band[1])
        values, order = first_k(_fused(tables), need)
        order = order.masked_fill(values == NONE, -1)
        if choice.strategy == "hard":
            return order
        drawn = torch.full_like(order, -1)
        for i, row in enumerate(order.tolist()):
            window = [c for c in row[low:] if c >= 0]
            if choice.strategy == "random":
                window.sort()                                # by name: this draw knows no similarity
            draw = rng.for_record(choice.seed, self.anchors.ids[rows.start + i], "negative categories")
            chosen = draw.sample(window, len(window) if emptied else min(len(window), choice.per_anchor))
            drawn[i, : len(chosen)] = torch.tensor(chosen, dtype=torch.long, device=self.device)
        return drawn

    def _images(
        self, anchors: Tensor, rows: slice, order: Tensor, positive: Tensor | None, found: Found
    ) -> tuple[Tensor, Tensor]:
        """Places and cosines (n, per_anchor * per_category), -1 and -inf where there are fewer: categories are tried
        in order until `per_anchor` of them gave an image."""
        wanted, per = self.choice.per_anchor, self.choice.per_category
        place, cosine = (t.to(self.device) for t in nothing(len(anchors), wanted * per))
        given = torch.zeros(len(anchors), dtype=torch.long, device=self.device)
        counted = Found(*nothing(0, 0)) if self.nearest else found  # _nearest has counted its pairs already
        for step in range(order.shape[1]):
            for c, here in _grouped(torch.where(given < wanted, order[:, step], -1)):
                similarity = anchors[here] @ self._members(c).T
                numbers = self._numbers(rows, here)
                self._refuse(similarity, numbers, self.starts[c], counted, self.elsewhere)
                if self.nearest:
                    bound(similarity, None if positive is None else positive[here], self.rules, counted)
                values, columns = self._pick(similarity, numbers, c)
                some = values[:, 0] > NONE
                here, values, columns = here[some], values[some], columns[some]
                slots = given[here, None] * per + torch.arange(values.shape[1], device=self.device)
                cosine[here[:, None], slots] = values
                place[here[:, None], slots] = columns + self.starts[c]
                given[here] += 1
        return place, cosine

    def _pick(self, similarity: Tensor, numbers: Sequence[int], category: int) -> tuple[Tensor, Tensor]:
        """Values and columns (n, <= per_category) of the images taken from a category: the nearest, or drawn ones."""
        per = min(self.choice.per_category, similarity.shape[1])
        if self.choice.strategy != "random":
            return first_k(similarity, per)
        weight = torch.full_like(similarity, NONE)
        for row, number in enumerate(numbers):
            allowed = (similarity[row] > NONE).nonzero().flatten().tolist()
            purpose = f"negatives of {self.names[category]}"
            draw = rng.for_record(self.choice.seed, self.anchors.ids[number], purpose)
            for rank, column in enumerate(draw.sample(allowed, min(per, len(allowed)))):
                weight[row, column] = -rank
        weight, columns = first_k(weight, per)
        return similarity.gather(1, columns).masked_fill(weight == NONE, NONE), columns


def _rows(vectors: Tensor, at: Tensor) -> Tensor:
    """vectors[at], zeros where `at` is -1."""
    return torch.where((at >= 0)[:, None].to(vectors.device), vectors[at.to(vectors.device)], 0.0)


def _grouped(codes: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each code >= 0 and where it stands, by rising code."""
    for code in codes[codes >= 0].unique().tolist():
        yield code, (codes == code).nonzero().flatten()


def _fused(tables: list[Tensor]) -> Tensor:
    """One table of scores: the measure's own; of two the negated sum of both ranks (Borda's count), equal sums by the
    first measure."""
    if len(tables) == 1:
        return tables[0]
    first, second = (table.argsort(dim=1, descending=True, stable=True).argsort(dim=1).double() for table in tables)
    return (-(first + second) - first / (first.shape[1] + 1)).masked_fill(tables[0] == NONE, NONE)
