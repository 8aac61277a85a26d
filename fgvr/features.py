"""Image features: streamed out of a model, kept by content so that no image is encoded twice, or read from a file.

Layout of a cache folder: DIR/<key>/about.json names model, dtype and preprocessing (the key is its hash), and
DIR/<key>/<hash>.safetensors are parts of at most PART rows: tensor "features" (n, D) float32 with the SHA-256 of each
image *file* as its id, written whole or not at all and never changed. So any number of processes (`--shard`) may fill
one folder, an interrupted run goes on after its last part, and an image that moved or is copied is known again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fgvr import provenance, tensors
from fgvr.errors import FgvrError, RecordError, reason
from fgvr.images import locate, open_image
from fgvr.records import Record
from fgvr.stream import Bad, Item, bad

if TYPE_CHECKING:
    from fgvr.models.encoders import Parts

PART = 2048
PART_S = 60.0      # seconds after which a part is written all the same
HASH_BITS = 64


class Store:
    """Rows by key, in memory and, with a folder, in parts on disk.

    Args:
        folder: DIR of a cache; None: memory only.
        about: what makes two rows for one key equal.
        name: of the tensor.
    Raises:
        FgvrError: a part is damaged, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path | None, about: dict[str, Any], name: str = "features") -> None:
        self.about, self.name, self.folder = about, name, None
        self._at: dict[str, int] = {}
        self._blocks: list[Tensor] = []
        self._new: dict[str, Tensor] = {}
        self._written = time.monotonic()
        if folder is None:
            return
        text = json.dumps(about, sort_keys=True, ensure_ascii=False, indent=1)
        self.folder = Path(folder, hashlib.sha256(text.encode()).hexdigest()[:16])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            note = self.folder / "about.json"
            if not note.exists():
                partial = note.with_name(f".about.{os.getpid()}")
                partial.write_text(text + "\n")
                os.replace(partial, note)
        except OSError as error:
            raise FgvrError(f"cannot keep features in {folder}: {error.strerror}; name another folder") from error
        for path in sorted(self.folder.glob("*.safetensors")):
            part = tensors.load(path)
            if name not in part.tensors:
                raise FgvrError(f"{path}: has no tensor {name!r}; remove it")
            self._add(part.ids, part.tensors[name])

    def __contains__(self, key: str) -> bool:
        return key in self._at or key in self._new

    def _add(self, keys: Sequence[str], rows: Tensor) -> None:
        first = len(self._at)
        fresh = [n for n, key in enumerate(keys) if key not in self._at]     # two processes may have met one image
        self._at.update((keys[n], first + place) for place, n in enumerate(fresh))
        self._blocks.append(rows if len(fresh) == len(keys) else rows[fresh])

    def put(self, keys: Sequence[str], rows: Tensor) -> None:
        """Add rows (n, D)."""
        self._new.update(zip(keys, rows, strict=True))
        if len(self._new) >= PART or time.monotonic() - self._written > PART_S:
            self.flush()

    def flush(self) -> None:
        """Write what is new as one part."""
        if self._new:
            keys = sorted(self._new)
            rows = torch.stack([self._new[key] for key in keys])
            self._add(keys, rows)
            if self.folder is not None:
                name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
                tensors.save(self.folder / f"{name}.safetensors", {self.name: rows}, keys, self.about)
        self._new, self._written = {}, time.monotonic()

    def take(self, keys: Sequence[str]) -> Tensor:
        """(len(keys), D) of rows that were flushed, in their order."""
        if not keys:
            return torch.empty(0, 0)
        at = torch.tensor([self._at[key] for key in keys])
        found = torch.empty(len(keys), self._blocks[0].shape[1], dtype=self._blocks[0].dtype)
        first = 0
        for block in self._blocks:
            inside = ((at >= first) & (at < first + len(block))).nonzero().flatten()
            found[inside] = block[at[inside] - first]
            first += len(block)
        return found


@dataclass
class Pace:
    """How fast images come, and what bounds it: time that the model waited for images, and that it worked.

    Args:
        show: called now and then with (images so far, words), for people.
    """

    show: Callable[[int, str], None] = lambda count, words: None
    images: int = 0
    waited_s: float = 0.0
    worked_s: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def words(self) -> str:
        """ "140 images/s, bound by encoding"."""
        rate = self.images / max(1e-9, time.monotonic() - self.since)
        return f"{rate:.3g} images/s, bound by {'decoding' if self.waited_s > self.worked_s else 'encoding'}"


@dataclass(frozen=True)
class Encoded:
    """Of each readable image: features (N, D) float32, the SHA-256 of its file, and its perceptual hash (N, 64) int8
    of -1 and 1, if asked for."""

    features: Tensor
    digests: list[str]
    hashes: Tensor | None = None


class Extractor:
    """Features of the images of records, each file encoded once.

    Args:
        model: the encoder, taken apart.
        root: folder that image paths start from.
        cache: folder of features; None: memory only.
        hashes: also perceptual hashes.
        batch: images encoded at once; None: what suits the device. Halved when memory runs out.
        threads: that read, hash and prepare images; None: one a core.
    """

    def __init__(
        self,
        model: Parts,
        root: str | Path,
        cache: str | Path | None = None,
        *,
        hashes: bool = False,
        batch: int | None = None,
        threads: int | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.model, self.root, self.pace = model, root, pace or Pace()
        self.batch = batch or model.batch
        self.threads = threads or min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        self.store = Store(cache, model.about)
        self.hashes = Store(cache, _hash_about(), "hash") if hashes else None

    def __call__(self, items: Iterable[Item]) -> tuple[list[Item], Encoded]:
        """All items, with a Bad for each image that cannot be read, and what the others give, in order."""
        kept: list[Item] = []
        digests: list[str] = []
        try:
            for item, digest in self._digested(items):
                kept.append(item)
                digests += [digest] if digest else []
        finally:
            for store in (self.store, self.hashes):
                if store is not None:
                    store.flush()
        hashes = self.hashes.take(digests) if self.hashes else None
        return kept, Encoded(self.store.take(digests), digests, hashes)

    def whole(self, records: Sequence[Record], option: str) -> Encoded:
        """The same for a side input. Raises FgvrError, beginning with `option`, when an image cannot be read."""
        kept, found = self(records)
        for item in kept:
            if isinstance(item, Bad):
                raise FgvrError(f"{option}: {item}")
        return found

    def _digested(self, items: Iterable[Item]) -> Iterator[tuple[Item, str]]:
        """Items with their image's digest ("" of a Bad), all encoded when the last has come."""
        waiting: deque[tuple[Item, Future[Any] | None]] = deque()
        ready: dict[str, Any] = {}
        pool = ThreadPoolExecutor(self.threads)
        try:
            for item in items:
                waiting.append((item, None if isinstance(item, Bad) else pool.submit(self._prepare, item["image"])))
                if len(waiting) > 2 * self.batch + self.threads:
                    yield self._next(waiting, ready)
            while waiting:
                yield self._next(waiting, ready)
            self._encode(ready)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _next(self, waiting: deque[tuple[Item, Future[Any] | None]], ready: dict[str, Any]) -> tuple[Item, str]:
        item, future = waiting.popleft()
        if future is None:
            return item, ""
        assert not isinstance(item, Bad)
        started = time.monotonic()
        try:
            digest, pixels, bits = future.result()
        except RecordError as error:
            return bad(item, error), ""
        finally:
            self.pace.waited_s += time.monotonic() - started
        if bits is not None and self.hashes is not None and digest not in self.hashes:
            self.hashes.put([digest], bits[None])
        if pixels is not None and digest not in self.store:
            ready[digest] = pixels
        self.pace.images += 1
        self.pace.show(self.pace.images, self.pace.words())
        if len(ready) >= self.batch:
            self._encode(ready)
        return item, digest

    def _prepare(self, path: str) -> tuple[str, Any, Tensor | None]:
        """In a thread: an image file's digest, and what the model and the perceptual hash take, if not yet known."""
        file = locate(self.root, path)
        try:
            digest = provenance.sha256_file(file)
        except FgvrError as error:
            raise RecordError(f"cannot read image {path!r}: {error}") from error
        todo, unhashed = digest not in self.store, self.hashes is not None and digest not in self.hashes
        if not todo and not unhashed:
            return digest, None, None
        image = open_image(self.root, path, size=self.model.size)
        return digest, self.model.prepare(image) if todo else None, _bits(image) if unhashed else None

    def _encode(self, ready: dict[str, Any]) -> None:
        """Encode all that is ready, in halves when memory runs out."""
        started = time.monotonic()
        while ready:
            some = list(ready)[: self.batch]
            try:
                rows = self.model.encode([ready[digest] for digest in some])
            except (MemoryError, torch.OutOfMemoryError):
                if self.batch == 1:
                    raise
                self.batch = (self.batch + 1) // 2
                continue
            self.store.put(some, rows)
            for digest in some:
                del ready[digest]
        self.pace.worked_s += time.monotonic() - started


def _hash_about() -> dict[str, Any]:
    from importlib import metadata

    return {"perceptual hash": "imagehash.phash", "bits": HASH_BITS, "version": metadata.version("imagehash")}


def _bits(image: Any) -> Tensor:
    """(64,) int8 of -1 and 1."""
    import imagehash

    return torch.from_numpy(imagehash.phash(image).hash.flatten()).to(torch.int8) * 2 - 1


# --- features made elsewhere ---


def load(names: str) -> tensors.Features:
    """Features that were made elsewhere: FILE.safetensors, or several with commas between them.

    The tensor is called "features" or is the file's only one, (N, D). Its N record ids are in the file's metadata, as
    fgvr writes them, or one a line in FILE.safetensors.ids.

    Raises:
        FgvrError: a file cannot be read, has no such tensor or no ids, an id comes twice, or widths differ.
    """
    rows: list[Tensor] = []
    ids: list[str] = []
    for name in names.split(","):
        found = _load(name)
        if rows and rows[0].shape[1] != found[0].shape[1]:
            raise FgvrError(f"{name}: features are {found[0].shape[1]} wide, before {rows[0].shape[1]}; use one model")
        rows.append(found[0])
        ids += found[1]
    if len(set(ids)) != len(ids):
        raise FgvrError(f"{names}: an id comes twice ({_twice(ids)!r}); make ids unique")
    return tensors.Features({"features": torch.cat(rows)}, ids, {})


def _load(name: str) -> tuple[Tensor, list[str]]:
    beside = Path(name + ".ids")
    if beside.exists():
        try:
            found, ids = _plain(name), beside.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FgvrError(f"{beside}: cannot read: {reason(error)}; write one id a line, in UTF-8") from error
    else:
        try:
            whole = tensors.load(name)
        except FgvrError as error:
            hint = f"; or put them, one a line, into {beside.name}" if "no record ids" in str(error) else ""
            raise FgvrError(f"{error}{hint}") from error
        found, ids = whole.tensors, whole.ids
    if "features" not in found and len(found) != 1:
        raise FgvrError(f"{name}: has tensors {', '.join(sorted(found)) or 'none'}; call the one to use 'features'")
    rows = found["features"] if "features" in found else next(iter(found.values()))
    if rows.ndim != 2 or not rows.is_floating_point() or len(rows) != len(ids) or not rows.shape[1]:
        shape = f"{rows.dtype} {tuple(rows.shape)}".removeprefix("torch.")
        raise FgvrError(f"{name}: {shape} for {len(ids)} ids; floating (number of ids, width) is needed")
    return rows.float(), ids


def _plain(name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors.refuse_pickle(name)
    try:
        return load_file(name)
    except (OSError, SafetensorError) as error:
        raise FgvrError(f"{name}: not a whole safetensors file: {error}; make it anew") from error


def _twice(ids: Sequence[str]) -> str:
    seen: set[str] = set()
    for key in ids:
        if key in seen:
            return key
        seen.add(key)
    return ""


def of(features: tensors.Features, records: Sequence[Record], names: str) -> Tensor:
    """(N, D) rows of the records.

    Raises:
        FgvrError: a record has no row, or one without direction: zero or not finite.
    """
    try:
        rows = tensors.rows(features, "features", [record["id"] for record in records])
    except FgvrError as error:
        raise FgvrError(f"{names}: {error}; make features of these records") from error
    if len(rows):
        high, low = rows.amax(1), rows.amin(1)
        bad = ~(high.isfinite() & low.isfinite()) | ((high == 0) & (low == 0))
        if bad.any():
            first = records[int(bad.nonzero()[0])]["id"]
            raise FgvrError(f"{names}: the row of {first!r} has no direction (zero or not finite); make it anew")
    return rows
