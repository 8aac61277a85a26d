"""A published data set on disk -> image records: layout, official counts and names are checked before the first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgvr import images
from fgvr.answers import normalise
from fgvr.datasets.spec import Category, Index, Spec
from fgvr.errors import FgvrError, RecordError
from fgvr.stream import Bad, Item

SUBSET = "give --allow-partial if it is a subset on purpose"


@dataclass(frozen=True)
class Opened:
    """One split of a data set, checked.

    Args:
        below: where its folder lies below the root, "" or with a "/" at its end.
        images: (path below its folder, key of the category).
        left_out: listed images that are not there (--allow-partial).
    """

    spec: Spec
    root: Path
    split: str
    below: str
    index: Index
    images: list[tuple[str, str]]
    left_out: int = 0


def open_split(spec: Spec, root: Path, split: str, level: str = "", partial: bool = False) -> Opened:
    """Find and check one split.

    Args:
        root: the data set's folder, or the one that its archive was unpacked in.
        level: one of the spec's `levels`.
        partial: neither the official counts nor every listed image is demanded.
    Raises:
        FgvrError: another layout, other counts than the official ones, list files that do not fit together, two
            categories of one name, or no image.
    """
    below = _folder(spec, root, split)
    at = root / below
    try:
        index = spec.index(at, split, level)
        found = list(index.images)
    except KeyError as error:
        raise FgvrError(f"{at}: its list files do not fit together: nothing for {error}; unpack it again") from error
    except OSError as error:
        raise FgvrError(f"{at}: cannot read the {split} split: {error.strerror}: {error.filename}") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:  # a list file of another kind or length
        raise FgvrError(
            f"{at}: its list files do not fit together ({error}); is it {spec.title}? unpack it again"
        ) from error
    _names(spec, index)
    if not partial:
        _counts(spec, split, level, at, index, len(found))
    for path, key in found:
        if key not in index.categories:
            raise FgvrError(f"{at / index.listed}: {path} is of category {key!r}, which is not listed; unpack it again")
    there = [pair for pair in found if os.path.exists(at / pair[0])] if partial else found
    if not there:
        raise FgvrError(f"{at}: no image of the {split} split is there; check --root")
    return Opened(spec, root, split, f"{below}/" if below else "", index, there, len(found) - len(there))


def _folder(spec: Spec, root: Path, split: str) -> str:
    """Where below the root everything lies that the layout asks for."""
    expects = [name.format(split=split) for name in spec.expects]
    lacks = {}
    for below in ("", *spec.inside):
        at = root / below
        lacks[below] = [n for n in expects if not any((at / name).exists() for name in n.split("|"))]
        if not lacks[below]:
            return below
    best = min(lacks, key=lambda below: len(lacks[below]))
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"
    where = root / best
    missing = ", ".join(name.replace("|", " or ") for name in lacks[best])
    raise FgvrError(
        f"{where}: not laid out as {spec.title}: no {missing} (expected {', '.join(expects).replace('|', ' or ')}; "
        f"found in {root}: {found}); check --root, or get it: {spec.source}"
    )


def _names(spec: Spec, index: Index) -> None:
    seen: dict[str, str] = {}
    for key, category in index.categories.items():
        if not category.name:
            raise FgvrError(f"category {key} has no name; is it {spec.title}? unpack it again")
        first = seen.setdefault(category.name.casefold(), key)
        if first != key:
            raise FgvrError(f"{spec.title}: categories {first} and {key} are both called {category.name!r}; rename one")


def _counts(spec: Spec, split: str, level: str, at: Path, index: Index, count: int) -> None:
    checks = (
        (spec.splits[split], count, f"images in {split}"),
        (spec.count(level), len(index.categories), "categories"),
    )
    for official, found, what in checks:
        if found != official:
            where = at / index.listed
            raise FgvrError(f"{where}: {found} {what}, officially {official} ({spec.title}); get it whole, or {SUBSET}")


def records(opened: Opened, verify: bool = False) -> Iterator[Item]:
    """split -> image records, in the order listed; an image that is missing or listed twice comes as a Bad.

    The id is the path below the data set's folder without suffix, wherever the root is.
    """
    spec, root = opened.spec, opened.root
    shared = {key: _fields(category, spec.superclass) for key, category in opened.index.categories.items()}
    _drop_ambiguous(shared)
    seen: set[str] = set()
    for path, key in opened.images:
        image = opened.below + path
        name = shared[key]
        record = {"id": os.path.splitext(path)[0], "image": image, "category": name["category"]}
        record |= {"superclass": spec.superclass, "split": opened.split, **name}
        try:
            if record["id"] in seen:
                raise RecordError("is listed twice; remove one")
            seen.add(record["id"])
            images.open_image(root, image) if verify else images.locate(root, image)
        except RecordError as error:
            where = f"{opened.below}{opened.index.listed}" if opened.index.listed else image
            yield Bad(where, str(error) if image in str(error) else f"{image} {error}", record=record)
        else:
            yield record


def _fields(category: Category, superclass: str) -> dict[str, Any]:
    """What all records of a category share."""
    own = normalise(category.name)
    aliases = [alias for alias in dict.fromkeys(category.aliases) if normalise(alias) != own]
    labels = {
        "superordinate": category.superordinate or superclass,
        "coarse": list(category.coarse),
        "fine": list(category.fine or (category.name,)),
    }
    return {"category": category.name, "labels": labels, **({"aliases": aliases} if aliases else {})}


def _drop_ambiguous(shared: dict[str, dict[str, Any]]) -> None:
    """An alias that is the name of another category, or an alias of two, tells nothing."""
    meant: dict[str, int] = {}
    for fields in shared.values():
        for name in {normalise(name) for name in (fields["category"], *fields.get("aliases", ()))}:
            meant[name] = meant.get(name, 0) + 1
    for fields in shared.values():
        if "aliases" in fields:
            fields["aliases"] = [alias for alias in fields["aliases"] if meant[normalise(alias)] == 1]
            if not fields["aliases"]:
                del fields["aliases"]
