"""The exceptions of fgvr, each with the exit status it ends a command with.

A message is one line, lower case, and says what happened and what to do: `<what>; <what to do>`. The boundary puts
`fgvr <command>: ` before it, so a message that concerns a record starts with `<file>:<line>: ` or `<record id>: `.
"""

from __future__ import annotations

import errno
import signal

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class FgvrError(Exception):
    """Bad data, a missing model, a failed check."""

    status = 1
    note = ""  # what is kept and how to go on; whoever keeps something fills it in


class UsageError(FgvrError):
    """The command line asks for something that makes no sense."""

    status = 2


class TryAgain(FgvrError):
    """Nothing is wrong with the data: out of memory, a server out of reach, a lock held by another run."""

    status = 75  # EX_TEMPFAIL of sysexits.h


class RecordError(FgvrError):
    """One record cannot be used. Streams turn it into a `Bad` value in its place (see fgvr.stream)."""

    status = 1


class Unanswered(RecordError, TryAgain):
    """One record that a server does not answer now: set aside where bad records are (--on-error skip), else 75."""

    status = 75


class Stopped(BaseException):
    """A signal asked the process to stop. Not an Exception, so that no `except Exception` swallows it.

    Args:
        signum: the signal's number; the exit status is 128 + signum,
        again: or 75, as of TryAgain, when a batch system is to start the command again.
    """

    def __init__(self, signum: int, again: bool = False) -> None:
        super().__init__(signum)
        self.signum = int(signum)
        self.status = TryAgain.status if again else 128 + self.signum
        self.note = ""

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name
        return f"stopped by {name}" + (f"; {self.note}" if self.note else "")


def reason(error: BaseException) -> str:
    """An exception as a few words in lower case, on one line."""
    text = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    return text if text[:2].isupper() else text[:1].lower() + text[1:]
