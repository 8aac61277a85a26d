"""Which records make a batch, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Grouping:
    """Batches of records that belong together, of all kinds alike, and of such as share texts: each different text of a
    batch is encoded once.

    Args:
        groups, kinds: the group of each record, and its category; rows of one category are not contrasted.
        texts: what is encoded for each record.
    """

    groups: Sequence[Hashable]
    kinds: Sequence[Hashable]
    texts: Sequence[Collection[str]]

    def batches(self, order: Sequence[int], size: int) -> list[list[int]]:
        """Every record of `order` once, `size` a batch, less only in the last one.

        Groups come as their first record does. A batch takes on a record of the kind that it has fewest of, of these
        the one of whose texts it has most letters already, of equals the first in `order`. What is left of a group
        begins the next one's batch. Cost: N times (records of a group + texts of a record times records that share it).
        """
        waiting: dict[Hashable, list[int]] = {}
        for record in order:
            waiting.setdefault(self.groups[record], []).append(record)
        made: list[list[int]] = [[]]
        there: set[str] = set()
        count: Counter[Hashable] = Counter()
        for records in waiting.values():
            holders: dict[str, list[int]] = {}
            for record in records:
                for text in self.texts[record]:
                    holders.setdefault(text, []).append(record)
            shared = {n: sum(len(text) for text in self.texts[n] if text in there) for n in records}
            while shared:
                if len(made[-1]) == size:
                    made.append([])
                    there, count, shared = set(), Counter(), dict.fromkeys(shared, 0)
                record = max(shared, key=lambda n: (-count[self.kinds[n]], shared[n]))
                del shared[record]
                count[self.kinds[record]] += 1
                made[-1].append(record)
                for text in self.texts[record]:
                    for other in holders[text] if text not in there else ():
                        if other in shared:
                            shared[other] += len(text)
                there.update(self.texts[record])
        return made


class Order(torch.utils.data.Sampler):
    """Batches of an epoch's order, which (seed, epoch) decide. (The order of accelerate's SeedableRandomSampler.)

    Args:
        ahead: called with the records of the batch that comes after the one that is handed out.
    """

    def __init__(
        self, count: int, size: int, seed: int, grouping: Grouping | None = None,
        ahead: Callable[[Sequence[int]], None] = lambda records: None,
    ) -> None:  # fmt: skip
        self.count, self.size, self.seed, self.epoch = count, size, seed, 0
        self.grouping, self.ahead = grouping, ahead
        self.batch_sampler = self  # where Trainer looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def batches(self) -> list[list[int]]:
        """The epoch's; with a grouping in a drawn order, a short one last."""
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.count, generator=draw).tolist()
        if self.grouping is None:
            return [order[n : n + self.size] for n in range(0, self.count, self.size)]
        made = self.grouping.batches(order, self.size)
        full = self.count // self.size
        return [made[n] for n in torch.randperm(full, generator=draw).tolist()] + made[full:]

    def __iter__(self) -> Iterator[list[int]]:
        made = self.batches()
        for this, following in zip(made, [*made[1:], []], strict=True):
            self.ahead(following)
            yield this

    def __len__(self) -> int:
        return -(-self.count // self.size)
