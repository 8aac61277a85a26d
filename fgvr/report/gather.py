"""What a report is made from: predictions of each run, and what lies beside them in a run folder.

A run folder is what `make all` leaves; a file of predictions, also of another tool, is enough for a report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgvr import stream
from fgvr.analysis.formats import read
from fgvr.errors import FgvrError
from fgvr.lineage import Node, trace
from fgvr.records import Record
from fgvr.source import Source
from fgvr.stages.score import Scored
from fgvr.stream import Bad, Item

KEPT = (
    "id", "image", "kind", "question", "options", "answer", "category", "superclass", "labels", "raw", "prediction",
    "correct", "attributes_true",
)  # fmt: skip
STAGES = ("align", "tune")
DESCRIBED = ("triples.jsonl", "extracted.jsonl", "train.jsonl")  # the first that is there


@dataclass
class Run:
    """One run: the files it was read from, its predictions (no more than KEPT of each), and all to be scored."""

    name: str
    files: list[str] = field(default_factory=list)
    predictions: list[Record] = field(default_factory=list)
    scored: Scored = field(default_factory=Scored)
    root: Path | None = None  # of the images


@dataclass
class Material:
    """All that a report is made from."""

    runs: dict[str, Run] = field(default_factory=dict)
    described: dict[str, list[Record]] = field(default_factory=dict)  # folder -> extractions or triples
    known: list[tuple[Record, Path | None]] = field(default_factory=list)  # training images and their root
    curves: dict[str, list[Record]] = field(default_factory=dict)  # "toy: align" -> steps
    points: dict[str, tuple[list[Record], Path | None]] = field(default_factory=dict)  # map -> places, images' root
    origins: list[Node] = field(default_factory=list)

    def add_map(self, name: str, source: Source) -> None:
        """A map of --map, whose images are those of the first run that has some. Raises FgvrError: it is none."""
        roots = (run.root for run in self.runs.values() if run.root)
        self.points[name if Path(name).stem in self.points else Path(name).stem] = places(source), next(roots, None)


def runs_of(named: Sequence[tuple[str | None, str]]) -> list[tuple[str, Path, Path | None]]:
    """(run, file, folder it is a part of) of each RUN operand: a file, or a folder with predictions*.jsonl.

    Raises:
        FgvrError: a folder holds no predictions, or two operands would be one run by accident.
    """
    folders = [path for _, path in named if Path(path).is_dir()]
    found: list[tuple[str, Path, Path | None]] = []
    unnamed: dict[str, Path] = {}
    for given, path in named:
        place = Path(path)
        own = given or (place.resolve().name if place.is_dir() else place.name.partition(".")[0])
        if given is None and unnamed.setdefault(own, place) is not place:
            raise FgvrError(f"{unnamed[own]} and {place} are both called {own!r}; name them: NAME={place}")
        if not place.is_dir():
            found.append((own, place, None))
            continue
        files = sorted(place.glob("predictions*.jsonl"), reverse=True)
        if not files:
            raise FgvrError(f"{path}: no predictions*.jsonl in it; name a folder of `make all`, or a file")
        for file in sorted(files, key=lambda file: file.stem == "predictions"):
            when = file.stem.removeprefix("predictions").strip("-_") or "after"
            name = own if len(files) == 1 else when if len(folders) == 1 and given is None else f"{own} {when}"
            found.append((name, file, place))
            probed = place / file.name.replace("predictions", "probe", 1)
            if probed.exists():
                found.append((name, probed, place))
    return found


def beside(folder: Path) -> dict[str, Path]:
    """What else a run folder holds that a report uses: "align" -> its log, "map tsne", and "images", the records."""
    found = {stage: folder / stage / "log.jsonl" for stage in STAGES if (folder / stage / "log.jsonl").exists()}
    found |= {f"map {file.stem}": file for file in sorted(folder.glob("map*.jsonl"))}
    records = [folder / file for file in DESCRIBED if (folder / file).exists()]
    return found | ({"images": records[0]} if records else {})


def load(
    found: Sequence[tuple[str, Path, Path | None]], sources: Mapping[Path, Source],
    checked: Callable[[Iterable[Item]], Iterable[Record]], root: Path | None, parser: str | None,
    say: Callable[[str], None],
) -> Material:  # fmt: skip
    """Read it all.

    Args:
        found: what `runs_of` gave. sources: the files of it and of `beside`, opened.
        checked: applies --on-error to items.
        root: folder of the images; None: `images` in a run's folder. parser: see formats.read.
    Raises:
        FgvrError: there are no predictions, or a file beside them is faulty.
    """
    material = Material()
    for name, file, folder in found:
        run = material.runs.setdefault(name, Run(name))
        run.files.append(str(file))
        run.root = _root(folder, root) or run.root
        faulty: set[str] = set()
        for fault in run.scored.take(_passing(read(sources[file], None, parser, say), run)):
            list(checked([fault]))
            if fault.where == (fault.record or {}).get("id"):  # a fault of its fields, not of its line: it was kept
                faulty.add(fault.where)
        run.predictions = [record for record in run.predictions if record["id"] not in faulty]
        material.origins.append(_origin(file, sources[file]))
    folders = [*dict.fromkeys(folder for _, _, folder in found if folder)]
    names = [folder.resolve().name for folder in folders]
    for folder, last in zip(folders, names, strict=True):
        name = last if names.count(last) == 1 else str(folder)
        for what, path in beside(folder).items():
            if what.startswith("map "):
                material.points[f"{name}: {what.removeprefix('map ')}"] = places(sources[path]), _root(folder, root)
                continue
            records = lines(sources[path])
            if what in STAGES:
                material.curves[f"{name}: {what}"] = records
            else:
                material.known += [(record, _root(folder, root)) for record in records]
                material.described[name] = records
    if not any(run.predictions for run in material.runs.values()):
        raise FgvrError("there are no predictions; run `fgvr eval` first")
    return material


def _root(folder: Path | None, root: Path | None) -> Path | None:
    inside = folder / "images" if folder is not None else None
    return root or (inside if inside is not None and inside.is_dir() else None)


def _passing(items: Iterator[Item], run: Run) -> Iterator[Item]:
    for item in items:
        if not isinstance(item, Bad) and "prediction" in item and "metric" not in item:
            run.predictions.append({n: _shown(n, item[n]) for n in KEPT if item.get(n) is not None})
        yield item


def _shown(name: str, value: Any) -> Any:
    """A field of a prediction as a page can show it; other tools write what they like where score does not look."""
    if name in ("id", "image", "kind", "question", "raw"):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [str(text) for text in value] if name == "options" and isinstance(value, list) else value


def places(source: Source) -> list[Record]:
    """The points of a map. Raises FgvrError for the first line that is none."""
    found = lines(source)
    for number, record in enumerate(found, 1):
        if any(type(record.get(axis)) not in (int, float) for axis in "xy"):
            raise FgvrError(f"{source.label}: record {number} has no place (x, y); name a file of `fgvr probe --map`")
    return found


def lines(source: Source) -> list[Record]:
    """The records of a file. Raises FgvrError for its first bad line."""
    found = []
    for item in stream.read(source, unique=False):
        if isinstance(item, Bad):
            raise FgvrError(str(item))
        found.append(item)
    return found


def _origin(file: Path, source: Source) -> Node:
    """How a file was made; of one without a run record only its hash."""
    try:
        return trace(file)
    except FgvrError:
        return Node(file.name, source.digest(), "no run record: evaluated elsewhere", file)
