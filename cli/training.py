"""What `fgvr align` and `fgvr tune` share: read, open, train, write the adapter folder."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgvr.cli import boundary
from fgvr.errors import FgvrError, RecordError, UsageError
from fgvr.job import Job
from fgvr.records import image_of
from fgvr.stream import Bad, Item, bad
from fgvr.training.settings import Training

if TYPE_CHECKING:
    from fgvr.models.vlm import Vlm
    from fgvr.run import Run
    from fgvr.training.order import Grouping
    from fgvr.training.ranks import Ranks
    from fgvr.training.trainer import Recipe
    from fgvr.training.vision import Vision

Records = list[dict[str, Any]]
LOOKING, AHEAD = 4, 32  # threads that look at images before training, and the records they are ahead


def run(
    job: Job, model: str, adapter: str | None, image_root: str, device: str, settings: Training, *,
    required: Sequence[str],
    objective: Callable[[Vlm, Vision], Any],
    prepare: Callable[[Records], Records] = list,
    grouping: Callable[[Records], Grouping | None] = lambda records: None,
    extra: Any = None,
    fits: Callable[[Vision, dict[str, Any]], Any] = lambda sight, record: None,
) -> None:  # fmt: skip
    """Train `objective(vlm, vision)` on the records of `job` and commit the adapter folder.

    Args:
        prepare: changes the records before training, in each process.
        grouping: says which of the changed ones go together.
        extra: a module that is learnt beside the model.
        fits: raises RecordError for a record that cannot be learnt.
    """
    from fgvr.training.ranks import leave, start
    from fgvr.training.trainer import Recipe, save_adapter, train
    from fgvr.training.vision import Vision

    ranks, device = start(device, settings.shard_weights)
    if ranks.world > 1 and job.source == "-":
        raise UsageError("several processes cannot share stdin; name a FILE")
    vlm = _opened(model, adapter, device, settings, ranks)
    sight = Vision(vlm, image_root, settings.vision_cache)
    loss, recipe = objective(vlm, sight), Recipe(**{name: getattr(settings, name) for name in Recipe.__annotations__})
    if extra is not None:
        extra.to(vlm.device)
    if ranks.rank:
        return _follow(ranks, vlm, loss, recipe, extra, prepare, grouping)
    with job.run(models=[vlm.about]) as going:
        with _telling(ranks) as tell:
            if going.complete:
                return
            read = _read(going, required, image_root, lambda record: fits(sight, record))
            records = prepare(read)
            more = {"grouping": grouping(records), "reports": _reports(job, settings, going.resumed)}
            more |= {"ahead": sight.ahead} if ranks.world == 1 else {}  # of several, each needs a part of the images
            more |= {"ranks": ranks, "extra": extra, "tell": boundary.say}
            tell((read, going.folder, going.resumed))
        weights = train(vlm, records, loss, recipe, going.folder, _progress(), going.resumed, **more)
        save_adapter(vlm, going.folder, going.record(), weights)
        going.written = len(records)
        _say_cut(job, vlm)
        going.summary = {"temperature": float(extra())} if extra is not None else {}
    leave()


def _say_cut(job: Job, vlm: Vlm) -> None:
    if vlm.writer.cut:
        job.say(f"{len(vlm.writer.cut)} texts were longer than the model's context and were cut at a sentence")


def begin(model: str) -> None:
    """What is done before many imports: signals will end this command with a checkpoint and 75. Raises as `there`."""
    from fgvr import signals

    signals.retried()
    there(model)


def there(model: str) -> None:
    """Say at once, and not after many imports, that a model's folder is not there. Raises FgvrError."""
    from fgvr.models import split_spec

    split_spec(model, {"hf": ""}, "hf")


def _follow(
    ranks: Ranks, vlm: Vlm, loss: Any, recipe: Recipe, extra: Any, prepare: Callable[[Records], Records],
    grouping: Callable[[Records], Grouping | None],
) -> None:  # fmt: skip
    """Train as one of the other processes, on what the first one read."""
    from fgvr.training.ranks import leave
    from fgvr.training.trainer import train

    if (told := ranks.share(None)) is not None:
        read, folder, resumed = told
        records = prepare(read)
        more = {"ranks": ranks, "extra": extra, "grouping": grouping(records)}
        train(vlm, records, loss, recipe, folder, lambda *_: None, resumed, **more)
    leave()


def _opened(model: str, adapter: str | None, device: str, settings: Training, ranks: Ranks) -> Vlm:
    """The model with the adapter to train; one to be sharded, which may be too large for the device, in the CPU's
    memory."""
    from fgvr.models.loading import pick_device, pick_dtype
    from fgvr.models.vlm import open_vlm
    from fgvr.training.adapters import prepare

    if not ranks.sharded:
        vlm = open_vlm(model, adapter, device, trainable=True, quantise=settings.quantise)
    elif settings.quantise != "none" or "8bit" in settings.optimiser or "paged" in settings.optimiser:
        what = f"--quantise {settings.quantise}" if settings.quantise != "none" else f"--optimiser {settings.optimiser}"
        raise UsageError(f"{what} does not go with sharded weights; leave it out, or --shard-weights (--use_fsdp)")
    else:
        place = pick_device(device)
        vlm = open_vlm(model, adapter, "cpu", trainable=True, dtype=str(pick_dtype(place)).removeprefix("torch."))
        vlm.device = place  # where it goes when it is sharded
    prepare(vlm, settings)
    return vlm


def _read(going: Run, required: Sequence[str], image_root: str, fits: Callable[[dict[str, Any]], Any]) -> Records:
    records = list(going.checked(_readable(going.read(required=required), image_root, fits)))
    if not records:
        raise FgvrError("no record to train on; give it some")
    return records


@contextlib.contextmanager
def _telling(ranks: Ranks) -> Iterator[Callable[[Any], None]]:
    """Tell the other processes what to train on; that there is nothing, when it came to that."""
    told: list[Any] = []
    try:
        yield told.append
    finally:
        ranks.share(told[0] if told else None)


def _reports(job: Job, settings: Training, resumed: bool) -> Any:
    from fgvr.training.reports import Reports

    assert job.output is not None
    return Reports(Path(settings.logs or f"{job.output.rstrip('/')}.logs"), settings.report_to, resumed)


def _readable(items: Iterator[Item], image_root: str, fits: Callable[[dict[str, Any]], Any]) -> Iterator[Item]:
    """Find what cannot be learnt, and images that cannot be read, now and not in the middle of training.

    Each image is decoded once, in threads that are a few records ahead; the items come out in their order.
    """
    waiting: deque[tuple[Item, str | None]] = deque()
    begun: dict[str, Future[str | None]] = {}
    faults: dict[str, str | None] = {}  # of the images that were looked at
    pool = ThreadPoolExecutor(LOOKING)

    def first() -> Item:
        item, image = waiting.popleft()
        if isinstance(item, Bad) or image is None:
            return item
        if image in begun:
            faults[image] = begun.pop(image).result()
        fault = faults[image]
        return item if fault is None else bad(item, fault)

    try:
        for item in items:
            item, image = _fitting(item, fits)
            if image is not None and image not in faults and image not in begun:
                begun[image] = pool.submit(_fault, image_root, image)
            waiting.append((item, image))
            if len(waiting) > AHEAD:
                yield first()
        while waiting:
            yield first()
    finally:  # also when nobody takes the rest
        pool.shutdown(wait=False, cancel_futures=True)


def _fitting(item: Item, fits: Callable[[dict[str, Any]], Any]) -> tuple[Item, str | None]:
    """A record that can be learnt, as far as can be said without its image, and the image's path, if it has one."""
    if isinstance(item, Bad):
        return item, None
    try:
        fits(item)
        return item, image_of(item)
    except RecordError as error:
        return bad(item, error), None


def _fault(image_root: str, image: str) -> str | None:
    """What is wrong with an image."""
    from fgvr.images import open_image

    try:
        open_image(image_root, image)
    except RecordError as error:
        return str(error)
    return None


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
