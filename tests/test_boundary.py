"""cli/boundary.py and cli/console.py: statuses and error lines, as a shell sees them."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from fgvr import signals
from fgvr.cli import boundary, console
from fgvr.errors import FgvrError, Stopped, TryAgain, UsageError
from tests.procs import FGVR, PRIVATE, PROGRAMS, shell, write_jsonl


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal of these tests stops no later one in the same process."""
    monkeypatch.setattr(signals._State, "signum", None)


def records(folder: Path, *categories: str) -> None:
    write_jsonl(folder / "in.jsonl", [{"id": f"r{n}", "category": c} for n, c in enumerate(categories)])


def status_of(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def fail() -> None:
        raise error

    return boundary.run(fail), capsys.readouterr().err


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (FgvrError("x.jsonl:3: torn; mend it"), 1, "fgvr: x.jsonl:3: torn; mend it\n"),
        (FgvrError("two\nlines"), 1, "fgvr: two lines\n"),
        (UsageError("no; yes"), 2, "fgvr: no; yes\n"),
        (TryAgain("server is away; wait"), 75, "fgvr: server is away; wait\n"),
        (MemoryError(), 75, "fgvr: out of memory; retry with a lower --batch-size and --resume\n"),
        (OutOfMemoryError("GPU"), 75, "fgvr: out of memory: GPU; retry with a lower --batch-size and --resume\n"),
        (OSError(28, "No space left on device", "x"), 1, "fgvr: x: no space left on device; make room and run again\n"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), 1,
         "fgvr: output: no space left on device; make room and run again\n"),
        (PermissionError(13, "No", "w"), 1, "fgvr: w: no; check the path and its permissions\n"),
        (BrokenPipeError(), 141, ""),
        (Stopped(signal.SIGPIPE), 141, ""),
        (Stopped(signal.SIGINT), 130, "fgvr: stopped by SIGINT\n"),
        (Stopped(signal.SIGTERM), 143, "fgvr: stopped by SIGTERM\n"),
        (Stopped(signal.SIGUSR1, again=True), 75, "fgvr: stopped by SIGUSR1\n"),
        (KeyError("k"), 1, "fgvr: internal error: KeyError: 'k'; run again with -v for the traceback\n"),
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_statuses(error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(error, capsys) == (status, line)


@pytest.mark.parametrize("kind", [ImportError, FgvrError])
def test_a_library_that_swallows_the_signal(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    """Some turn any exception into their own, which then may be explained."""

    def library() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException as error:
            raise kind("numpy failed") from error

    assert boundary.run(library) == 143
    assert capsys.readouterr().err == "fgvr: stopped by SIGTERM\n"


def test_a_closed_stderr_leaves_stdout_to_the_records(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    boundary.say("an error")
    assert capsys.readouterr().out == ""


def test_signal_handlers_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    boundary.run(lambda: None)
    assert signal.getsignal(signal.SIGINT) is before


def test_deferred_stops_at_the_end_of_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    from fgvr import signals

    steps: list[object] = []

    def train() -> None:
        with signals.deferred() as request:
            for step in range(5):
                steps.append(step)
                if step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                if request.stop:
                    break
            steps.append("saved")
        steps.append("never")

    assert boundary.run(train) == 143
    assert steps == [0, 1, 2, "saved"]


def test_unexpected_error_and_traceback(tmp_path: Path) -> None:
    records(tmp_path, "crash")
    ended = shell([PRIVATE, "shout", "in.jsonl"], tmp_path)
    assert (ended.status, ended.err) == (
        1, "fgvr shout: internal error: KeyError: 'a bug'; run again with -v for the traceback\n"
    )  # fmt: skip
    ended = shell([PRIVATE, "shout", "in.jsonl", "-v"], tmp_path)
    assert ended.status == 1 and "Traceback" in ended.err and ended.err.endswith("traceback\n")


def test_out_of_memory_keeps_what_is_done(tmp_path: Path) -> None:
    records(tmp_path, "a", "b", "memory", "c")
    argv = [PRIVATE, "shout", "in.jsonl", "--batch-size", "1", "-o", "out"]
    ended = shell(argv, tmp_path)
    assert (ended.status, ended.err) == (
        75, "fgvr shout: out of memory; retry with a lower --batch-size and --resume\n"
    )  # fmt: skip
    assert (tmp_path / "out.partial").read_text().count("\n") == 2


def test_stage_errors_name_the_record(tmp_path: Path) -> None:
    records(tmp_path, "a", "mute", "alone", "b")
    ended = shell([PRIVATE, "shout", "in.jsonl"], tmp_path)
    assert (ended.status, ended.err) == (1, "fgvr shout: r1: cannot shout; choose another\n")
    ended = shell([PRIVATE, "shout", "in.jsonl", "--on-error", "skip"], tmp_path)
    assert ended.status == 0 and ended.out.count(b"\n") == 2
    assert ended.err == (
        "fgvr shout: r1: cannot shout; choose another\nfgvr shout: r2: cannot shout in company; leave it alone\n"
        "fgvr shout: 2 of 4 records skipped\n"
    )


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["dataset", "folder", "--help"]])
def test_pipe_that_breaks_at_the_very_end(argv: list[str]) -> None:
    """All output fits Python's buffer: the pipe breaks only when it is flushed."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([*FGVR, *argv], stdout=write_end, stderr=subprocess.PIPE, timeout=60)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_stdout_full_closed_and_stderr_closed(tmp_path: Path) -> None:
    records(tmp_path, "a")
    line = f'{" ".join(PROGRAMS[PRIVATE])} shout in.jsonl'

    def sh(redirect: str) -> tuple[int, str]:
        done = subprocess.run(["sh", "-c", f"exec {line} {redirect}"], cwd=tmp_path, capture_output=True, timeout=60)
        return done.returncode, done.stderr.decode()

    status, err = sh(">/dev/full")
    assert status == 1 and err.startswith("fgvr shout: cannot write <stdout>: no space left on device; make room")
    assert err.count("\n") == 1
    assert sh(">&-") == (1, "fgvr shout: stdout is closed; give -o FILE\n")
    assert sh("2>&-") == (0, "")
    assert sh("--nonsense 2>&-") == (2, "")
    assert sh("-o out <&-") == (0, "")


def test_help_to_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*FGVR, "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1


def test_terminal_on_stdin(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [*PROGRAMS[PRIVATE], "shout"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    os.close(theirs)
    os.write(ours, b'{"id":"a","category":"x"}\n\x04')
    out, err = running.communicate(timeout=60)
    os.close(ours)
    assert (running.returncode, out.count(b"\n")) == (0, 1)
    assert err == b"fgvr shout: reading records from the terminal; end with Ctrl-D\n"


def test_interrupt_from_a_terminal_goes_to_the_whole_group(tmp_path: Path) -> None:
    """`fgvr | fgvr`, Ctrl-C: each ends with its own status and at most one line."""
    records(tmp_path, *["a"] * 50)
    shout = " ".join([*PROGRAMS[PRIVATE], "shout"])
    line = f"{shout} in.jsonl --pause-s 0.2 --batch-size 1 | {shout} -o out --resume; echo ${{PIPESTATUS[*]}}"
    running = subprocess.Popen(
        ["bash", "-c", f"trap : INT; {line}"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    for _ in range(600):
        if (tmp_path / "out.partial").exists() and (tmp_path / "out.partial").stat().st_size:
            break
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert out.split()[1] == b"130" and out.split()[0] in (b"130", b"141")
    assert b"out.partial keeps what is done" in err and b"Traceback" not in err
    others = [line for line in err.decode().splitlines() if not line.startswith("fgvr shout: ")]
    assert not any(others), "but for an empty line, bash's own"


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGUSR1", 75)])
def test_group_and_process_signalled_together_is_one_wish(name: str, status: int, tmp_path: Path) -> None:
    """make forwards SIGTERM to children that got it already: they must still save what they have."""
    records(tmp_path, *["a"] * 50)
    argv = [*PROGRAMS[PRIVATE], "shout", "in.jsonl", "--pause-s", "0.2", "--batch-size", "1", "-o", "out"]
    running = subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE)
    for _ in range(600):
        if (tmp_path / "out.partial").exists() and (tmp_path / "out.partial").stat().st_size:
            break
        time.sleep(0.05)
    running.send_signal(signal.Signals[name])
    running.send_signal(signal.Signals[name])
    _, err = running.communicate(timeout=60)
    assert running.returncode == status
    assert err.decode() == f"fgvr shout: stopped by {name}; out.partial keeps what is done, run again with --resume\n"


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """A background job of a plain shell ignores Ctrl-C; so do we."""
    records(tmp_path, "a", "b")
    argv = [*PROGRAMS[PRIVATE], "shout", "in.jsonl", "--pause-s", "0.3", "--batch-size", "1", "-o", "out"]
    running = subprocess.Popen(
        argv, cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    for _ in range(600):
        if (tmp_path / "out.partial").exists():
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=60) == (None, b"") and running.returncode == 0


def test_progress_is_silent_for_short_runs_and_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = iter(range(0, 10_000, 25))  # seconds; one look at it for the start, one for each item
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    assert list(console.progress(range(8), said.append)) == list(range(8))
    assert said == ["3 records in 1 min", "6 records in 2 min"]
    said.clear()
    monkeypatch.undo()
    assert list(console.progress(range(8), said.append)) == list(range(8)) and not said


def test_bar_on_a_terminal(tmp_path: Path) -> None:
    records(tmp_path, *["a"] * 30)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    argv = [*PROGRAMS[PRIVATE], "shout", "in.jsonl", "--pause-s", "0.1", "--batch-size", "1"]
    running = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs)
    assert running.communicate(timeout=60)[0].count(b"\n") == 30
    os.write(theirs, b"(end)")  # so that an empty screen does not hang the test
    shown = os.read(ours, 1 << 16)
    os.close(theirs)
    os.close(ours)
    assert running.returncode == 0 and b"records" in shown and b"Traceback" not in shown


def test_a_signal_in_a_callback_says_nothing_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python prints what is raised where nothing can be raised, such as in a weak reference's callback."""
    from types import SimpleNamespace

    from fgvr import signals

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # pytest has one of its own
    old = signals.install()
    try:
        sys.unraisablehook(SimpleNamespace(exc_type=Stopped, exc_value=Stopped(15), exc_traceback=None, object=None))
    finally:
        signals.restore(old)
    assert capsys.readouterr().err == "" and sys.unraisablehook is not signals._unraisable
