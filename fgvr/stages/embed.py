"""Opening the images of a stream batch by batch and keeping what a model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fgvr.errors import FgvrError, RecordError
from fgvr.images import open_image
from fgvr.records import Record
from fgvr.stream import Bad, Item, bad, ordered

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


def embed(
    items: Iterable[Item], model: Callable[[list[Image]], T], root: str | Path, batch: int
) -> tuple[list[Item], list[T]]:
    """All items, with a Bad for each image that cannot be read, and what `model` makes of the others' images, in order.

    Holds the records and the results; at most `batch` images at a time.
    """
    made: list[T] = []

    def work(records: list[Record]) -> list[Item]:
        results: list[Item] = []
        images = []
        for record in records:
            try:
                images.append(open_image(root, record["image"]))
                results.append(record)
            except RecordError as error:
                results.append(bad(record, error))
        if images:
            made.append(model(images))
        return results

    return list(ordered(items, batch, work)), made


def embed_all(
    records: Sequence[Record], model: Callable[[list[Image]], T], root: str | Path, batch: int, option: str
) -> list[T]:
    """`embed` for a side input, which must be whole.

    Raises:
        FgvrError: an image cannot be read; the message begins with the `option` that named the file.
    """
    kept, made = embed(records, model, root, batch)
    for item in kept:
        if isinstance(item, Bad):
            raise FgvrError(f"{option}: {item}")
    return made
