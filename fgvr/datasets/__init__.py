"""Data sets: an on-disk layout in, image records out. One small file each; the table holds strings, so none is imported
before it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

DATASETS = {"toy": "fgvr.datasets.toy:records", "folder": "fgvr.datasets.folder:records"}


def open_dataset(name: str) -> Callable[..., Iterator[Any]]:
    """The function that yields a data set's image records; its arguments are the data set's own."""
    module, _, function = DATASETS[name].partition(":")
    return getattr(importlib.import_module(module), function)
