"""docs/reference.md: the help of every command, as printed. `python -m tests.reference` writes it; a test compares."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# the published data sets are read alike: one stands for all
SETS = ("cub", "toy", "folder", "table", "hf", "check", "list")
FILE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"


def page() -> str:
    from click.testing import CliRunner

    from fgvr.cli.group import COMMANDS, cli

    names = [[], *([name] for name in COMMANDS)]
    at = names.index(["dataset"])
    names[at + 1 : at + 1] = [["dataset", name] for name in SETS]
    parts = ["# Reference\n\nThe help of every command, as it prints it. Made by `make docs`.\n"]
    for name in names:
        result = CliRunner().invoke(cli, [*name, "--help"], prog_name="fgvr", terminal_width=100)
        assert result.exit_code == 0, result.output
        parts.append(f"## {' '.join(['fgvr', *name])}\n\n```\n{result.output.rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"
    FILE.write_text(page(), encoding="utf-8")
    sys.exit(0)
