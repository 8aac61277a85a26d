"""The console script. Nothing but the boundary is imported before it watches for signals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fgvr.cli import boundary

if TYPE_CHECKING:
    import click


def main(args: Sequence[str] | None = None, group: click.Group | None = None) -> int:
    """Run a command line (default: this process's) and return the exit status.

    Args:
        group: another set of commands than fgvr's own.
    """

    def invoke() -> None:
        from fgvr.cli.group import cli

        # not cli.main(): click turns a broken pipe into status 1 there
        chosen = group or cli
        with chosen.make_context("fgvr", list(sys.argv[1:] if args is None else args)) as ctx:
            chosen.invoke(ctx)

    return boundary.run(invoke)
