"""Stopping on SIGINT, SIGTERM and SIGUSR1: at once, or at a place that the running code chooses.

SIGUSR1 is what batch systems are told to warn with (SLURM's --signal). It ends a command with 75, so that a script
knows what to put back into the queue; so does SIGTERM after `retried()`.

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

from fgvr.errors import FgvrError, Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
WARNINGS = (signal.SIGUSR1,)  # that end any command with 75
# make and batch systems often signal a process and its group in the same breath: that is one wish, not two
SAME_WISH_S = 0.25


class _State:
    signum: int | None = None
    since: float = 0.0
    depth: int = 0
    again: tuple[int, ...] = WARNINGS  # those that end this command with 75
    raised: bool = False  # `Stopped`; what else is raised from then on may be what a library made of it


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
        _State.raised = True
        raise stopped()


def install() -> dict[int, object]:
    """Take over SIGNALS; returns the handlers that stood there, for `restore`.

    A signal that the parent set to be ignored (a background job of a plain shell) stays ignored.
    """
    _State.signum, _State.depth, _State.again, _State.raised = None, 0, WARNINGS, False
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


def caused(error: BaseException) -> bool:
    """Whether an error may be what a library, or who explains its errors, made of `Stopped`."""
    ours = isinstance(error, FgvrError)
    return isinstance(error, Exception) and _State.signum is not None and (_State.raised or not ours)


def retried() -> None:
    """From now on SIGTERM ends this command with 75: what it has done is kept, and it is to be started again."""
    _State.again = (signal.SIGTERM, *WARNINGS)


def stopped() -> Stopped:
    """What the signal that came raises; SIGTERM's, if none came to this process."""
    signum = _State.signum or signal.SIGTERM
    return Stopped(signum, signum in _State.again)


def check() -> None:
    """Raise `Stopped` when a signal came but its exception was lost, in a callback that swallows everything."""
    if _State.signum is not None and not _State.depth:
        raise stopped()


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
