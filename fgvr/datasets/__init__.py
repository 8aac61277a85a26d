"""Data sets: an on-disk layout in, image records out. One small file each; the table holds strings, so none is imported
before it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fgvr.datasets.spec import Spec

# name -> module:Spec; docs/datasets.md says how to add one
DATASETS = {
    "cub": "fgvr.datasets.cub:SPEC",
    "cars": "fgvr.datasets.cars:SPEC",
    "dogs": "fgvr.datasets.dogs:SPEC",
    "flowers": "fgvr.datasets.flowers:SPEC",
    "pets": "fgvr.datasets.pets:SPEC",
    "aircraft": "fgvr.datasets.aircraft:SPEC",
    "food101": "fgvr.datasets.food101:SPEC",
    "nabirds": "fgvr.datasets.nabirds:SPEC",
    "inat2021": "fgvr.datasets.inat2021:SPEC",
    "imagenet": "fgvr.datasets.imagenet:SPEC",
    "imagenet-a": "fgvr.datasets.imagenet:A",
    "imagenet-r": "fgvr.datasets.imagenet:R",
    "imagenet-sketch": "fgvr.datasets.imagenet:SKETCH",
    "grocery": "fgvr.datasets.grocery:SPEC",
}


def open_dataset(name: str) -> Spec:
    """What fgvr knows of a published data set."""
    module, _, attribute = DATASETS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
