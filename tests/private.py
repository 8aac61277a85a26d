"""Two commands that need no model, run as `python tests/private.py NAME …`, to put the shared machinery under test.

`shout` works record by record with a side input and a folder; `pairs` needs the whole stream and makes ids of its own;
`train` writes a folder.
"""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass

EARLY = {signal.SIGINT, signal.SIGTERM}
if __name__ == "__main__":  # never in the process of the tests: whatever it starts would be deaf to them too
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY)  # until there is someone to take them, see `cli`

import click

from fgvr import rng, signals
from fgvr.cli.main import main
from fgvr.cli.options import InputFile, adapter, settings, stage_io
from fgvr.errors import RecordError
from fgvr.job import Job
from fgvr.settings import option
from fgvr.stream import Bad, bad, ordered


@dataclass(frozen=True)
class Shout:
    """Settings of the test command."""

    marks: int = option(1, "Exclamation marks.")
    batch_size: int = option(4, "Records at once.", how=True)
    pause_s: float = option(0.0, "Seconds of work a batch.", how=True)
    seed: int = option(0, "Seed.")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {self.batch_size}")


@click.group("fgvr", no_args_is_help=False)
def cli() -> None:
    """Commands under test."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY)


@cli.command("shout")
@stage_io
@click.option("--words", type=InputFile(), help="Side input.")
@adapter
@settings(Shout)
def shout(job: Job, words: str | None, adapter: str | None, settings: Shout) -> None:
    """Shout the category of each record."""
    extra = "".join(record["word"] for record in job.load(words, required=("word",))) if words else ""

    def work(records: list[dict]) -> list:
        time.sleep(settings.pause_s)
        results = []
        for record in records:
            if record["category"] == "memory":
                raise MemoryError
            if record["category"] == "crash":
                raise KeyError("a bug")
            if record["category"] == "mute":
                results.append(bad(record, "cannot shout; choose another"))
                continue
            if record["category"] == "alone":
                raise RecordError("cannot shout in company; leave it alone")
            draw = rng.for_record(settings.seed, record["id"], "draw").randrange(1000)
            results.append({**record, "shout": record["category"].upper() + extra + "!" * settings.marks, "draw": draw})
        return results

    with job.run(models=[{"spec": "none"}], prompts=["shout {}"]) as run:
        run.write(ordered(run.read(required=("category",)), settings.batch_size, work))


@cli.command("pairs")
@stage_io
@settings(Shout)
def pairs(job: Job, settings: Shout) -> None:
    """Two questions of each record, with the number of records."""

    def stage(items):
        everything = list(items)
        count = sum(not isinstance(item, Bad) for item in everything)
        for item in everything:
            if isinstance(item, Bad):
                yield item
                continue
            time.sleep(settings.pause_s)
            for kind in ("a", "b"):
                yield {"id": f"{item['id']}#{kind}", "of": count}

    with job.run(recompute=True) as run:
        run.write(stage(run.read()))


@cli.command("train")
@stage_io(to_folder=True)
@settings(Shout)
def train(job: Job, settings: Shout) -> None:
    """Add up the lengths of categories, a checkpoint a record."""
    with job.run() as run:
        if run.complete:
            return
        state = run.folder / "checkpoints" / "state"
        done, total = map(int, state.read_text().split()) if run.resumed and state.exists() else (0, 0)
        state.parent.mkdir(exist_ok=True)
        records = list(run.checked(run.read(required=("category",))))
        with signals.deferred() as request:
            for number, item in enumerate(records):
                if number < done:
                    continue
                time.sleep(settings.pause_s)
                total += len(item["category"])
                if request.stop:
                    state.write_text(f"{number + 1} {total}")
                    break
        (run.folder / "weights").write_text(str(total))


if __name__ == "__main__":
    sys.exit(main(group=cli))
