"""What `fgvr score` does with files: other runs, and the forms that a run is written in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fgvr.cli.options import FileWith, InputFile
from fgvr.job import Job
from fgvr.records import Record
from fgvr.run import Run
from fgvr.settings import Score, listed

if TYPE_CHECKING:
    from fgvr.analysis.writing import Writer
    from fgvr.stages.score import Scored


NAMED = FileWith("NAME=FILE", "(?P<NAME>[^=]+)=(?P<FILE>.+)")
TABLE_OF = FileWith("FILE:TABLE", "(?P<FILE>.+):(?P<TABLE>[^:]+)")


@dataclass
class Paper:
    """A table of --published, and the column of --data-set in it; the text of --beside, first its file."""

    table: tuple[str, str] | None
    column: str
    beside: str
    parts: list[Record] = field(default_factory=list)

    def load(self, job: Job, settings: Score) -> None:
        """Read the parts of the table and --beside. Raises FgvrError where the file has none of that number."""
        from fgvr.analysis.published import FIELDS
        from fgvr.errors import FgvrError, UsageError

        if self.beside and settings.columns is None:
            raise UsageError("--beside stands beside --columns; add --columns")
        self.beside = self.beside and job.text(self.beside)
        if self.table is None:
            return
        path, number = self.table
        job.settings["published_table"] = number
        found = job.load(path, required=FIELDS)
        self.parts = [record for record in found if str(record["table"]) == number]
        if not self.parts:
            there = ", ".join(dict.fromkeys(str(record["table"]) for record in found))
            raise FgvrError(f"{path}: no table {number!r}; there are {there}")


def in_a_paper(fn: Callable[..., Any]) -> Callable[..., Any]:
    """--published, --data-set and --beside, which the command gets as `paper`."""

    @click.option("--published", type=TABLE_OF, metavar="FILE:TABLE", help="A paper's table with these figures in it.")
    @click.option("--data-set", default="this data set", metavar="NAME", help="Their column in --published.")
    @click.option("--beside", type=InputFile(), metavar="FILE", help="CSV by run, as further columns after --columns.")
    @functools.wraps(fn)
    def command(published: tuple[str, str] | None, data_set: str, beside: str | None, **given: Any) -> Any:
        return fn(paper=Paper(published, data_set, beside or ""), **given)

    return command


def run_names(name: str | None, source: str | None, versus: str | None) -> tuple[str, str]:
    """What the input and the run of --versus are called: by their files, or by their folders where those are equal."""
    piped = source in (None, "-")
    own, other = name or ("input" if piped else stem(str(source))), stem(versus or "")
    if own == other and not piped:
        own, other = name or Path(str(source)).absolute().parent.name, Path(versus or "").absolute().parent.name
    return own, other if own != other else str(versus)


def stem(path: str) -> str:
    """What a run is called after its file: predictions.jsonl.gz -> predictions."""
    return Path(path).name.partition(".")[0]


def load(job: Job, others: list[tuple[str, str]], settings: Score) -> dict[str, Scored]:
    """The other runs by name; files of one name are one run. Raises FgvrError for their first faulty record."""
    from fgvr.analysis.formats import read
    from fgvr.errors import FgvrError
    from fgvr.stages.score import Scored

    runs: dict[str, Scored] = {}
    for name, path in others:
        file = job.attach(path)
        file.known_digest()  # now: once it is being read, only its end knows
        for fault in runs.setdefault(name, Scored(settings.by)).take(read(file, None, settings.parser, job.say)):
            raise FgvrError(str(fault) if path in fault.where else f"{path}: {fault}")
        file.digest()
    return runs


def write(run: Run, writer: Writer, name: str, figures: list[Record], settings: Score, paper: Paper) -> None:
    """Write the figures as records, as a table, in a paper's table, or in another tool's form."""
    from fgvr.analysis.published import in_table

    if writer.form != "fgvr":
        writer.end(name, figures)
        if writer.left_out:
            run.job.say(f"{writer.left_out} predictions left out: {writer.form} holds choices only")
    elif paper.parts:
        writer.write(in_table(paper.parts, figures, paper.column).encode())
    elif settings.table:
        writer.write(shown(figures, settings, paper.beside, str(run.job.output).endswith(".md")).encode())
    else:
        run.write(figures)


def shown(figures: list[Record], settings: Score, beside: str, in_markdown: bool) -> str:
    """The figures as a table for people."""
    from fgvr.analysis.table import table
    from fgvr.report import tables

    if settings.columns is None and not in_markdown:
        return "".join(f"{line}\n" for line in table(figures))
    made = tables.figures("figures", "", figures)
    if settings.columns is not None:
        made = tables.by_run(made, listed(settings.columns), beside)
    return tables.markdown(made) if in_markdown else tables.plain(made)
