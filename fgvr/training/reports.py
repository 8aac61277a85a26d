"""What a training run tells besides its log: speed and memory, to a file and to trackers.

They differ from run to run, so they stay out of log.jsonl and of the folder that a run makes.
"""

from __future__ import annotations

import importlib.util
import resource
import time
from pathlib import Path
from typing import Any

import torch

from fgvr import stream
from fgvr.errors import UsageError

MIB = 1 << 20
TRACKERS = ("wandb", "mlflow", "trackio")


class Reports:
    """Speed of each step, in `folder`/speed.jsonl.

    Attributes:
        names: trackers that transformers reports to by itself.
        callbacks: of trackers that we open: TensorBoard's, with its files in `folder`.
    Args:
        to: one of --report-to.
        resumed: go on with the files that are there.
    Raises:
        UsageError: the tracker is not installed.
    """

    def __init__(self, folder: Path, to: str, resumed: bool) -> None:
        self.file, self.since = folder / "speed.jsonl", time.perf_counter()
        self.names = [to] if to in TRACKERS else []
        self.callbacks: list[Any] = []
        there = importlib.util.find_spec("tensorboard") is not None
        missing = (to in TRACKERS and importlib.util.find_spec(to) is None) or (to == "tensorboard" and not there)
        if missing:
            raise UsageError(f"--report-to {to} needs the package {to}; install it, or use --report-to none")
        folder.mkdir(parents=True, exist_ok=True)
        if not resumed:
            self.file.unlink(missing_ok=True)
        if there and to in ("auto", "tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
            from transformers.integrations import TensorBoardCallback

            self.callbacks = [TensorBoardCallback(SummaryWriter(str(folder)))]

    def step(self, entry: dict[str, Any], device: torch.device) -> dict[str, float]:
        """Note one step's speed, and return it: wall time since the last one (s), records and learnt tokens a second,
        and the peak of this process's memory so far (MiB; on a GPU, the GPU's)."""
        now = time.perf_counter()
        took, self.since = max(now - self.since, 1e-9), now
        speed = {"time_s": took, "records_per_s": entry["records"] / took, "peak_mib": peak(device)}
        if "tokens" in entry:
            speed["tokens_per_s"] = entry["tokens"] / took
        speed = {name: round(value, 4) for name, value in speed.items()}
        with open(self.file, "ab") as file:
            file.write(stream.encode({"step": entry["step"], **speed}) + b"\n")
        return speed


def peak(device: torch.device) -> float:
    """Peak memory so far, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def too_short(steps: int, warm: int) -> str:
    """What to say of a run that ends before its rate is reached; else nothing."""
    if steps >= warm:
        return ""
    reached = f"{(steps - 1) / warm:.0%}"
    return f"{steps} steps end within --warmup-steps {warm}, at {reached} of --lr; lower it, or --batch-size"
