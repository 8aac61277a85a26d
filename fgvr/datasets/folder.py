"""Images in folders: ROOT/SPLIT/CATEGORY/file.jpg, or any layout with a CSV that names each file's split."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fgvr import images
from fgvr.datasets.settings import Folder
from fgvr.errors import FgvrError, RecordError
from fgvr.source import Source
from fgvr.stream import Bad, Item


@dataclass
class Found:
    """The image files of one split.

    Args:
        files: (path relative to the root, category or None for the name of its folder, where it is listed).
        left_out: files that are hidden or no image by their suffix.
    """

    files: list[tuple[str, str | None, str]] = field(default_factory=list)
    left_out: int = 0


def list_split_folder(root: Path, split: str) -> Found:
    """The image files below ROOT/SPLIT, however deep; the innermost folder is the category.

    Raises:
        FgvrError: there is no such folder, or no image in it.
    """
    top = root / split
    if not top.is_dir():
        there = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) or "none"
        raise FgvrError(f"{root}: no split folder {split!r} (there: {there}); check --split and --root")
    found = Found()
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name).relative_to(root).as_posix()
            if _is_image(name):
                found.files.append((path, None, path))
            else:
                found.left_out += 1
    return _some(found, str(top))


def list_split_file(source: Source, split: str) -> Found:
    """The image files that a CSV puts into a split: columns `path` and `split`, `category` optional, in any order.

    Raises:
        FgvrError: a column is missing, the file cannot be read, or it names no image of the split.
    """
    rows = csv.DictReader(line.decode("utf-8-sig") for line in source.lines())
    found = Found()
    try:
        missing = {"path", "split"} - set(rows.fieldnames or ())
        if missing:
            lacks = ", ".join(sorted(missing))
            raise FgvrError(f"{source.label}:1: no column {lacks}; call them path, split, category")
        for row in rows:
            if row["split"] != split:
                continue
            path = (row["path"] or "").replace("\\", "/")
            if _is_image(path):
                found.files.append((path, row.get("category") or None, f"{source.label}:{rows.line_num}"))
            else:
                found.left_out += 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise FgvrError(f"{source.label}:{rows.line_num + 1}: not a UTF-8 CSV file ({error}); correct it") from error
    return _some(found, f"{source.label}, split {split!r}")


def _is_image(path: str) -> bool:
    return not os.path.basename(path).startswith(".") and path.lower().endswith(images.SUFFIXES)


def _some(found: Found, where: str) -> Found:
    if not found.files:
        raise FgvrError(f"{where}: no images; check --split and --root")
    found.files.sort()
    return found


def records(root: Path, found: Found, split: str, superclass: str, settings: Folder) -> Iterator[Item]:
    """files -> image records, sorted by path; a file that cannot be one comes as a Bad in its place."""
    seen: dict[str, str] = {}
    spelt: dict[str, str] = {}
    for path, category, where in found.files:
        record = {"id": os.path.splitext(path)[0], "image": path, "category": category or "", "superclass": superclass}
        record["split"] = split
        try:
            path.encode()
            first = seen.setdefault(record["id"], path)
            if first != path:
                raise RecordError(f"has the same id as {first}; rename one of them")
            record["category"] = category or _category(path, split, settings.hyphens_to_spaces)
            folder = category or path.split("/")[-2]
            if spelt.setdefault(record["category"], folder) != folder:
                raise RecordError(f"its category {folder!r} and {spelt[record['category']]!r} are one name; rename one")
            _look(root, path, settings.verify)
        except UnicodeEncodeError:
            yield Bad(ascii(path), "the file name is not UTF-8; rename it", line=ascii(path))
        except RecordError as error:
            yield Bad(where, str(error), record=record)
        else:
            yield record


def _category(path: str, split: str, hyphens_to_spaces: bool) -> str:
    """The name of the innermost folder, cleaned."""
    parts = path.split("/")[:-1]
    if not parts or parts == [split]:
        raise RecordError("is in no category folder; move it into one")
    name = parts[-1].replace("_", " ")
    return " ".join((name.replace("-", " ") if hyphens_to_spaces else name).split())


def _look(root: Path, path: str, verify: bool) -> None:
    images.open_image(root, path) if verify else images.locate(root, path)
