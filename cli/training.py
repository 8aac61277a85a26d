"""What `fgvr align` and `fgvr tune` share: read, open, train, write the adapter folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fgvr.cli import boundary
from fgvr.errors import FgvrError
from fgvr.job import Job
from fgvr.settings import Training
from fgvr.stream import Item, each

if TYPE_CHECKING:
    from fgvr.models.vlm import Vlm


def run(
    job: Job,
    model: str,
    adapter: str | None,
    image_root: str,
    device: str,
    settings: Training,
    *,
    required: Sequence[str],
    objective: Callable[[Vlm], Any],
) -> None:
    """Train `objective(vlm)` on the records of `job` and commit the adapter folder."""
    from fgvr.models.vlm import open_vlm
    from fgvr.training.adapters import prepare
    from fgvr.training.trainer import Recipe, save_adapter, train

    vlm = open_vlm(model, adapter, device, trainable=True, quantise=settings.quantise)
    prepare(vlm, settings)
    with job.run(models=[vlm.about]) as going:
        if going.complete:
            return
        records = list(going.checked(_readable(going.read(required=required), image_root)))
        if not records:
            raise FgvrError("no record to train on; give it some")
        recipe = Recipe(**{name: getattr(settings, name) for name in Recipe.__annotations__})
        train(vlm, records, objective(vlm), recipe, going.folder, _progress(), going.resumed)
        save_adapter(vlm, going.folder, going.record())
        going.written = len(records)
        if vlm.writer.cut:
            job.say(f"{len(vlm.writer.cut)} texts were longer than the model's context and were cut at a sentence")


def _readable(items: Iterator[Item], image_root: str) -> Iterator[Item]:
    """Find images that cannot be read now, one by one, and not in the middle of training."""
    from fgvr.images import open_image

    def look(record: dict[str, Any]) -> dict[str, Any]:
        open_image(image_root, record["image"])
        return record

    return each(items, look)


def _progress() -> Callable[[int, int], None]:
    """A bar on a terminal, else a plain line a minute."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar: list[Any] = []

        def advance(step: int, steps: int) -> None:
            if not bar:
                bar.append(tqdm(total=steps, initial=step - 1, unit=" steps", leave=False))
            bar[0].update(step - bar[0].n)

        return advance
    last = [time.monotonic()]

    def line(step: int, steps: int) -> None:
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            boundary.say(f"step {step} of {steps}")

    return line
