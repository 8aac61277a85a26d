"""What the benchmarks of `align` and `tune` train: the random Idefics2 of `model`, with adapters, on drawn birds. Its
tower is larger than there, so that it has about the share of a forward pass that Idefics2-8B's has: half of what the
language model computes for the tokens of one triple."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from fgvr.datasets import toy
from fgvr.models.vlm import Vlm, open_vlm
from fgvr.records import Record
from fgvr.training.adapters import add_adapter
from tests.bench import model

SPECIES, NEGATIVES, CAPTIONS = 32, 3, 2


@functools.cache
def folder() -> Path:
    """With the model, in `model`, and all images."""
    made = Path(tempfile.mkdtemp())
    (made / "model").mkdir()
    tower = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 8}
    model.save(made / "model", size=490, **tower)
    return made


def opened() -> Vlm:
    """The model with a new adapter that already does something; equal each time."""
    vlm = open_vlm(str(folder() / "model"), device="cpu")
    torch.manual_seed(1)
    add_adapter(vlm, rank=8, alpha=8, dropout=0.0)
    with torch.no_grad():
        for name, parameter in vlm.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    vlm.model.train()
    return vlm


@functools.cache
def triples(count: int, pool: int = 256) -> list[Record]:
    """Mined triples whose negatives come from a pool of `pool`; descriptions are two captions long (127 tokens)."""
    species = toy.world(SPECIES, 3)
    every = []
    for n in range(pool):
        one = species[n % SPECIES]
        told = [species[(n + k * (1 + n // SPECIES)) % SPECIES].attributes for k in range(CAPTIONS)]
        text = " ".join(map(toy.caption, told))
        named = {"category": one.name, "superclass": "bird", "description": text}
        every.append({"id": str(n), "image": f"{n}.jpg", **named})
    for n in range(count):
        if not (folder() / f"{n}.jpg").exists():
            toy.draw(species[n % SPECIES].attributes, Random(n), 490).save(folder() / f"{n}.jpg")
    return [
        {**r, "negatives": Random(n).sample([x for x in every if x["category"] != r["category"]], NEGATIVES)}
        for n, r in enumerate(every[:count])
    ]


def gradients(vlm: Vlm) -> Any:
    """The norm of the gradient, which both contenders have to bring about."""
    return torch.stack([p.grad.norm() for p in vlm.model.parameters() if p.grad is not None]).norm().item()
