"""Progress on stderr: a bar on a terminal, else a plain line a minute; nothing at all for short runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
EVERY_S = 60.0


def progress(items: Iterable[T], say: Callable[[str], None], unit: str = "records") -> Iterator[T]:
    """The items, with a bar or a line a minute on stderr that says how many came by."""
    if sys.stderr is not None and sys.stderr.isatty():
        from tqdm import tqdm

        # a second of silence first: short runs leave nothing on the screen
        yield from tqdm(items, unit=f" {unit}", delay=1, leave=False, dynamic_ncols=True)
        return
    started = shown = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown >= EVERY_S:
            shown = now
            say(f"{count} {unit} in {(now - started) / 60:.0f} min")
