"""Running commands as real processes: with signals, pipes and exit statuses, but without importing torch every time.

`start` forks the command from a server that has the libraries loaded; `shell` runs it as a user would.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRIVATE = "private"
WAIT_S = 120
FGVR = [sys.executable, "-c", "import sys; from fgvr.cli.main import main; sys.exit(main())"]
PRELOAD = ["torch", "transformers", "peft", "open_clip", "numpy", "PIL.Image", "jsonlines", "fgvr.cli.group"]


STARTED: list[Running] = []


def reap() -> None:
    """Kill what a failed test left running."""
    while STARTED:
        process = STARTED.pop().process
        if process.is_alive():
            process.kill()
            process.join()


@dataclass
class Ended:
    """A finished process; a signal that killed it shows as a negative status."""

    status: int
    out: bytes
    err: str


def _child(argv: Sequence[str], cwd: str, stdin: str, stdout: str, stderr: str, fsize: int | None) -> None:
    """The forked process: its own files, then the command."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)  # until the command takes over
    os.chdir(cwd)
    for fd, path, flags in ((0, stdin, os.O_RDONLY), (1, stdout, os.O_WRONLY), (2, stderr, os.O_WRONLY)):
        opened = os.open(path, flags | (os.O_CREAT | os.O_TRUNC if fd and not os.path.exists(path) else 0), 0o644)
        os.dup2(opened, fd)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    if fsize is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fsize, fsize))
    from fgvr.cli.main import main

    if argv[0] == PRIVATE:
        from tests.private import cli

        sys.exit(main(argv[1:], group=cli))
    sys.exit(main(argv[1:]))


class Running:
    """A command that runs; stdout goes to a file unless it is given."""

    def __init__(
        self, argv: Sequence[str], cwd: Path, stdin: Path | None, stdout: Path | None, fsize: int | None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self.out, self.err = stdout or cwd / ".out", cwd / ".err"
        for path in (self.out, self.err):
            if path.is_file() or path == self.err:
                path.unlink(missing_ok=True)
        os.mkfifo(self.err)  # no file, so that a bound on file sizes does not silence it
        self.errors = os.open(self.err, os.O_RDWR | os.O_NONBLOCK)
        files = (str(stdin or os.devnull), str(self.out), str(self.err))
        self.process = context.Process(target=_child, args=(list(argv), str(cwd), *files, fsize))
        self.process.start()
        STARTED.append(self)

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    def kill(self, signum: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signum)

    def wait(self) -> Ended:
        self.process.join(WAIT_S)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError("the command hangs")
        out = self.out.read_bytes() if self.out.is_file() else b""
        try:
            err = os.read(self.errors, 1 << 16).decode("utf-8", "replace")
        except BlockingIOError:
            err = ""
        os.close(self.errors)
        self.err.unlink()
        self.err.with_name(".out").unlink(missing_ok=True)
        return Ended(self.process.exitcode, out, err)


def start(
    argv: Sequence[str], cwd: Path, stdin: Path | None = None, stdout: Path | None = None, fsize: int | None = None
) -> Running:
    """Start a command: argv[0] is "fgvr" or PRIVATE. `fsize` bounds the size in bytes of any file that it writes."""
    return Running(argv, cwd, stdin, stdout, fsize)


def run(argv: Sequence[str], cwd: Path, stdin: Path | None = None, **more: Any) -> Ended:
    """Run a command to its end."""
    return start(argv, cwd, stdin, **more).wait()


def shell(argv: Sequence[str], cwd: Path, stdin: bytes = b"", **env: str) -> Ended:
    """Run a command in a process of its own, from a fresh interpreter, with environment variables."""
    program = [sys.executable, str(ROOT / "tests" / "private.py")] if argv[0] == PRIVATE else FGVR
    done = subprocess.run(
        [*program, *argv[1:]], cwd=cwd, input=stdin, capture_output=True, timeout=WAIT_S, env={**os.environ, **env}
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def read_jsonl(path: Path | bytes) -> list[dict[str, Any]]:
    text = path if isinstance(path, bytes) else path.read_bytes()
    return [json.loads(line) for line in text.decode().splitlines()]
