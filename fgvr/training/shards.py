"""Sharded weights (FSDP2, torch's `fully_shard`): of every layer of the language model each process keeps some rows of
each weight, with the gradient and the optimiser's states of these rows; a layer is whole only while it works.

Tower, connector, embeddings and output layer are whole in every process, as without. Every process must call the layers
as often as the others do, forward and backward (see Ranks.deal), or all wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from fgvr.errors import FgvrError
from fgvr.models.vlm import Vlm
from fgvr.training.ranks import Ranks

OPTIMISER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # of a checkpoint, as transformers names them


class Shards:
    """A model's sharded weights, and the optimiser that steps them.

    The model may be in the CPU's memory until now; what is kept of it goes to `vlm.device`. The optimiser, made for the
    whole weights, goes on with this process's rows, so that its groups, and a checkpoint, are those of a whole one.

    Raises:
        FgvrError: the language model's layers are not where they are in other families.
    """

    def __init__(self, vlm: Vlm, ranks: Ranks, optimiser: torch.optim.Optimizer) -> None:
        self.vlm, self.ranks, self.optimiser = vlm, ranks, optimiser
        names = {id(parameter): name for name, parameter in vlm.model.named_parameters()}
        named = [[names.get(id(p), p) for p in group["params"]] for group in optimiser.param_groups]
        for group in optimiser.param_groups:
            group["params"] = []  # a whole weight that anything holds would stay on the device
        _shard(vlm, ranks.world)
        now = dict(vlm.model.named_parameters())
        self.rows: dict[nn.Parameter, DTensor] = {}  # what the optimiser holds -> the parameter that it is a part of
        for group, found in zip(optimiser.param_groups, named, strict=True):
            group["params"] = [self._held(now[one]) if isinstance(one, str) else one for one in found]
        optimiser.register_step_pre_hook(self._lend)
        optimiser.register_step_post_hook(self._take_back)

    @torch.no_grad()
    def _held(self, parameter: nn.Parameter) -> nn.Parameter:
        if not isinstance(parameter, DTensor):
            return parameter
        held = nn.Parameter(parameter.to_local())
        self.rows[held] = parameter
        return held

    @torch.no_grad()
    def _lend(self, *_: Any) -> None:
        """Weights and gradients to the optimiser: the same memory."""
        for held, part in self.rows.items():
            held.data = part.to_local()
            held.grad = part.grad.to_local() if isinstance(part.grad, DTensor) else None

    def _take_back(self, *_: Any) -> None:
        for held in self.rows:
            held.grad = None

    # --- checkpoints; every process calls these, the first one has or writes the result ---

    def weights(self) -> dict[str, Tensor]:
        """The whole weights, of an adapter only these, as `save_pretrained` takes them."""
        found = self.vlm.learner.state_dict()
        return {k: self._whole(v) for k, v in found.items() if self.vlm.peft is None or "lora_" in k}

    @torch.no_grad()
    def _whole(self, value: Tensor) -> Tensor:
        if not isinstance(value, DTensor):
            return value
        whole = value.full_tensor()
        return whole.cpu() if self.ranks.rank == 0 else whole.new_empty(0)

    def save(self, folder: Path, scheduler: Any) -> None:
        """Write the states of optimiser and schedule as transformers does, of whole weights."""
        found = self.optimiser.state_dict()
        for number, held in enumerate(self._in_order()):
            if held in self.rows and number in found["state"]:
                like = self.rows[held]
                found["state"][number] = {k: self._state(v, like) for k, v in found["state"][number].items()}
        if self.ranks.rank == 0:
            torch.save(found, folder / OPTIMISER)
            torch.save(scheduler.state_dict(), folder / SCHEDULER)

    def _state(self, value: Any, like: DTensor) -> Any:
        if not isinstance(value, Tensor) or not value.dim():  # the number of steps
            return value
        mesh, rows = like.device_mesh, like.placements
        return self._whole(DTensor.from_local(value, mesh, rows, shape=like.shape, stride=like.stride()))

    def load(self, folder: Path, scheduler: Any) -> None:
        """What `save`, or a run with whole weights, has written."""
        found = torch.load(folder / OPTIMISER, map_location="cpu", weights_only=True, mmap=True)
        for number, held in enumerate(self._in_order()):
            if held in self.rows and number in found["state"]:
                found["state"][number] = {k: self._own(v) for k, v in found["state"][number].items()}
        self.optimiser.load_state_dict(found)
        scheduler.load_state_dict(torch.load(folder / SCHEDULER, weights_only=True))

    def _own(self, value: Any) -> Any:
        """This process's rows: N / world of them, rounded up, the last ones' fewer."""
        if not isinstance(value, Tensor) or not value.dim():
            return value
        rows = -(-len(value) // self.ranks.world)
        return value[self.ranks.rank * rows :][:rows].clone()

    def _in_order(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def clip(self, parameters: Iterable[nn.Parameter], limit: float, norm_type: float = 2) -> Tensor:
        """torch's clip_grad_norm_, over whole and sharded gradients together."""
        grads = [p.grad for p in parameters if p.grad is not None]
        total = norm(grads)
        for grad in _local(grads):
            grad.mul_((limit / (total + 1e-6)).clamp(max=1.0))
        return total


def sharded(tensor: Tensor) -> bool:
    """Whether it is in parts."""
    return isinstance(tensor, DTensor)


def norm(grads: list[Tensor]) -> Tensor:
    """The length of all gradients as one vector, 0-d, the same in every process. Whole ones are already."""
    parts = [grad for grad in grads if sharded(grad)]
    total = _squares(_local(parts))
    if parts:
        distributed.all_reduce(total)
    return (total + _squares([grad for grad in grads if not sharded(grad)])).sqrt()


def _squares(grads: list[Tensor]) -> Tensor:
    """Sum of squares, 0-d."""
    lengths = torch._foreach_norm(grads) if grads else []
    return torch.stack([length.float() for length in lengths]).square().sum() if lengths else torch.zeros(())


def _local(grads: list[Tensor]) -> list[Tensor]:
    return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]


def _shard(vlm: Vlm, world: int) -> None:
    decoder, mesh = vlm.part("decoder"), init_device_mesh(vlm.device.type, (world,))
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise FgvrError(f"the layers of {vlm.family.name} cannot be sharded; leave out --shard-weights")
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)  # only sums are: each weight keeps its own type
    for layer in layers:
        made = fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=exact)
        made.set_gradient_divide_factor(1.0)  # the processes' losses add up to the batch's
        made.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    # it holds nothing itself, but lets the next layer's weights come while one works
    fully_shard(decoder, mesh=mesh, ignored_params={p for p in decoder.parameters() if not sharded(p)})
    for module in vlm.model.modules():
        for parameter in module.parameters(recurse=False):
            if not sharded(parameter):
                parameter.data = parameter.data.to(vlm.device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(vlm.device))
    vlm.model.get_input_embeddings().register_forward_hook(_differentiable)


def _differentiable(module: nn.Module, given: Any, embedded: Tensor) -> None:
    """So that a loss goes back through all layers in every process, also one of texts whose layers are frozen."""
    if torch.is_grad_enabled() and not embedded.requires_grad:
        embedded.requires_grad_(True)
