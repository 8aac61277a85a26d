"""One contrastive loss over more rows than fit in memory: the gradient cache (GradCache, arXiv 2101.06983, section 3).

The rows of the embedding matrix are made in chunks. In a first pass, without graphs, all of them; the loss on the whole
matrix gives a gradient for each row; a second pass makes each chunk again, with its graph, and back-propagates the
gradients of its rows through it. That is the gradient of the whole batch, exactly, as long as a chunk is the same in
both passes: before it begins, the random generators (dropout) are set by (seed, step, chunk).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fgvr import rng
from fgvr.training.ranks import ALONE, Ranks

Parts = dict[str, Tensor | float]
Yielded = Iterator[tuple[Tensor, Parts]]
CALL = 256  # tokens that a model could work on in the time that one more call of it costs


@dataclass(frozen=True)
class Step:
    """What one step's losses need to know besides the records.

    seed: of every draw in the step. key: the step's name.
    micro_batch: records in memory at once, in each process; None: all of this process's share.
    batch: records of a whole step; the last one of an epoch may have fewer.
    """

    seed: int
    key: str = ""
    micro_batch: int | None = None
    ranks: Ranks = ALONE
    batch: int = 0

    @classmethod
    def alone(cls, micro_batch: int | None) -> Step:
        """A step outside a training loop; its draws follow torch's generator."""
        return cls(int(torch.randint(1 << 62, ()).item()), "", micro_batch)

    def size(self, records: int) -> int:
        """Records of a micro-batch."""
        return self.micro_batch or max(1, -(-records // self.ranks.world))

    def at_once(self, records: int) -> bool:
        """Whether all is in memory in one graph; of an epoch's last step, whether it is in the others."""
        return self.micro_batch is None or self.micro_batch * self.ranks.world >= max(records, self.batch)

    def draw(self, chunk: int) -> None:
        """Set the random generators for a chunk, whichever process works on it, and however often."""
        torch.manual_seed(rng.for_record(self.seed, f"{self.key}/{chunk}", "dropout").getrandbits(63))


@dataclass(frozen=True)
class Chunk:
    """Some rows of the embedding matrix.

    at: their places.
    kind: chunks of one kind call the language model equally often.
    make: (with more?) -> their embeddings (n, D), and a further loss (0-d) on the same activations, if asked for and
        there is one, with its parts for the log.
    """

    at: Sequence[int]
    kind: str
    make: Callable[[bool], tuple[Tensor, Tensor | None, Parts]]


def whole(
    chunks: Sequence[Chunk],
    loss: Callable[[Tensor], tuple[Tensor, Parts]],
    shape: tuple[int, int],
    device: torch.device,
    step: Step,
) -> Yielded:
    """loss(embeddings) plus the chunks' further losses, in one graph: for batches that fit in memory."""
    pieces: list[Tensor] = []
    further: list[tuple[Tensor, Parts]] = []
    at: list[int] = []
    for number, chunk, counts in _own(chunks, step):
        step.draw(number)
        made, more, parts = chunk.make(True)
        if not counts:
            further.append((_nothing(made, more), {}))
            continue
        pieces.append(made)
        at += chunk.at
        further += [(more, parts)] if more is not None else []
    value, found = loss(step.ranks.rows(torch.cat(pieces) if pieces else None, at, shape, device))
    every: Parts = dict(found) if step.ranks.rank == 0 else {}
    for more, parts in further:
        value = value + more
        every |= {name: every.get(name, 0.0) + part for name, part in parts.items()}
    yield value, every


def cached(
    chunks: Sequence[Chunk],
    loss: Callable[[Tensor], tuple[Tensor, Parts]],
    shape: tuple[int, int],
    device: torch.device,
    step: Step,
) -> Yielded:
    """The same gradient with one chunk's graph in memory at a time.

    What comes first is the loss of the detached embeddings, then for each chunk a tensor whose gradient is the chunk's
    share; each must be back-propagated before the next is asked for.
    """
    embeddings = torch.zeros(shape, device=device)
    at: list[int] = []
    with torch.no_grad():
        for number, chunk, counts in _own(chunks, step):
            step.draw(number)
            made = chunk.make(False)[0]
            if counts:
                embeddings[list(chunk.at)] = made.float()
                at += chunk.at
        embeddings = step.ranks.rows(embeddings[at] if at else None, at, shape, device)
    embeddings.requires_grad_()
    value, parts = loss(embeddings)
    yield value, parts if step.ranks.rank == 0 else {}
    if embeddings.grad is None:
        raise RuntimeError("the loss of the embeddings was not back-propagated before the next was asked for")
    grads = embeddings.grad
    del value, embeddings
    for number, chunk, counts in _own(chunks, step):
        step.draw(number)
        made, more, parts = chunk.make(True)
        if not counts:
            yield _nothing(made, more), {}
            continue
        share = (made.float() * grads[list(chunk.at)]).sum()
        yield (share if more is None else share + more), parts
        del made, more, share


def _own(chunks: Sequence[Chunk], step: Step) -> list[tuple[int, Chunk, bool]]:
    """This process's chunks, each with its number and whether it counts; with sharded weights as many of each kind as
    the other processes have."""
    kinds: dict[str, list[tuple[int, Chunk]]] = {}
    for number, chunk in enumerate(chunks):
        kinds.setdefault(chunk.kind if step.ranks.sharded else "any", []).append((number, chunk))
    return [(*same[place], counts) for same in kinds.values() for place, counts in step.ranks.deal(len(same))]


def _nothing(made: Tensor, more: Tensor | None) -> Tensor:
    """A loss of zero, and with gradients of zero, that is back-propagated all the same."""
    return 0 * (made.float().sum() if more is None else made.float().sum() + more)


def buckets(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Places of texts in groups of like length, each of at most `room` tokens with padding (a text longer than that
    is alone)."""
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and (len(groups[-1]) + 1) * longest <= room:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def alike(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Places of sequences in groups of at most `size`, longest first, so that the tokens with padding, and CALL more
    for each group, are least: a batch of long and of short ones is better worked on in two halves.
    """
    order = sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))
    cost, begin = [0], [0]  # of the first n places in that order: their least cost, and where its last group begins
    for end in range(1, len(order) + 1):
        starts = range(max(0, end - size), end)
        least, at = min((cost[n] + (end - n) * lengths[order[n]] + CALL, n) for n in starts)
        cost.append(least)
        begin.append(at)
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(order[begin[end] : end])
        end = begin[end]
    return groups[::-1]
