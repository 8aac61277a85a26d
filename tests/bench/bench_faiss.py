"""Exact top-k: fgvr.topk against faiss' flat index, both on the same float32 features. Needs the extra fgvr[faiss].

QUERIES in the environment sets their number (default 20,000; the full size is 1,000,000, read from a mapped file).
`python -m tests.bench.bench_faiss` prints seconds for growing numbers of queries and the peak of anonymous memory.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from fgvr.topk import topk, unit
from tests.bench.harness import Benchmark

QUERIES, KEYS, WIDTH, K = int(os.environ.get("QUERIES", "20000")), 10_000, 768, 50


def features(count: int, seed: int) -> Tensor:
    """(count, WIDTH) random unit float32 directions, from a mapped file when they are many."""
    draw = torch.Generator().manual_seed(seed)
    if count <= 50_000:
        return unit(torch.randn(count, WIDTH, generator=draw)).float()
    path = Path(tempfile.gettempdir()) / f"fgvr-bench-{count}-{seed}.bin"
    if not path.exists() or path.stat().st_size != 4 * count * WIDTH:
        with path.open("wb") as file:
            for _ in range(0, count, 50_000):
                file.write(unit(torch.randn(50_000, WIDTH, generator=draw)).float().numpy().tobytes())
    return torch.from_file(str(path), shared=False, size=count * WIDTH, dtype=torch.float32).view(count, WIDTH)


def by_faiss(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(WIDTH)
    index.add(keys.numpy())
    values, found = index.search(queries.numpy(), K)
    return torch.from_numpy(found), torch.from_numpy(values)


def same(baseline: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
    """Equal sets, but for keys that float32 cannot tell apart at the border."""
    differing = (baseline[0].sort(1).values != ours[0].sort(1).values).any(1).nonzero().flatten()
    assert len(differing) <= len(ours[0]) // 1000, f"{len(differing)} queries have other neighbours"
    assert (baseline[1].double() - ours[1]).abs().max() < 1e-6, "other similarities"


def benchmark() -> Benchmark:
    queries, keys = features(QUERIES, 0), features(KEYS, 1)
    return Benchmark(
        baseline=("faiss IndexFlatIP", lambda: by_faiss(queries, keys)),
        ours=(f"fgvr.topk, {QUERIES:,} x {KEYS:,} x {WIDTH}, k {K}", lambda: topk(queries, keys, K)),
        same=same,
        bar=1 / 1.15,
    )


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    keys = features(KEYS, 1)
    for count in [int(n) for n in os.environ.get("COUNTS", "100000,250000,500000,1000000").split(",")]:
        queries = features(count, 0)
        before, peak, done = anonymous_bytes(), 0, threading.Event()

        def watch(done: threading.Event = done) -> None:
            global peak
            while not done.wait(0.05):
                peak = max(peak, anonymous_bytes())

        watching = threading.Thread(target=watch)
        watching.start()
        start = time.perf_counter()
        topk(queries, keys, K)
        seconds = time.perf_counter() - start
        done.set()
        watching.join()
        print(f"{count:,} queries: {seconds:.1f} s, {seconds / count * 1e6:.1f} us each, "
              f"{(peak - before) / 2**30:.2f} GiB more than before", flush=True)  # fmt: skip
