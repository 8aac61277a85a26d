"""Stopping on SIGINT and SIGTERM: at once, or at a place that the running code chooses.

The first signal raises `errors.Stopped` in the main thread; inside `deferred()` only a request is noted, and `Stopped`
is raised when the block is left. A second signal kills the process at once, whatever it is doing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fgvr.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# make and batch systems often signal a process and its group in the same breath: that is one wish, not two
SAME_WISH_S = 0.25


class _State:
    signum: int | None = None
    since: float = 0.0
    depth: int = 0


class Request:
    """What `deferred()` hands out."""

    @property
    def stop(self) -> bool:
        """True once a signal has asked the process to stop."""
        return _State.signum is not None


def _handle(signum: int, frame: FrameType | None) -> None:
    if _State.signum is not None:
        if time.monotonic() - _State.since > SAME_WISH_S:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        return
    _State.signum, _State.since = signum, time.monotonic()
    if not _State.depth:
        raise Stopped(signum)


def install() -> dict[int, object]:
    """Take over SIGINT and SIGTERM; returns the handlers that stood there, for `restore`.

    A signal that the parent set to be ignored (a background job of a plain shell) stays ignored.
    """
    _State.signum, _State.depth = None, 0
    old: dict[int, object] = {}
    if threading.current_thread() is not threading.main_thread():
        return old
    for signum in SIGNALS:
        handler = signal.getsignal(signum)
        if handler is not signal.SIG_IGN:
            old[signum] = signal.signal(signum, _handle)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    return old


def _unraisable(info: Any) -> None:
    """A signal that came in a callback, where no exception can leave, is not lost (`check`), so nothing is said."""
    if not issubclass(info.exc_type, Stopped):
        sys.__unraisablehook__(info)


def restore(old: dict[int, object]) -> None:
    """Put back what `install` returned."""
    for signum, handler in old.items():
        signal.signal(signum, handler)  # type: ignore[arg-type]  # getsignal returns what signal accepts
    if sys.unraisablehook is _unraisable:
        sys.unraisablehook = sys.__unraisablehook__


def pending() -> int | None:
    """The signal that asked to stop, if any."""
    return _State.signum


def check() -> None:
    """Raise `Stopped` when a signal came but its exception was lost, in a callback that swallows everything."""
    if _State.signum is not None and not _State.depth:
        raise Stopped(_State.signum)


@contextmanager
def deferred() -> Iterator[Request]:
    """Let the block decide when to stop: it looks at `request.stop`; `Stopped` is raised when it is left normally.

    with signals.deferred() as request:
        for step in steps:
            train(step)
            if request.stop:
                save_checkpoint()
                break
    """
    _State.depth += 1
    try:
        yield Request()
    finally:
        _State.depth -= 1
    check()
