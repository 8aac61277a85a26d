"""The processes of one training run, as torchrun or `accelerate launch` starts them.

Every process reads the same batch of records and works on its own micro-batches of it; embeddings and gradients are
summed over the processes. So batches, losses and the result are those of one process, up to the order of sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from fgvr.errors import UsageError

FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"  # how accelerate launch tells
BUCKET = 1 << 25  # numbers that are summed over the processes at once
# The others wait while the first process reads the records and looks at every image. A process that dies is noticed
# without a limit: its connections end, and torchrun and srun stop the others.
PATIENCE = timedelta(hours=24)


class ShortElsewhereError(Exception):
    """Another process ran out of memory in this step."""


class Ranks:
    """This process among `world` ones. All methods but `deal` are called by every process, in the same order.

    Args:
        sharded: each keeps a part of the weights (fgvr.training.shards).
    """

    def __init__(self, rank: int = 0, world: int = 1, sharded: bool = False) -> None:
        self.rank, self.world, self.sharded = rank, world, sharded

    def deal(self, count: int) -> list[tuple[int, bool]]:
        """Which of `count` pieces of work, the largest first, are this process's, and whether each counts.

        They are dealt out to and fro (0 1 1 0 0 1 …), so that none gets the larger one every time. With sharded weights
        every process works as often as the others, or these would wait for it: the last piece is done once more where
        there is none left, and must not count.
        """
        turns = (self.rank, self.world - 1 - self.rank)
        mine = [start + turns[turn % 2] for turn, start in enumerate(range(0, count, self.world))]
        return [(min(number, count - 1), number < count) for number in mine if self.sharded or number < count]

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is up."""
        if self.world == 1:
            return flag
        found = torch.tensor([int(flag)])
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return bool(found.item())

    def share(self, thing: Any) -> Any:
        """What the first process holds."""
        box = [thing]
        if self.world > 1:
            distributed.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def add(self, numbers: dict[str, float]) -> dict[str, float]:
        """Sum of each number over the processes, in their order."""
        if self.world == 1:
            return numbers
        every: list[Any] = [None] * self.world
        distributed.all_gather_object(every, numbers)
        names = dict.fromkeys(name for some in every for name in some)
        return {name: sum(some.get(name, 0) for some in every) for name in names}

    def rows(self, made: Tensor | None, at: Sequence[int], shape: tuple[int, int], device: torch.device) -> Tensor:
        """A matrix of which each process made some rows: (N, D) float32. What is this process's own stays
        differentiable; the loss of all rows, computed by every process, then has the right gradient in each.

        Args:
            made: (len(at), D), None for no row.
            at: places of the rows.
            shape: (N, D).
        Raises:
            ShortElsewhereError: see there.
        """
        if self.any(False):
            raise ShortElsewhereError
        place = torch.tensor(list(at), dtype=torch.long, device=device)
        whole = torch.zeros(shape, device=device)
        if self.world > 1:
            if made is not None:
                whole[place] = made.detach().float()
            distributed.all_reduce(whole)  # of numbers and zeros: exact
        return whole if made is None else whole.index_copy(0, place, made.float())

    def reduce(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; a sharded one is that already."""
        if self.world == 1:
            return
        every = [p for p in parameters if not isinstance(p, DTensor)]
        if not every:
            return
        has = torch.tensor([p.grad is not None for p in every], dtype=torch.int32)
        distributed.all_reduce(has, distributed.ReduceOp.MAX)
        bucket: list[torch.nn.Parameter] = []
        for number, (parameter, there) in enumerate(zip(every, has.tolist(), strict=True)):
            if there:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                bucket.append(parameter)
            if bucket and (number + 1 == len(every) or sum(p.numel() for p in bucket) >= BUCKET):
                _sum(bucket)
                bucket = []


ALONE = Ranks()  # a run of one process


def _sum(bucket: Sequence[torch.nn.Parameter]) -> None:
    grads = [p.grad for p in bucket if p.grad is not None]
    flat = torch.cat([grad.flatten().float() for grad in grads])
    distributed.all_reduce(flat)
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def start(device: str, sharded: bool = False) -> tuple[Ranks, str]:
    """Join the other processes, if there are any, and name this one's device.

    All of them must come within torch's own limit (30 minutes); from then on each waits for the others for PATIENCE.

    Args:
        sharded: keep a part of the weights in each; the launcher may ask for it as well.
    Raises:
        UsageError: the launcher's variables are not whole, or it asks for DeepSpeed; one process is to shard.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        if sharded:
            raise UsageError("--shard-weights is for several processes; start with torchrun, or leave it out")
        return Ranks(), device
    if os.environ.get(DEEPSPEED, "false").lower() != "false":
        raise UsageError("align and tune do not know DeepSpeed; shard with accelerate launch --use_fsdp")
    sharded |= os.environ.pop(FSDP, "").lower() == "true"  # we do it, not transformers, which looks for it too
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE is {world}, but {missing[0]} is not set; start with torchrun")
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        store, rank, world = next(distributed.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE, store=store, rank=rank, world_size=world)
    return Ranks(distributed.get_rank(), world, sharded), device


def leave() -> None:
    """Part from the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
