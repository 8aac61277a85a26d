"""Asking a model many questions: in batches that shrink when memory runs out; and images decoded ahead."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fgvr.errors import RecordError, UsageError
from fgvr.images import open_image
from fgvr.models.base import Answerer, Ask, Said
from fgvr.records import Record
from fgvr.stream import Bad, Item

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
V = TypeVar("V")


class Asker:
    """Replies in batches. When memory runs out, the batch is halved, for good, and asked again.

    Args:
        batch: questions a call, at most.
        confidence: ask for the confidence too.
    Raises:
        UsageError: the model gives no confidence.
    """

    def __init__(self, model: Answerer, batch: int, max_new_tokens: int, confidence: bool = False) -> None:
        if confidence and not hasattr(model, "reply_scored"):
            raise UsageError(f"model {model.about['name']} gives no log-probabilities; leave --confidence out")
        self.model, self.batch, self.max_new_tokens, self.confidence = model, batch, max_new_tokens, confidence

    def __call__(self, asks: Sequence[Ask]) -> list[Said]:
        replies: list[Said] = []
        while len(replies) < len(asks):
            part = asks[len(replies) : len(replies) + self.batch]
            try:
                replies += self._reply(part)
            except Exception as error:
                if len(part) == 1 or type(error).__name__ not in ("MemoryError", "OutOfMemoryError"):
                    raise  # the second is torch's, known by name so that torch stays out
                self.batch = len(part) // 2
            else:
                continue
            _free()
        return replies

    def _reply(self, asks: Sequence[Ask]) -> list[Said]:
        if self.confidence:
            return self.model.reply_scored(asks, self.max_new_tokens)  # type: ignore[attr-defined]
        return [Said(text, None) for text in self.model.reply(asks, self.max_new_tokens)]


def _free() -> None:
    """Give memory that torch keeps for later back to the device, where torch is."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def ahead(
    items: Iterable[T], work: Callable[[T], V], workers: int, key: Callable[[T], object] = id
) -> Iterator[tuple[T, Future[V]]]:
    """Each item with its work, which threads have begun up to four items a thread before it is their turn. Items in a
    row that have one `key` share the work of the first."""
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[T, Future[V]]] = deque()
    latest: tuple[object, Future[V]] | None = None
    try:
        for item in items:
            if latest is None or key(item) != latest[0]:
                latest = key(item), pool.submit(work, item)
            waiting.append((item, latest[1]))
            if len(waiting) > 4 * workers:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    except BaseException:  # also when nobody takes the rest
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown(wait=False)  # what was given out may still be in work


class Shown:
    """The images of a stream's records, decoded ahead.

    Args:
        path: of a record's image, None where none is shown. It may raise RecordError.
        workers: threads that decode while the model works.
    """

    def __init__(self, root: str | Path, path: Callable[[Record], str | None], workers: int) -> None:
        self.root, self.path, self.workers = root, path, workers
        self._begun: dict[int, Future[Image | None]] = {}  # by id() of the record, while it waits

    def begun(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, while threads decode the images of the next ones; take their images with `opened`."""
        for item, future in ahead(items, self._open, self.workers, self._key):
            if not isinstance(item, Bad):
                self._begun[id(item)] = future
            yield item

    def opened(self, records: Sequence[Record]) -> list[Image | RecordError | None]:
        """The image of each record, or its fault; one object for one path, for a model may encode it once a call."""
        found: list[Image | RecordError | None] = []
        shared: dict[str, Image] = {}
        for record in records:
            future = self._begun.pop(id(record), None)  # gone when records are tried again one by one
            try:
                image = future.result() if future else self._open(record)
            except RecordError as error:
                found.append(error)
            else:
                found.append(image and shared.setdefault(record["image"], image))
        return found

    def _open(self, item: Item) -> Image | None:
        path = None if isinstance(item, Bad) else self.path(item)
        return None if path is None else open_image(self.root, path)

    def _key(self, item: Item) -> object:
        try:
            path = None if isinstance(item, Bad) else self.path(item)
        except RecordError:
            path = None
        return id(item) if path is None else path
