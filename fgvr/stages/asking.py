"""Asking a model many questions: in batches that shrink when memory runs out; and images decoded ahead."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fgvr.errors import UsageError
from fgvr.models.base import Answerer, Ask, Said

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


def ahead(items: Iterable[T], work: Callable[[T], V], workers: int) -> Iterator[tuple[T, Future[V]]]:
    """Each item with its work, which threads have begun up to four items a thread before it is their turn."""
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[T, Future[V]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > 4 * workers:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    except BaseException:  # also when nobody takes the rest
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown(wait=False)  # what was given out may still be in work
