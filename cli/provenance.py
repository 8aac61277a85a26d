"""`fgvr provenance`: how a file was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fgvr.cli.options import InputFolder, verbose

if TYPE_CHECKING:
    from fgvr.lineage import Node


@click.command("provenance")
@click.argument("target", metavar="X", type=click.Path())
@click.option("--search", multiple=True, type=InputFolder(), metavar="DIR", help="Also look for run records below DIR.")
@click.option("--images", type=InputFolder(), metavar="DIR", help="Also check the images, which lie below DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print the chain as one JSON object.")
@verbose
def command(target: str, search: tuple[str, ...], images: str | None, as_json: bool) -> None:
    """Print how a file was made, back to the images.

    X is a file or folder written with -o. Run records (X.run.json) are found by the SHA-256 of what they made, below
    the folder of X and below each --search folder. Status 1 when a file has changed since it was recorded.

    \b
    Example:
      fgvr provenance runs/toy/predictions.jsonl
    """
    from fgvr.errors import FgvrError
    from fgvr.lineage import CHANGED, trace

    chain = trace(Path(target), [Path(folder) for folder in search], Path(images) if images else None)
    if as_json:
        click.echo(json.dumps(chain.as_dict(), indent=1, ensure_ascii=False))
    else:
        for line in _tree(chain, set()):
            click.echo(line)
    changed = dict.fromkeys(node.name for node in chain.walk() if node.state == CHANGED)
    if changed:
        raise FgvrError(f"changed since the run: {', '.join(changed)}; make it again, or restore it")


def _tree(node: Node, shown: set[str], depth: int = 0) -> Iterator[str]:
    """Indented lines, the file first and what it was made from below it; what was shown already is only named."""
    pad = "    " * depth
    state = f"  ** {node.state} **" if node.state else ""
    again = "  (see above)" if node.sha256 in shown and node.run else ""
    yield f"{pad}{node.name}  sha256 {node.sha256[:12]}{state}{again}"
    if again:
        return
    shown.add(node.sha256)
    if node.run:
        given = ", ".join(f"{name} {_word(value)}" for name, value in node.run["settings"].items() if value is not None)
        yield f"{pad}  by fgvr {node.run['command']} {node.run['fgvr']}" + (f": {given}" if given else "")
        for model in node.run["models"]:
            yield f"{pad}  model " + ", ".join(f"{name} {_word(value)}" for name, value in model.items())
        yield f"{pad}  with " + ", ".join(f"{name} {number}" for name, number in node.run["versions"].items())
    for below in node.inputs:
        yield from _tree(below, shown, depth + 1)


def _word(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:12] if len(text) == 64 and " " not in text else text
