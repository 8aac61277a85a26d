"""The page: tables as HTML, charts' data as JSON, style, script and plotting library in one file."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import fgvr
from fgvr.lineage import Node
from fgvr.records import Record
from fgvr.report import sections
from fgvr.report.gallery import gallery
from fgvr.report.gather import Material
from fgvr.report.pictures import Pictures
from fgvr.report.tables import Cell, Table, word

CONFUSION = "Rows are right categories, columns what was given. Drag to zoom, double-click to go back."
MAP = "Each point an image, a name or a description; hover for its image."
FILES = "Every file that a number above comes from, back to the images."
POINTS = 6000  # of a map
MAP_SIDE = 72  # pixels of a map's thumbnails
ESCAPED = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


@dataclass
class Section:
    """A part of the page: its tables, and a chart where there is data for it."""

    key: str
    title: str
    lead: str = ""
    chart: str = ""  # what a chart shows, in words
    tables: list[Table] = field(default_factory=list)


@dataclass
class Report:
    """What the page shows. `data` is for its charts and its gallery."""

    title: str
    runs: list[str]
    facts: list[tuple[str, str]]
    sections: list[Section]
    data: dict[str, Any]
    nodes: list[Node]

    @property
    def tables(self) -> list[Table]:
        return [table for section in self.sections for table in section.tables]


def build(material: Material, title: str, most: int, side: int, say: Callable[[str], None]) -> Report:
    """Everything of a report.

    Args:
        most: errors shown of each run and kind. side: pixels of a thumbnail's longer side.
        say: told how many images are missing.
    """
    known = sections.Categories(material)
    scored, metrics = sections.summary(material, say)
    groups = sections.by_category(material, known)
    pairs, cells = sections.confusion(material, known)
    steps, curves = sections.curves(material)
    pictures, small = Pictures(side), Pictures(MAP_SIDE, 60)
    errors = gallery(material, known, most, pictures)
    points = _points(material, small)
    _tell(pictures, small, say)
    probes, firsts = ([table for table in scored if (table.key == "probe") == wanted] for wanted in (True, False))
    of_categories = [s for s in sections.sorted_shares(groups) if len(s["points"]) > 5]
    parts = [
        Section("summary", "Summary", "", "Accuracy of each run with its 95 % interval", firsts),
        Section("categories", "By category", "", "Accuracy of every category, rising" * bool(of_categories), groups),
        Section("confusion", "Confusion", CONFUSION, "Confusion matrix" * bool(cells), [pairs] if pairs else []),
        Section("errors", "Errors", _of(errors)),
        Section("map", "Map", MAP, "Embedding map" * bool(points)),
        Section("probe", "Probes and alignment", "", "", probes),
        Section("training", "Training", "", "Training curves" * bool(curves), steps),
        Section("attributes", "Attributes", "", "", sections.described(material)),
        Section("provenance", "Provenance", FILES, "", [_provenance(material.origins)]),
    ]  # fmt: skip
    data = {
        "runs": list(material.runs), "categories": [known.names[key] for key in known.ordered],
        "groups": [known.coarse.get(key, "") for key in known.ordered], "confusion": cells, "curves": curves,
        "sorted": of_categories, "errors": errors, "images": pictures.uris, "map": points, "mapImages": small.uris,
        "accuracy": [_bar(record) for record in metrics if record["metric"] in ("accuracy", "exact match")],
    }  # fmt: skip
    parts = [part for part in parts if part.tables or part.chart or (part.key == "errors" and errors["items"])]
    return Report(title, list(material.runs), _facts(material, known, pictures), parts, data, material.origins)


def html(report: Report) -> str:
    """The page. Without plotly it has tables and gallery only."""
    import jinja2

    files = resources.files("fgvr.report")
    style, script, template = ((files / f"page.{kind}").read_text("utf-8") for kind in ("css", "js", "html"))
    env = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    env.filters["word"] = word
    # nothing inside a script element may look like its end
    data = json.dumps(report.data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPED)
    raw = {name: jinja2.filters.Markup(text) for name, text in
           (("style", style), ("script", script), ("data", data), ("library", plotly()))}  # fmt: skip
    runs = [(node, _details(node)) for node in _walk(report.nodes)]
    return env.from_string(template).render(report=report, version=fgvr.__version__, nodes=runs, **raw)


def plotly() -> str:
    """The plotting library's script; "" when it is not installed."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        return ""
    # beside the module, whose own import would take a second
    file = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    return file.read_text("utf-8").replace("</script", "<\\/script")


def _of(errors: dict[str, Any]) -> str:
    shown = len(errors["items"])
    every = "All" if shown == errors["total"] else f"{shown:,} of {errors['total']:,}"
    return f"{every} wrong answers, frequent confusions first. Beside each: images of the category given."


def _facts(material: Material, known: sections.Categories, pictures: Pictures) -> list[tuple[str, str]]:
    predictions = sum(len(run.predictions) for run in material.runs.values())
    runs = len(material.runs)
    facts = [("run" if runs == 1 else "runs", runs), ("predictions", predictions), ("categories", len(known.names))]
    facts += [("images missing", len(pictures.missing))] if pictures.missing else []
    return [(name, f"{count:,}") for name, count in facts]


def _bar(record: Record) -> dict[str, Any]:
    return {name: record.get(name) for name in ("run", "kind", "metric", "value", "low", "high", "n")}


def _tell(pictures: Pictures, small: Pictures, say: Callable[[str], None]) -> None:
    missing = pictures.missing | small.missing
    if missing:
        first = next(iter(missing.values()))
        say(f"{len(missing)} images are missing, a placeholder stands for each (the first: {first})")


def _points(material: Material, pictures: Pictures) -> list[dict[str, Any]]:
    """Maps: each kind of point as one trace; of more than POINTS points every n-th."""
    charts = []
    for name, (records, root) in material.points.items():
        every = -(-len(records) // POINTS)
        chosen = [r for n, r in enumerate(records) if n % every == 0 or r.get("of") == "names"]
        traces = []
        for kind in dict.fromkeys(str(record.get("of", "objects")) for record in chosen):
            mine = [record for record in chosen if str(record.get("of", "objects")) == kind]
            traces.append({
                "of": kind, "x": [round(r["x"], 4) for r in mine], "y": [round(r["y"], 4) for r in mine],
                "category": [word(r.get("category", "")) for r in mine],
                "image": [pictures(root, r.get("image")) for r in mine],
            })  # fmt: skip
        charts.append({"name": name, "method": records[0].get("method", "") if records else "", "traces": traces})
    return charts


# --- provenance -------------------------------------------------------------------------------------------------------


def _walk(nodes: Sequence[Node]) -> list[Node]:
    """Every file of the chains once."""
    return list({node.sha256 or node.name: node for top in nodes for node in top.walk()}.values())


def _provenance(nodes: Sequence[Node]) -> Table:
    rows: list[list[Cell]] = []
    for node in _walk(nodes):
        run = node.run or {}
        models = ", ".join(f"{m.get('name', m.get('spec', ''))} {_short(m)}".strip() for m in run.get("models", []))
        seed = run.get("seed")
        made = f"fgvr {run['command']} {run['fgvr']} {node.state}".strip() if run else node.state or "data"
        rows.append([
            node.name, (node.sha256 or "")[:12], made, models, "" if seed is None else str(seed),
            run.get("prompt_sha256", "")[:12],
            ", ".join(f"{name} {number}" for name, number in run.get("versions", {}).items() if name in SHOWN),
        ])  # fmt: skip
    columns = ["file", "SHA-256", "made by", "model", "seed", "prompts", "versions"]
    return Table("provenance", "Files", columns, rows, note="Hashes by their first twelve digits.")


SHOWN = ("python", "torch", "transformers", "peft")


def _short(model: dict[str, Any]) -> str:
    return str(model.get("sha256") or model.get("revision") or "")[:12]


def _details(node: Node) -> str:
    return json.dumps(node.run, indent=1, ensure_ascii=False) if node.run else ""
