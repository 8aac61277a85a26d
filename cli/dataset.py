"""`fgvr dataset`: data sets on disk to image records. Its subcommands are in dataset_*.py."""

from __future__ import annotations

import click

from fgvr.cli import dataset_check, dataset_generic
from fgvr.cli.dataset_published import published
from fgvr.datasets import DATASETS

FLAGS = ("--list", "--check")  # may stand where the name of a data set does


class Names(click.Group):
    """Data sets by name; `--list` and `--check A B` are commands, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flag = next((word for word in args if word in FLAGS), None)
        if flag and args[0].startswith("-"):
            args = [flag.lstrip("-"), *(word for word in args if word != flag)]
        return super().parse_args(ctx, args)


@click.group("dataset", cls=Names, no_args_is_help=False)
@click.option("--list", "list_", is_flag=True, help="As the command `list`: published data sets, where to get them.")
@click.option("--check", is_flag=True, help="As the command `check`: find what files of image records share.")
def command(list_: bool, check: bool) -> None:
    """Turn a data set on disk into image records.

    \b
    Examples:
      fgvr dataset cub --root /data/CUB_200_2011 --split test > test.jsonl
      fgvr dataset --check --image-root /data train.jsonl test.jsonl
    """


for _name in DATASETS:
    command.add_command(published(_name))
for _command in (*dataset_generic.COMMANDS, *dataset_check.COMMANDS):
    command.add_command(_command)
