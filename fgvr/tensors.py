"""Feature files: safetensors with the record ids beside the tensors.

One file holds named tensors whose first dimension is N, the N record ids in the same order, and a provenance object
(what made it: model, settings, hashes). Ids and provenance are JSON in the file's own metadata, under the one key
"fgvr", so a file cannot lose its ids, and one rename makes both visible. (The library writes several metadata keys in
random order, and equal runs give equal bytes here.) It bounds the metadata at 100 MB, about two million ids: past
that, shard.
A pickle runs code when it is read. None is read here, whatever its name ends in.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from fgvr.errors import FgvrError

KEY = "fgvr"
METADATA_LIMIT_BYTES = 95_000_000      # the library's limit is 100 MB for metadata and tensor index together


@dataclass(frozen=True)
class Features:
    """What a feature file holds: `tensors[name]` is (N, ...), row i belongs to `ids[i]`."""

    tensors: dict[str, Tensor]
    ids: list[str]
    provenance: dict


def save(path: str | os.PathLike, tensors: Mapping[str, Tensor], ids: Sequence[str], provenance: Mapping) -> None:
    """Write a feature file atomically: PATH.partial, fsync, rename; PATH is whole or as it was.

    Equal arguments give equal bytes. Needs the size of the file once more in memory.

    Args:
        tensors: at least one, each (N, ...) on any device.
        ids: N unique strings.
        provenance: a JSON object without NaN.
    Raises:
        ValueError: lengths disagree, an id comes twice, there is no tensor, or the provenance is not JSON.
        FgvrError: the ids are too many for one file, or writing fails (full disk, no such folder).
    """
    if not tensors:
        raise ValueError("no tensor to save")
    if len(set(ids)) != len(ids):
        raise ValueError("ids must be unique")
    for name, tensor in tensors.items():
        if tensor.ndim == 0 or len(tensor) != len(ids):
            raise ValueError(f"tensor {name!r} has shape {tuple(tensor.shape)} for {len(ids)} ids")
    about = {"ids": list(ids), "provenance": dict(provenance)}
    text = json.dumps(about, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(json.dumps(text, ensure_ascii=False).encode()) > METADATA_LIMIT_BYTES:
        raise FgvrError(f"{path}: {len(ids)} ids do not fit in one safetensors file; use --shard and several files")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _write(Path(path), to_bytes(plain, metadata={KEY: text}))


def load(path: str | os.PathLike, device: str = "cpu") -> Features:
    """Read a feature file.

    Raises:
        FgvrError: there is no such file, it is a pickle or a torch archive, it is not a whole safetensors file, it
            has no ids (another program wrote it), or ids and tensors disagree.
    """
    refuse_pickle(path)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError) as error:
        raise FgvrError(f"{path}: not a whole safetensors file: {error}") from error
    try:
        about = json.loads(metadata[KEY])
        ids, provenance = about["ids"], about["provenance"]
    except (KeyError, TypeError, ValueError) as error:
        raise FgvrError(f"{path}: no record ids in its metadata; write it with fgvr") from error
    for name, tensor in tensors.items():
        if tensor.ndim == 0 or len(tensor) != len(ids):
            raise FgvrError(f"{path}: tensor {name!r} has shape {tuple(tensor.shape)} for {len(ids)} ids")
    return Features(tensors, ids, provenance)


def rows(features: Features, name: str, ids: Sequence[str]) -> Tensor:
    """The rows of tensor `name` for `ids`, in their order, (len(ids), ...).

    Raises:
        FgvrError: the tensor or an id is missing.
    """
    if name not in features.tensors:
        raise FgvrError(f"feature file has no tensor {name!r}, only {', '.join(features.tensors)}")
    at = {record_id: row for row, record_id in enumerate(features.ids)}
    missing = [record_id for record_id in ids if record_id not in at]
    if missing:
        raise FgvrError(f"feature file has no row for {len(missing)} of {len(ids)} ids, the first is {missing[0]!r}")
    tensor = features.tensors[name]
    return tensor[torch.tensor([at[record_id] for record_id in ids], dtype=torch.long, device=tensor.device)]


def is_pickle(path: str | os.PathLike) -> bool:
    """Whether a file looks like a pickle or a torch archive (a zip around one), by its first bytes and not by its name.

    A safetensors file starts with its header's length, which may look like either; its ninth byte is always a brace.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:9] != b"{" and (head[:1] == b"\x80" or head[:4] == b"PK\x03\x04")


def refuse_pickle(path: str | os.PathLike) -> None:
    """Raise FgvrError when `path` cannot be read or is a pickle (`is_pickle`)."""
    try:
        pickled = is_pickle(path)
    except OSError as error:
        raise FgvrError(f"{path}: cannot read: {error.strerror}") from error
    if pickled:
        raise FgvrError(f"{path}: a pickle, which may run code when it is read; convert it to safetensors")


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # another process may write the same part of a cache
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise FgvrError(f"{path}: cannot write: {error.strerror}") from error
