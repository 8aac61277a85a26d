"""image records of several files -> what they share: images, ids, names.

A finding is {"kind", "leak", "first", "second", …}; each of the two is {"file", "id", "image", "category"}:

    id        one id twice, in a file or in two: a leak
    image     one image path in two files: a leak, the fault behind the published 23.87 % on Cars: train and test
              images of one file name in one folder
    content   two files of equal bytes; in two splits a leak, in one a warning
    near      images whose perceptual hashes (DCT, 64 bits) differ in few bits, for each the nearest in an earlier file:
              a warning, for two photographs of one scene are near and two drawn birds may be
    name      equal file names in different folders of two files, counted: a warning that a flat folder mixes them up
    category  two spellings of one category in two files: a warning
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fgvr import images, signals
from fgvr.answers import normalise
from fgvr.errors import RecordError
from fgvr.records import Record
from fgvr.stream import Bad, Item

if TYPE_CHECKING:
    import numpy as np

LOOK_PIXELS = 128  # a JPEG is decoded no larger than this needs; the hash is made of 32 x 32


@dataclass(frozen=True)
class Entry:
    """One record of one file, with the digest of its image and its perceptual hash (64 bits, 0 when not wanted)."""

    file: str
    record: Record
    digest: bytes
    look: int

    @property
    def category(self) -> str:
        """"" where it has none: its images are looked at all the same."""
        found = self.record.get("category")
        return found if isinstance(found, str) else ""

    def about(self) -> Record:
        return {"file": self.file} | {name: self.record.get(name) for name in ("id", "image", "category")}


def findings(
    files: Sequence[tuple[str, list[Record]]],
    root: str,
    near: int = 4,
    strict: bool = False,
    workers: int = 4,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
) -> Iterator[Item]:
    """All findings, file by file; an image that cannot be read comes as a Bad.

    Args:
        files: (name, image records), the training images first.
        near: bits in which perceptual hashes of near images may differ; -1: perceptual hashes are not made.
        strict: every finding is a leak.
    """
    earlier: list[Entry] = []
    for name, records in files:
        own: list[Entry] = []
        for entry in progress(_entries(name, records, root, near >= 0, workers)):
            if isinstance(entry, Bad):
                yield entry
            else:
                own.append(entry)
        for found in _compare(own, earlier, near):
            yield {**found, "leak": True} if strict else found
        earlier += own


def _entries(name: str, records: list[Record], root: str, look: bool, workers: int) -> Iterator[Entry | Bad]:
    def hashed(record: Record) -> Entry | Bad:
        try:
            data = images.locate(root, record["image"]).read_bytes()
            return Entry(name, record, hashlib.sha256(data).digest(), _look(root, record["image"]) if look else 0)
        except RecordError as error:
            return Bad(f"{name}: {record['id']}", str(error), record=record)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(records), 256):
            signals.check()
            yield from pool.map(hashed, records[start : start + 256])


def _look(root: str, path: str) -> int:
    import imagehash

    return int(str(imagehash.phash(images.open_image(root, path, size=LOOK_PIXELS))), 16)


def _compare(own: list[Entry], earlier: list[Entry], near: int) -> Iterator[Record]:
    """One file against itself and the files before it. A pair is reported once, by what says most."""
    reported: set[int] = set()
    for kind, key in (
        ("id", lambda e: e.record["id"]),
        ("image", lambda e: e.record["image"]),
        ("content", lambda e: e.digest),
    ):
        first: dict[Any, Entry] = {}
        for entry in earlier:
            first.setdefault(key(entry), entry)
        for n, entry in enumerate(own):
            other = first.setdefault(key(entry), entry)
            if other is not entry and n not in reported:
                reported.add(n)
                yield _finding(kind, other, entry, kind == "id" or other.file != entry.file)
    rest = [n for n in range(len(own)) if n not in reported]
    if near >= 0 and rest and earlier:
        nearest = _nearest([entry.look for entry in earlier], [own[n].look for n in rest], near)
        for n, (at, distance) in zip(rest, nearest, strict=True):
            if at >= 0:
                yield {**_finding("near", earlier[at], own[n], False), "distance": distance}
    yield from _names(own, earlier)


def _finding(kind: str, first: Entry, second: Entry, leak: bool) -> Record:
    return {"kind": kind, "leak": leak, "first": first.about(), "second": second.about()}


def _names(own: list[Entry], earlier: list[Entry]) -> Iterator[Record]:
    """File names and categories, one finding for each two files, with the number of names."""
    for kind, key, exact in (
        ("name", lambda e: os.path.basename(e.record["image"]), lambda e: e.record["image"]),
        ("category", lambda e: normalise(e.category), lambda e: e.category),
    ):
        seen: dict[str, dict[str, Entry]] = {}
        for entry in earlier:
            seen.setdefault(entry.file, {}).setdefault(key(entry), entry)
        for there in seen.values():
            same = {key(e): (there[key(e)], e) for e in own if key(e) in there and exact(there[key(e)]) != exact(e)}
            if same:
                first, second = next(iter(same.values()))
                yield {**_finding(kind, first, second, False), "count": len(same)}


def _nearest(first: list[int], second: list[int], near: int) -> list[tuple[int, int]]:
    """For each hash of `second` the nearest of `first` within `near` bits: (its index, distance), (-1, -1) for none.

    Two hashes that differ in at most `near` bits agree in one of near + 1 bands: only those pairs are compared.
    """
    import numpy as np

    a, b = np.array(first, np.uint64), np.array(second, np.uint64)
    best = np.full(len(b), near + 1)
    at = np.full(len(b), -1)
    edges = np.linspace(0, 64, near + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        mask = np.uint64(((1 << int(high - low)) - 1) << int(low))
        keys = a & mask
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        begin, end = np.searchsorted(keys, b & mask, "left"), np.searchsorted(keys, b & mask, "right")
        for n in np.flatnonzero(end > begin):
            signals.check()
            candidates = order[begin[n] : end[n]]
            distances = _bits(a[candidates] ^ b[n])
            k = int(distances.argmin())
            if distances[k] < best[n]:
                best[n], at[n] = distances[k], candidates[k]
    return [(int(i), int(d) if i >= 0 else -1) for i, d in zip(at, best, strict=True)]


def _bits(values: np.ndarray) -> np.ndarray:
    """How many bits of each number are set: (N,) uint64 -> (N,) in 0 … 64."""
    import numpy as np

    return np.unpackbits(values.view(np.uint8)).reshape(-1, 64).sum(axis=1)


WORDS = {
    "id": "equal ids",
    "image": "equal image paths",
    "content": "images of equal bytes",
    "near": "near images",
    "name": "file names that differ in their folder only",
    "category": "categories spelt in two ways",
}


def _told(found: Sequence[Record], what: str) -> str:
    counts: dict[str, int] = {}
    for finding in found:
        counts[finding["kind"]] = counts.get(finding["kind"], 0) + finding.get("count", 1)
    kinds = ", ".join(f"{count} {WORDS[kind]}" for kind, count in counts.items())
    return f"{what}: {kinds}" if kinds else f"no {what}"


def summary(found: Sequence[Record]) -> str:
    """The findings in one line, the first leak named."""
    leaks = [finding for finding in found if finding["leak"]]
    told = _told(leaks, "leaks")
    if len(leaks) < len(found):
        told += f"; {_told([finding for finding in found if not finding['leak']], 'warnings')}"
    if not leaks:
        return told
    first, second = leaks[0]["first"], leaks[0]["second"]
    return f"{told}; first: {second['image']} ({second['file']}) and {first['image']} ({first['file']})"
