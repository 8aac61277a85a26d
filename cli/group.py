"""The group of all subcommands: a table of names and help; each is imported when it is used."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterable

import click

import fgvr
from fgvr.cli import boundary

COMMANDS = {
    "dataset": "Turn a data set on disk into image records.",
    "discover-attrs": "Ask a model which attributes tell categories apart.",
    "extract-attrs": "Ask a model every attribute question about each image.",
    "concept-attrs": "List required and likely attributes of each category.",
    "summarise": "Write each image's attributes as one description.",
    "mine-negatives": "Find the images most easily confused with each one.",
    "assemble": "Join a vision tower and a language model in LLaVA's architecture.",
    "align": "Stage I: align objects, descriptions and category names by contrast.",
    "questions": "Build open-set and multiple-choice questions.",
    "tune": "Stage II: instruction tuning on open-set and multiple-choice questions.",
    "merge": "Merge an adapter into its base: a model folder of its own.",
    "eval": "Answer questions with a model.",
    "score": "Turn predictions into metrics.",
    "study": "Compare models on several data sets, and with their own vision encoders.",
    "probe": "Fit a linear probe on a model's object features.",
    "report": "Show runs on one page: figures, confusion, errors, provenance.",
    "convert": "Turn records into other tools' training files, or back.",
    "provenance": "Print how a file was made, back to the images.",
}


class Formatter(click.HelpFormatter):
    """Help also for terminals that are narrower than the 50 columns which click takes to be the least."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        columns = shutil.get_terminal_size().columns - 2
        super().__init__(indent_increment, max(columns, 20) if width is None and columns < 50 else width, max_width)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl(rows, col_max if self.width >= 60 else self.width // 4, col_spacing)


click.Context.formatter_class = Formatter  # of every command, without a context class for each


class LazyGroup(click.Group):
    """A group that knows its subcommands' names and help, and imports one only to run it."""

    def __init__(self, name: str, table: dict[str, str], package: str, **attrs: object) -> None:
        super().__init__(name, no_args_is_help=False, **attrs)  # type: ignore[arg-type]  # passed through to click
        self.table, self.package = table, package

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        boundary.Shown.command = f"{ctx.command_path} {cmd_name}"
        return importlib.import_module(f"{self.package}.{cmd_name.replace('-', '_')}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands, in the order of a run"):
            formatter.write_dl(list(self.table.items()))


def _epilog() -> str:
    rows = "\n".join(f"  {status:>3}  {meaning}" for status, meaning in boundary.STATUSES.items())
    return f"\b\nExit status:\n{rows}"


@click.group("fgvr", cls=LazyGroup, table=COMMANDS, package="fgvr.cli", epilog=_epilog())
@click.version_option(fgvr.__version__, prog_name="fgvr", message="%(prog)s %(version)s")
def cli() -> None:
    """Fine-grained visual recognition with multimodal language models, as Unix stages over JSONL.

    Each command reads records from FILE or stdin and writes records to stdout or -o FILE. Errors go to stderr.

    \b
    Example:
      fgvr dataset folder --root photos --split train --superclass bird | head -3
    """
