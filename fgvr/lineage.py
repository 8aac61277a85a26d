"""Following the hashes of run records back: from a file to what it was made from, down to the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgvr import stream
from fgvr.errors import FgvrError
from fgvr.provenance import SUFFIX, RunRecord, digest_of, load, sha256_tree, sidecar

CHANGED, UNKNOWN, GONE = "changed since", "origin not found", "no longer there"
PIPED = "came through a pipe and was kept nowhere: write it with -o, and read that"


@dataclass
class Node:
    """One file or folder in a chain of runs.

    Args:
        name: what it is called where it was found, else as the run that read it recorded.
        sha256: as recorded.
        state: "" when all is well, else one of the words above.
        path: where it was found.
        run: the run record that made it.
        inputs: what it was made from.
    """

    name: str
    sha256: str
    state: str = ""
    path: Path | None = None
    run: RunRecord | None = None
    inputs: list[Node] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; paths of this machine stay out."""
        out: dict[str, Any] = {"name": self.name, "sha256": self.sha256, "state": self.state or "ok", "run": self.run}
        return {**out, "inputs": [node.as_dict() for node in self.inputs]}

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for node in self.inputs:
            yield from node.walk()


class _Chain:
    """What is known while the chain is followed."""

    def __init__(self, folders: Iterable[Path], images: Path | None) -> None:
        self.images = images
        self.made: dict[str, Path] = {}  # digest of an output -> its run record; the first found wins
        self._digests: dict[Path, str] = {}
        for folder in folders:
            for path in sorted(folder.rglob(f"*{SUFFIX}")):
                record = None if path.name.endswith(f".partial{SUFFIX}") else load(path)
                digest = (record or {}).get("output", {}).get("sha256")
                if digest:
                    self.made.setdefault(digest, path)

    def digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = digest_of(path)
        return self._digests[path]

    def follow(self, node: Node, above: tuple[str, ...]) -> Node:
        """Fill in what the node was made from."""
        run = node.run or {}
        beside = node.path.parent if node.path else None
        for entry in run.get("inputs", []):
            node.inputs.append(self._origin(entry, beside, (*above, node.sha256)))
        if "images" in run:
            node.inputs.append(self._images(run["images"], node.path))
        return node

    def _origin(self, entry: dict[str, Any], beside: Path | None, above: tuple[str, ...]) -> Node:
        node = Node(entry["name"], entry["sha256"])
        made = self.made.get(node.sha256)
        if made is None or node.sha256 in above:
            there = beside / entry["name"] if beside else None
            changed = there is not None and there.exists() and self.digest(there) != node.sha256
            node.state = CHANGED if changed else PIPED if entry["name"] == "<stdin>" else UNKNOWN
            return node
        node.run = load(made)
        node.path = made.with_name(made.name[: -len(SUFFIX)])
        node.name = node.path.name
        if not node.path.exists():
            node.state = GONE
        elif self.digest(node.path) != node.sha256:
            node.state = CHANGED
        return self.follow(node, above)

    def _images(self, entry: dict[str, Any], records: Path | None) -> Node:
        node = Node(f"{entry['root']}/ ({entry['files']} images)", entry["sha256"])
        if self.images is None or records is None or not records.exists():
            return node
        paths = [item["image"] for item in stream.read(str(records), required=("image",)) if isinstance(item, dict)]
        try:
            node.state = "" if sha256_tree(self.images, paths)[0] == entry["sha256"] else CHANGED
        except FgvrError:
            node.state = GONE
        return node


def trace(path: Path, search: Iterable[Path] = (), images: Path | None = None) -> Node:
    """The chain of runs behind a file or folder, down to the images.

    Args:
        path: the file, the folder, or its run record.
        search: folders, besides the file's own, below which run records are looked for.
        images: the folder below which the first records' images lie; they are hashed again when it is given.
    Raises:
        FgvrError: the file does not exist or has no run record.
    """
    if path.name.endswith(SUFFIX):
        path = path.with_name(path.name[: -len(SUFFIX)])
    if not path.exists():
        raise FgvrError(f"{path}: no such file; check the path")
    chain = _Chain([path.resolve().parent, *search], images)
    record = load(sidecar(path)) or load(chain.made.get(chain.digest(path), path))
    if record is None:
        raise FgvrError(f"{path}: no run record {sidecar(path).name}; was it written with -o?")
    recorded = record.get("output", {}).get("sha256")
    node = Node(path.resolve().name, recorded, "" if recorded == chain.digest(path) else CHANGED, path, record)
    return chain.follow(node, ())
