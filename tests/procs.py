"""Running commands as real processes: with signals, pipes and exit statuses.

The first word of a command line says how: "fgvr" is forked from a server that has the model libraries loaded, for
they take many seconds to import; FRESH is fgvr in a fresh interpreter; PRIVATE are the commands of tests/private.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FRESH, PRIVATE = "fresh", "private"
WAIT_S = 120
FGVR = [sys.executable, "-c", "import sys; from fgvr.cli.main import main; sys.exit(main())"]
PROGRAMS = {"fgvr": FGVR, FRESH: FGVR, PRIVATE: [sys.executable, str(ROOT / "tests" / "private.py")]}
IDEFICS2 = "transformers.models.idefics2"
PRELOAD = [
    "torch", "transformers", "peft", "open_clip", "numpy", "PIL.Image", "jsonlines", "fgvr.cli.group", "datasets",
    "transformers.trainer", f"{IDEFICS2}.modeling_idefics2", f"{IDEFICS2}.image_processing_idefics2",
    f"{IDEFICS2}.processing_idefics2", "transformers.models.mistral.modeling_mistral",
]  # fmt: skip
# opens its files in the child, where a named pipe may keep it waiting
REDIRECT = ["/bin/sh", "-c", 'i=$1 o=$2 e=$3; shift 3; exec "$@" <"$i" >"$o" 2>"$e"', "sh"]


@dataclass
class Ended:
    """A finished process; a signal that killed it shows as a negative status."""

    status: int
    out: bytes
    err: str


def _bound(fsize: int | None) -> None:
    if fsize is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, fsize))


def _forked(argv: Sequence[str], cwd: str, files: Sequence[str], fsize: int | None) -> None:
    """What the forked process does: its own files, then the command."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)  # until the command takes over
    os.chdir(cwd)
    for fd, path in enumerate(files):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if fd else os.O_RDONLY
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, fd)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    _bound(fsize)
    from fgvr.cli.main import main

    sys.exit(main(argv))


class Running:
    """A command at work; its stdout goes to a file unless one is given."""

    def __init__(
        self, argv: Sequence[str], cwd: Path, stdin: Path | None, stdout: Path | None, fsize: int | None
    ) -> None:
        self.scratch, self.err = cwd / ".out", cwd / ".err"
        self.out = stdout or self.scratch
        os.mkfifo(self.err)  # no file, so that a bound on file sizes does not silence it
        self.errors = os.open(self.err, os.O_RDWR | os.O_NONBLOCK)
        files = [str(stdin or os.devnull), str(self.out), str(self.err)]
        if argv[0] == "fgvr":
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(PRELOAD)
            self.fork = context.Process(target=_forked, args=(list(argv[1:]), str(cwd), files, fsize))
            self.fork.start()
            assert self.fork.pid is not None
            self.pid = self.fork.pid
        else:
            self.popen = subprocess.Popen(
                [*REDIRECT, *files, *PROGRAMS[argv[0]], *argv[1:]], cwd=cwd, preexec_fn=lambda: _bound(fsize)
            )
            self.pid = self.popen.pid
        STARTED.append(self)

    @property
    def status(self) -> int | None:
        """None while it runs."""
        return self.fork.exitcode if hasattr(self, "fork") else self.popen.poll()

    @property
    def running(self) -> bool:
        return self.status is None

    def kill(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def wait(self) -> Ended:
        """Wait for its end and clear up behind it."""
        began = time.monotonic()
        while (status := self.status) is None:
            assert time.monotonic() - began < WAIT_S, "the command hangs"
            time.sleep(0.005)
        try:
            err = os.read(self.errors, 1 << 16).decode("utf-8", "replace")
        except BlockingIOError:
            err = ""
        out = self.out.read_bytes() if self.out.is_file() else b""
        self.clear()
        return Ended(status, out, err)

    def clear(self) -> None:
        STARTED.remove(self)
        os.close(self.errors)
        self.err.unlink(missing_ok=True)
        self.scratch.unlink(missing_ok=True)


STARTED: list[Running] = []


def reap() -> None:
    """Kill what a failed test left running."""
    for running in list(STARTED):
        if running.status is None:
            running.kill(signal.SIGKILL)
        running.clear()


def start(
    argv: Sequence[str], cwd: Path, stdin: Path | None = None, stdout: Path | None = None, fsize: int | None = None
) -> Running:
    """Start a command. `fsize` bounds the size in bytes of any file that it writes."""
    return Running(argv, cwd, stdin, stdout, fsize)


def run(argv: Sequence[str], cwd: Path, stdin: Path | None = None, **more: Any) -> Ended:
    """Run a command to its end."""
    return start(argv, cwd, stdin, **more).wait()


def shell(argv: Sequence[str], cwd: Path, stdin: bytes = b"", **env: str) -> Ended:
    """Run a command in a fresh interpreter, with these environment variables."""
    done = subprocess.run(
        [*PROGRAMS[argv[0]], *argv[1:]],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=WAIT_S,
        env={**os.environ, **env},
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def read_jsonl(path: Path | bytes) -> list[dict[str, Any]]:
    text = path if isinstance(path, bytes) else path.read_bytes()
    return [json.loads(line) for line in text.decode().splitlines()]
