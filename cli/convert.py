"""`fgvr convert`: to and from other tools' files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from fgvr.cli.options import InputFile, stage_io
from fgvr.job import Job

if TYPE_CHECKING:
    from fgvr.source import Source
    from fgvr.stream import Item

FOREIGN = ("pretrain-csv", "finetune-csv", "llava", "sharegpt", "trl")


@click.command("convert")
@stage_io
@click.option("--to", type=click.Choice(FOREIGN), help="What to write.  [default: records]")
@click.option(
    "--from", "from_", type=click.Choice((*FOREIGN, "finer-pairs", "finer-replies")),
    help="What to read.  [default: records]",
)  # fmt: skip
@click.option("--attrs", type=InputFile(), metavar="FILE", help="finer-pairs: the attributes, FineR's list or records.")
@click.option("--superclass", default="object", show_default=True, help="finer-pairs: what the images show.")
def command(job: Job, to: str | None, from_: str | None, attrs: str | None, superclass: str) -> None:
    """Turn records into other tools' training files, or back.

    --to writes Finedefics' pretrain.csv (mined triples) and finetune.csv (questions), or conversations from triples
    and questions: LLaVA's, ShareGPT's (LLaMA-Factory, ms-swift) and TRL's, a JSON object a line. --from reads these,
    and FineR's published attribute answers and replies; what neither names nor shows an image is a record without one
    (`modality` "text"). Streams, but for CSV and JSON arrays, which are held in memory.

    \b
    Examples:
      fgvr convert --to finetune-csv -o finetune.csv questions.jsonl
      fgvr convert --from finer-pairs --attrs vqa_questions.txt --superclass flower attributes_pairs_1.json
    """
    from fgvr.errors import UsageError
    from fgvr.output import AtomicFolder
    from fgvr.stages import convert
    from fgvr.stream import each

    if to is None and from_ is None:
        raise UsageError("nothing to convert; give --to or --from")
    if (from_ == "finer-pairs") != (attrs is not None):
        raise UsageError("--from finer-pairs and --attrs FILE go together")
    names = convert.attribute_names(job.text(attrs)) if attrs is not None else []
    with job.run(recompute=True) as run:
        if run.complete or run.source is None:
            return
        items = run.read()
        if from_ is not None:
            items = _counted(convert.read(run.source.lines(), from_, run.source.label, names, superclass), run.source)
        made = each(items, convert.WRITERS[to]) if to is not None else items
        if to is None or not to.endswith("-csv"):
            run.write(made)
            return
        assert not isinstance(run.target, AtomicFolder)
        rows = list(run.checked(made))
        run.target.write(convert.as_csv(rows))
        run.written = len(rows)


def _counted(items: Iterator[Item], source: Source) -> Iterator[Item]:
    """Count the records of another tool's file, whose lines are not one each."""
    for item in items:
        source.records = (source.records or 0) + 1
        yield item
