"""What all tests share. No network, no downloaded weights, one thread a process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import procs

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # what commands fork from begins with it
os.environ.pop("FGVR_COMPLETE", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a plain shell; commands would ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """No command outlives its test, nor does what -v says in this process, of which others are forked."""
    spoken = os.environ["TRANSFORMERS_VERBOSITY"]
    yield
    os.environ["TRANSFORMERS_VERBOSITY"] = spoken
    procs.reap()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference files that is no part of the project (FGVR_SHARED)."""
    folder = os.environ.get("FGVR_SHARED", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FGVR_SHARED names no folder of reference files")
    return Path(folder)


@pytest.fixture(scope="session")
def toy_vlm() -> Path:
    """The embedded vision-language model."""
    return ROOT / "examples" / "toy" / "vlm"


@pytest.fixture(scope="session")
def toy_clip() -> Path:
    """The embedded CLIP."""
    return ROOT / "examples" / "toy" / "clip"
