"""JSONL in and out: fgvr.stream, with all its checks, against plain jsonlines with the standard library's json."""

from __future__ import annotations

import tempfile
from pathlib import Path

import jsonlines

from fgvr import stream
from tests.bench.harness import Benchmark

RECORDS = 20_000


def record(number: int) -> dict:
    """About what mine-negatives writes: 1.2 kB with nested lists, floats and text beyond ASCII."""
    description = "a Crested Größling, with a hooked yellow bill – and a forked tail; " * 3
    hard = {"category": "Marsh Ærin", "description": description}
    negatives = [{"id": f"toy/train/{number:05}-{i}", **hard, "similarity": 1 / (i + 3)} for i in range(3)]
    return {
        "id": f"toy/train/{number:05}",
        "image": f"train/Crested Größling/{number:05}.png",
        "category": "Crested Größling",
        "superclass": "bird",
        "split": "train",
        "description": description,
        "negatives": negatives,
    }


def benchmark() -> Benchmark:
    folder = tempfile.TemporaryDirectory(prefix="fgvr-bench-")
    source = Path(folder.name, "in.jsonl")
    source.write_bytes(b"".join(stream.encode(record(i)) + b"\n" for i in range(RECORDS)))

    def plain() -> Path:
        out = Path(folder.name, "plain.jsonl")
        with jsonlines.open(source) as reader, jsonlines.open(out, "w", compact=True) as writer:
            for item in reader:
                writer.write(item)
        return out

    def ours() -> Path:
        out = Path(folder.name, "ours.jsonl")
        with out.open("wb") as file:
            for item in stream.read(str(source)):
                file.write(stream.encode(item) + b"\n")
        return out

    def same(baseline: Path, ours: Path) -> None:
        _ = folder  # removed with the last function that needs it
        with jsonlines.open(baseline) as left, jsonlines.open(ours) as right:
            assert list(left) == list(right), "other records"
        assert ours.read_bytes() == source.read_bytes(), "other bytes than were read"

    return Benchmark(
        baseline=("jsonlines + json", plain), ours=("fgvr.stream", ours), same=same, bar=1, rounds=7
    )
