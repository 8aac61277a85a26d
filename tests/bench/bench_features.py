"""Image features: fgvr.features (threads, bfloat16 weights) against a plain float32 open_clip loop: ViT-B-32 with
random weights, JPEG files of 500 x 375 (CUB's size; `bench_features_large`: 2000 x 1500).
`python -m tests.bench.bench_features` also times both halves alone."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fgvr.features import Extractor
from fgvr.models.clip import ClipEncoder
from fgvr.models.encoders import Parts, parts
from tests.bench.harness import Benchmark

IMAGES, BATCH = int(os.environ.get("IMAGES", "256")), 32
SIZE = (500, 375)


def pictures(folder: Path, size: tuple[int, int]) -> list[dict[str, str]]:
    """Distinct noisy drawings, as heavy to decode as photographs."""
    made = []
    for n in range(IMAGES):
        corner = (-2 + n / IMAGES, -1, 1, 1 + n / IMAGES)
        image = Image.merge("RGB", [Image.effect_mandelbrot(size, corner, 30 + 10 * band) for band in range(3)])
        noise = Image.effect_noise(size, 60).convert("RGB")
        Image.blend(image, noise, 0.2).save(folder / f"{n}.jpg", quality=90)
        made.append({"id": str(n), "image": f"{n}.jpg"})
    return made


@functools.cache
def material(size: tuple[int, int]) -> tuple[Path, list[dict[str, str]], Any, Any, Parts]:
    import open_clip

    folder = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32")
    twin, _, _ = open_clip.create_model_and_transforms("ViT-B-32")
    twin.load_state_dict(model.state_dict())
    encoder = ClipEncoder(twin.eval(), preprocess, None, {"name": "random"})
    return folder, pictures(folder, size), model.eval(), preprocess, parts(encoder)


def plain(size: tuple[int, int] = SIZE) -> Tensor:
    folder, records, model, preprocess, _ = material(size)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(records), BATCH):
            some = records[start : start + BATCH]
            pixels = torch.stack([preprocess(Image.open(folder / r["image"]).convert("RGB")) for r in some])
            rows.append(F.normalize(model.encode_image(pixels), dim=-1))
    return torch.cat(rows)


def ours(size: tuple[int, int] = SIZE) -> Tensor:
    folder, records, _, _, apart = material(size)
    return Extractor(apart, folder, batch=BATCH)(records)[1].features


def same(baseline: Tensor, found: Tensor) -> None:
    least = (baseline * found).sum(1).min()
    assert least > 0.99, f"a cosine of {least:.4f} between both ways"


def benchmark(size: tuple[int, int] = SIZE) -> Benchmark:
    named = f"fgvr.features, {IMAGES} images of {size[0]} x {size[1]}"
    return Benchmark(("plain float32 open_clip loop", lambda: plain(size)), (named, lambda: ours(size)), same, bar=3)


def alone() -> tuple[float, float]:
    """Seconds for preparing all images in the threads, and for encoding as many, each with the machine to itself."""
    from concurrent.futures import ThreadPoolExecutor

    folder, records, _, _, apart = material(SIZE)
    extract = Extractor(apart, folder, batch=BATCH)
    start = time.perf_counter()
    with ThreadPoolExecutor(extract.threads) as pool:
        pixels = [made[1] for made in pool.map(extract._prepare, [r["image"] for r in records])]
    decoded = time.perf_counter() - start
    start = time.perf_counter()
    for first in range(0, len(pixels), BATCH):
        apart.encode(pixels[first : first + BATCH])
    return decoded, time.perf_counter() - start


if __name__ == "__main__":
    for _ in range(5):
        decoded, encoded = alone()
        start = time.perf_counter()
        ours()
        whole = time.perf_counter() - start
        ratio = whole / max(decoded, encoded)
        print(f"decode alone {decoded:.2f} s, encode alone {encoded:.2f} s, together {whole:.2f} s: "
              f"{ratio:.2f} x the slower, {IMAGES / whole:.0f} images/s", flush=True)  # fmt: skip
