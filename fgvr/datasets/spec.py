"""What fgvr knows of a published data set: its layout, official counts, names, terms, and where to get it.

A data set is one small module: a `Spec` and the function that reads its list files. Nothing heavy is imported here, for
`fgvr dataset --help` and `--list` import every one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fgvr.errors import FgvrError, reason


@dataclass(frozen=True)
class Category:
    """One category.

    Args:
        name: how people call it; unique in the data set.
        aliases: how other benchmarks spell it, where that is more than case, punctuation, `_` and `-`.
        superordinate: its widest label; "" for the data set's superclass.
        coarse: the labels between; () where the data set's own files do not say.
        fine: its finest labels; () for the name alone.
    """

    name: str
    aliases: tuple[str, ...] = ()
    superordinate: str = ""
    coarse: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()


class Index(NamedTuple):
    """What the list files of one split say.

    Args:
        categories: by the data set's own key; all of the data set's, also those without an image in the split.
        images: (path below the data set's folder, key of the category), in the order listed.
        listed: the file that lists the images, for messages; "" when the folders themselves are the list.
    """

    categories: Mapping[str, Category]
    images: Iterable[tuple[str, str]]
    listed: str = ""


@dataclass(frozen=True)
class Archive:
    """A file that the publisher offers at a stable address.

    Args:
        url: its address.
        md5: its checksum, as the publisher or torchvision.datasets gives it.
        gives: a path below the root that is there once it is unpacked.
        splits: the splits that need it; () for all.
    """

    url: str
    md5: str
    gives: str
    splits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """A published data set.

    Args:
        title: its name in print.
        superclass, class_unit, question: super-category, what its categories are called, the question for one.
        splits: official number of images of each split.
        sizes: official number of categories; with `levels`, one for each.
        expects: paths that must be below its folder; {split} is filled in, "a|b" asks for either.
        index: (folder, split, level) -> what the list files say.
        source, terms: where a person gets it, and under which terms.
        inside: folders below --root that its folder may be, as the archive unpacks.
        archives: what --download fetches.
        levels: granularities that --level chooses from, the first by default.
    """

    title: str
    superclass: str
    class_unit: str
    question: str
    splits: Mapping[str, int]
    sizes: tuple[int, ...]
    expects: tuple[str, ...]
    index: Callable[[Path, str, str], Index]
    source: str
    terms: str
    inside: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    levels: tuple[str, ...] = ()

    def count(self, level: str) -> int:
        """Official number of categories at a level."""
        return self.sizes[self.levels.index(level) if level else 0]


# --- reading list files -----------------------------------------------------------------------------------------------


def lines(path: Path) -> list[str]:
    """The lines of a list file, stripped, without empty ones. Raises FgvrError when it cannot be read."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise FgvrError(f"cannot read {path}: {reason(error)}; unpack the archive again") from error


def pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Lines "key value" of a list file, split at the first space; further spaces belong to the value."""
    for line in lines(path):
        key, space, value = line.partition(" ")
        if not space:
            raise FgvrError(f"{path}: expected lines of two words, found {line[:60]!r}; unpack the archive again")
        yield key, value.strip()


class Lookup(dict[str, str]):
    """The pairs of a list file, `pairs`. Raises FgvrError, naming the file, for a key that it lacks."""

    def __init__(self, path: Path) -> None:
        super().__init__(pairs(path))
        self.path = path

    def __missing__(self, key: str) -> str:
        raise FgvrError(f"{self.path}: list files do not fit together: nothing for {key!r}; unpack the archive again")


def mat(path: Path, *names: str) -> list[Any]:
    """Arrays of a MATLAB file, each at least one-dimensional, without its empty dimensions."""
    import numpy as np
    from scipy.io import loadmat

    try:
        found = loadmat(str(path), squeeze_me=True)
        return [np.atleast_1d(found[name]) for name in names]
    except KeyError as error:
        raise FgvrError(f"{path}: no {error} in it; is it the right file?") from error
    except Exception as error:  # scipy raises nearly anything for a damaged file
        raise FgvrError(f"cannot read {path}: {reason(error)[:120]}; unpack the archive again") from error


def first(at: Path, *names: str) -> str:
    """The first of the paths that is there; the first of all when none is."""
    return next((name for name in names if (at / name).exists()), names[0])


def class_folders(at: Path, top: str) -> Iterator[tuple[str, str]]:
    """The image files of the folders directly below `at/top`, sorted: (path below `at`, name of the folder)."""
    from fgvr.images import SUFFIXES

    with os.scandir(at / top) as there:
        folders = sorted(entry.name for entry in there if entry.is_dir() and not entry.name.startswith("."))
    for folder in folders:
        parent = f"{top}/{folder}" if top else folder
        for name in sorted(os.listdir(at / parent)):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield f"{parent}/{name}", folder


def clean(name: str) -> str:
    """A name for people: underscores are spaces, spaces are single."""
    return " ".join(name.replace("_", " ").split())
