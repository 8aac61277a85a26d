"""`make all` with the embedded models on miniatures of published data sets: every stage really runs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.miniatures import BUILDERS
from tests.procs import FGVR, ROOT, read_jsonl

TRAIN = "--epochs 1 --batch-size 4 --warmup-steps 0 --rank 2"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cub", "pets", "aircraft", "grocery"])
def test_the_whole_chain(name: str, tmp_path: Path) -> None:
    BUILDERS[name](tmp_path / "data")
    script = tmp_path / "fgvr"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(FGVR)} "$@"\n')
    script.chmod(0o755)
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    words = [
        f"DATASET={name}", f"DATA={tmp_path / 'data'}", f"RUN={tmp_path / 'run'}", f"FGVR={script}",
        "DATASET_OPTIONS=--allow-partial", f"ALIGN_OPTIONS={TRAIN}", f"TUNE_OPTIONS={TRAIN}", "DEVICE=cpu",
    ]  # fmt: skip
    done = subprocess.run(["make", "all", *words], cwd=ROOT, env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no leaks" in done.stderr
    run = tmp_path / "run"
    test = read_jsonl(run / "test.jsonl")
    asked = {record["category"] for record in read_jsonl(run / "predictions.jsonl")}
    assert len(test) == 8 and asked == {record["category"] for record in test}
    shown = subprocess.run(
        [sys.executable, "-c", "import sys; from fgvr.cli.main import main; sys.exit(main())", "provenance",
         str(run / "predictions.jsonl")], cwd=ROOT, text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert f"by fgvr dataset {name}" in shown.stdout
