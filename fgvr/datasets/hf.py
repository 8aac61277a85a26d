"""A data set of the `datasets` library, by hub id or as local parquet: its images written out, image records."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fgvr import images
from fgvr.datasets.settings import Hf
from fgvr.datasets.spec import clean
from fgvr.errors import FgvrError, RecordError, reason
from fgvr.stream import Bad, Item

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
FORMATS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"))


def parquet(name: str) -> list[str]:
    """The parquet files that a local name means, a file or a folder of them; [] when it is no local path."""
    if os.path.isdir(name):
        return sorted(str(path) for path in Path(name).rglob("*.parquet"))
    return [name] if os.path.exists(name) else []


def open_rows(name: str, split: str, settings: Hf) -> Any:
    """The rows of a split, images undecoded. Its files are those whose name holds it; all, where no name holds
    any split.

    Raises:
        FgvrError: the library is not installed, or it cannot read the data set; names the command that installs it.
    """
    try:
        import datasets
    except ImportError:
        raise FgvrError("dataset hf needs the library `datasets`; run `pip install 'fgvr[hf]'`") from None
    files = parquet(name)
    if os.path.exists(name) and not files:
        raise FgvrError(f"{name}: no .parquet file in it; name a file, a folder of them or a hub id")
    try:
        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are raised as well
        if files:
            own = _own(files, split) if os.path.isdir(name) else files
            rows = datasets.load_dataset("parquet", data_files={split: own}, split=split, streaming=True)
        else:
            rows = datasets.load_dataset(name, settings.config, split=split, revision=settings.revision)
        if rows.features is None:  # a stream knows them once it has looked
            rows = rows._resolve_features()
        features = rows.features
        for column in (settings.image_column, settings.category_column):
            if column not in features:
                there = ", ".join(features)
                raise FgvrError(f"{name}: no column {column!r} (there: {there}); name it by an option")
        _distinct(name, getattr(features[settings.category_column], "names", None) or ())
        return rows.cast_column(settings.image_column, datasets.Image(decode=False))
    except FgvrError:
        raise
    except Exception as error:  # the library raises nearly anything
        why = reason(error)[:300]
        raise FgvrError(f"cannot read {name}, split {split!r}: {why}; check --from and --split") from error


def _own(files: list[str], split: str) -> list[str]:
    words = {path: set(re.split(r"[-_.]", os.path.basename(path))) for path in files}
    own = [path for path in files if split in words[path]]
    if not own and (named := set().union(*words.values()) & SPLITS):
        raise FgvrError(
            f"no file of split {split!r} (there: {', '.join(sorted(named))}); check --split, or name a file"
        )
    return own or files


def _distinct(where: str, names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (first := seen.setdefault(clean(name), name)) != name:
            raise FgvrError(f"{where}: categories {first!r} and {name!r} are one name; rename one")


def _read(rows: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except (FgvrError, MemoryError):
        raise
    except Exception as error:  # as open_rows: the library raises nearly anything
        raise FgvrError(f"cannot read its rows: {reason(error)[:300]}; check --from and --image-column") from error


def records(rows: Any, root: Path, split: str, superclass: str, settings: Hf) -> Iterator[Item]:
    """rows -> image records; each image is written below the root as it is stored: <split>/<number>.<suffix>."""
    feature = rows.features[settings.category_column]
    for number, row in enumerate(_read(rows)):
        where = f"{split}/{number:07d}"
        value = row[settings.category_column]
        try:
            name = feature.int2str(value) if hasattr(feature, "int2str") and value is not None else value
            if not isinstance(name, str) or not name.strip():
                raise RecordError(f"column {settings.category_column!r} holds {value!r}; it must be a name")
            path = _write(row[settings.image_column], root, where)
            if settings.verify:
                images.open_image(root, path)
        except (RecordError, ValueError) as error:
            yield Bad(where, str(error), record={"id": where})
            continue
        yield {"id": where, "image": path, "category": clean(name), "superclass": superclass, "split": split}


def _write(stored: dict[str, Any] | None, root: Path, stem: str) -> str:
    """An image's bytes to a file, if they are not there already; its path below the root."""
    data = (stored or {}).get("bytes")
    if not data and stored and stored.get("path"):
        try:
            data = Path(stored["path"]).read_bytes()
        except OSError as error:
            raise RecordError(
                f"cannot read {stored['path']}: {reason(error)}; store the image, or its full path"
            ) from error
    if not data:
        raise RecordError("holds no image; leave the row out")
    path = stem + next((suffix for magic, suffix in FORMATS if data.startswith(magic)), ".jpg")
    file = root / path
    if not file.exists() or file.read_bytes() != data:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        partial.write_bytes(data)
        partial.replace(file)
    return path
