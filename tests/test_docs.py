"""What the documents show is what happens: every command of the README runs, the reference is the commands' own
help."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import reference
from tests.procs import FGVR, ROOT


def blocks(file: str) -> list[str]:
    return re.findall(r"(?ms)^```sh\n(.*?)^```", (ROOT / file).read_text(encoding="utf-8"))


def lines(block: str) -> list[str]:
    stripped = (re.sub(r"\s+#.*$", "", line) for line in block.splitlines() if not line.startswith("#"))
    return [line.strip() for line in stripped if line.strip()]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project's examples, and an `fgvr` on the path."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "bin").mkdir()
    script = folder / "bin" / "fgvr"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(FGVR)} "$@"\n')
    script.chmod(0o755)
    return folder


@pytest.mark.slow  # .ci/run runs it
def test_the_readmes_stages_run_as_shown(project: Path) -> None:
    shown = next(block for block in blocks("README.md") if "fgvr discover-attrs" in block)
    env = {**os.environ, "PATH": f"{project / 'bin'}:{os.environ['PATH']}"}
    said = {}
    for line in lines(shown):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line], cwd=project, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, (line, done.stderr)
        assert done.stderr == "", line
        said[line] = done.stdout
    for command in (
        "dataset",
        "discover-attrs",
        "extract-attrs",
        "summarise",
        "mine-negatives",
        "align",
        "questions",
        "tune",
        "eval",
        "score",
        "probe",
        "provenance",
    ):
        assert any(f"fgvr {command}" in line for line in said), command
    assert any("accuracy" in out for line, out in said.items() if "score --table" in line)
    assert any("mined.jsonl" in out for line, out in said.items() if "provenance" in line)


def test_the_readmes_make_commands_are_legal(tmp_path: Path) -> None:
    """`make all` and `make test` themselves are what .ci/run runs."""
    (tmp_path / "train" / "a").mkdir(parents=True)
    found = [line for block in blocks("README.md") for line in lines(block) if line.startswith("make ")]
    assert "make all" in found and "make test" in found and len(found) >= 4
    for line in found:
        words = [re.sub(r"^DATA=.*", f"DATA={tmp_path}", word) for word in shlex.split(line)]
        env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        done = subprocess.run([*words, "-n"], cwd=ROOT, capture_output=True, text=True, env=env)
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout.strip(), line


def test_the_reference_is_the_commands_own_help() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from tests.reference import page; print(page(), end='')"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, "COLUMNS": "100"},
        check=True,
    ).stdout
    assert reference.FILE.read_text(encoding="utf-8") == shown, "run `make docs`"


@pytest.mark.parametrize(
    "file",
    ["README.md", "CONTRIBUTING.md", *(f"docs/{n}.md" for n in ("architecture", "datasets", "models", "records"))],
)
def test_links_lead_somewhere(file: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / file).read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert ((ROOT / file).parent / target).exists(), target
