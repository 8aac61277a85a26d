"""Where Python meets Unix: signals, exit statuses, one line on stderr for whatever went wrong."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable

from fgvr import signals
from fgvr.errors import NO_ROOM, FgvrError, Stopped, reason

STATUSES = {
    0: "done",
    1: "bad data, a missing model, a failed check",
    2: "wrong usage",
    75: "try again with --resume: out of memory, server unreachable, output locked; SIGUSR1; training: SIGTERM",
    130: "stopped by SIGINT (Ctrl-C)",
    141: "the reader of stdout went away (SIGPIPE)",
    143: "stopped by SIGTERM",
}
OUT_OF_MEMORY = {"MemoryError", "OutOfMemoryError"}  # the second is torch's, known by name so that torch stays out


class Shown:
    """What the error line needs to know of the command line while it is being read."""

    command = "fgvr"
    verbose = False


def say(line: str, command: str | None = None) -> None:
    """One line for people on stderr."""
    if sys.stderr is None:  # closed: print would take stdout, between the records
        return
    text = " ".join(f"{command or Shown.command}: {line}".split())
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is gone: nobody to tell
        print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> int:
    """Run a command line, turn what it raises into one line on stderr, and return the exit status."""
    Shown.command, Shown.verbose = "fgvr", False
    _quiet()
    handlers = signals.install()
    try:
        try:
            main()
            status = 0
        except BaseException as error:
            status = _report(error)
        return _flush(status)
    finally:
        signals.restore(handlers)


def _quiet() -> None:
    """Silence on success: model libraries speak only when asked to (-v). UTF-8 whatever the locale."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors=errors)


def verbose() -> None:
    """-v: tracebacks, warnings and the libraries' log."""
    import logging
    import warnings

    Shown.verbose = True
    warnings.simplefilter("default")
    os.environ["TRANSFORMERS_VERBOSITY"] = "info"
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")


def _report(error: BaseException) -> int:
    if signals.caused(error):
        error = signals.stopped()
    if isinstance(error, Stopped):  # before click is looked at: the signal may have torn its import
        if error.signum != signal.SIGPIPE:
            say(str(error))
        return error.status
    import click

    if isinstance(error, (SystemExit, click.exceptions.Exit)):
        code = error.code if isinstance(error, SystemExit) else error.exit_code
        return code if isinstance(code, int) else int(code is not None)
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    if Shown.verbose:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, FgvrError):
        say(f"{error}; {error.note}" if error.note else str(error))
        return error.status
    return _unexpected(error)


def _usage(error: object) -> int:
    import click

    assert isinstance(error, click.UsageError)
    command = error.ctx.command_path if error.ctx else Shown.command
    text = error.format_message().strip().rstrip(".")
    say(f"{text[:1].lower()}{text[1:]}; see `{command} --help`", command)
    return 2


def _unexpected(error: BaseException) -> int:
    kind, text = type(error).__name__, str(error).strip()
    if kind in OUT_OF_MEMORY:
        say(f"out of memory{': ' if text else ''}{text[:120]}; retry with a lower --batch-size and --resume")
        return 75
    if kind == "SafetensorError" and (inside := re.search(r"I/O error: (.*) \(os error (\d+)\)", text)):
        error = OSError(int(inside[2]), inside[1])  # of a Rust library, by name so that it stays out
    if isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM):
        room = error.errno in NO_ROOM
        advice = "make room and run again" if room else "check the path and its permissions"
        say(f"{error.filename or 'output'}: {reason(error)}; {advice}")
        return 1
    say(f"internal error: {kind}: {text[:200]}; run again with -v for the traceback")
    return 1


def _flush(status: int) -> int:
    """Empty stdout's buffer now: what would fail at interpreter exit fails here, silently and with the right status."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except (OSError, ValueError) as error:
        if not status:
            say(f"cannot write <stdout>: {error}")
            status = 1
    if status:
        _forget_stdout()
    return status


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's own flush at exit cannot complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no real stdout (a test's), nothing to protect
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
