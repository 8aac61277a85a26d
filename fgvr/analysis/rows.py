"""Rows of a feature matrix that may be larger than memory: read from a safetensors file chunk by chunk, with no map of
the file, so that what is held is what was asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fgvr.errors import FgvrError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1024  # rows read at once
TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


class Rows:
    """(N, D) features, in memory or in a file.

    Args:
        source: a tensor, or a safetensors file. name: of the file's tensor; None: its only one, or "features".
    Raises:
        FgvrError: the file is not whole, or has no such tensor, or it is no floating matrix.
    """

    def __init__(self, source: Tensor | str | Path, name: str | None = None) -> None:
        self.tensor: Tensor | None = None
        if isinstance(source, (str, Path)):
            self._open(Path(source), name)
        else:
            self.tensor, self.shape = source, (len(source), source.shape[1] if source.ndim == 2 else 0)
            if source.ndim != 2 or not source.is_floating_point():
                raise FgvrError(f"features must be floating (N, D), got {source.dtype} {tuple(source.shape)}")

    def _open(self, path: Path, name: str | None) -> None:
        from fgvr.tensors import refuse_pickle

        refuse_pickle(path)
        self.path = path
        try:
            with open(path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            found = {key: value for key, value in header.items() if key != "__metadata__"}
            wanted = name or ("features" if "features" in found or len(found) != 1 else next(iter(found)))
            entry = found[wanted]
            (count, width), self.type = entry["shape"], TYPES[entry["dtype"]]
            self.at = 8 + size + entry["data_offsets"][0]
            end = 8 + size + entry["data_offsets"][1]
        except (ValueError, KeyError, TypeError) as error:
            raise FgvrError(f"{path}: no floating (N, D) tensor {name or 'features'!r}; check the file") from error
        if path.stat().st_size < end:
            raise FgvrError(f"{path}: the file is cut short; make it anew")
        self.shape = (count, width)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, end: int) -> Tensor:
        """Rows start ... end - 1 as they are stored."""
        import torch

        if self.tensor is not None:
            return self.tensor[start:end]
        kind: torch.dtype = getattr(torch, self.type)
        row = self.shape[1] * kind.itemsize
        with open(self.path, "rb", buffering=0) as file:
            data = bytearray(os.pread(file.fileno(), (end - start) * row, self.at + start * row))
        return torch.frombuffer(data, dtype=kind).view(end - start, self.shape[1])

    def take(self, index: Tensor) -> Tensor:
        """(len(index), D) float32: the rows of a rising index; a chunk is read once."""
        import torch

        if self.tensor is not None:
            return self.tensor[index].float()
        parts = []
        for chunk, inside in _chunks(index):
            start = chunk * CHUNK
            parts.append(self.read(start, min(start + CHUNK, len(self)))[inside - start].float())
        return torch.cat(parts) if parts else torch.empty(0, self.shape[1])

    def groups(self, index: Tensor, chunks: int, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """(index, rows) of all rows of a rising index, from `chunks` chunks of the file at a time; with a seed the
        chunks of a group are drawn from everywhere, and its rows are shuffled."""
        import torch

        parts = [inside for _, inside in _chunks(index)]
        draw = None if seed is None else torch.Generator().manual_seed(seed)
        order = list(range(len(parts))) if draw is None else torch.randperm(len(parts), generator=draw).tolist()
        for start in range(0, len(order), chunks):
            some = torch.cat([parts[i] for i in sorted(order[start : start + chunks])])
            rows = self.take(some)
            if draw is not None:
                mixed = torch.randperm(len(some), generator=draw)
                some, rows = some[mixed], rows[mixed]
            yield some, rows


def _chunks(index: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(chunk, the index inside it) of a rising index."""
    import torch

    chunk = index // CHUNK
    numbers, counts = torch.unique_consecutive(chunk, return_counts=True)
    yield from zip(numbers.tolist(), index.split(counts.tolist()), strict=True)
