"""A report's figures as .png and .svg, for a paper: confusion matrices, answers that changed, errors beside examples.

They are Finedefics' Figures 5, 6 and 7; Figures 2 and 4, maps, are `fgvr probe --map`'s.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgvr.errors import FgvrError, reason
from fgvr.records import Record
from fgvr.report.gather import Material
from fgvr.report.sections import NONE, OTHER
from fgvr.report.tables import unused

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 60  # categories that a matrix has room to name
ANSWERS, ERRORS, DIFFERENCES = 6, 4, 4  # shown: answers that changed, errors, attributes that differ
RIGHT, WRONG = "#1a7f37", "#c62828"
FORMS = (".png", ".svg")
# equal runs, equal bytes; a $ in a name is a dollar
STYLE: Any = {"svg.hashsalt": "fgvr", "font.size": 8, "figure.dpi": 150, "text.parse_math": False}


def save(data: Record, material: Material, folder: Path) -> list[str]:
    """Draw what there is data for.

    Args:
        data: of the page (fgvr.report.page).
    Returns:
        the names of the figures: confusion-KIND-RUN, changed-KIND, errors-KIND.
    Raises:
        FgvrError: matplotlib is not installed, or the folder cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        raise FgvrError("no matplotlib to draw figures; run `pip install 'fgvr[plots]'`") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    made: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with pyplot.rc_context(STYLE):
            for wanted, figure in _all(data, material):
                name = unused(wanted, made)
                for form in FORMS:
                    about = {"Date": None} if form == ".svg" else {"Software": None}
                    figure.savefig(folder / f"{name}{form}", metadata=about)
                pyplot.close(figure)
                made.append(name)
    except OSError as error:
        raise FgvrError(f"cannot write --figures {folder}: {reason(error)}; name another folder") from error
    return made


def _all(data: Record, material: Material) -> Iterator[tuple[str, Any]]:
    for chart in data["confusion"]:
        yield f"confusion-{chart['kind']}-{chart['run']}", _confusion(chart, data["categories"], data["groups"])
    *others, last = material.runs
    right = {record["id"] for record in material.runs[last].predictions if record.get("correct")}
    items = [item for item in data["errors"]["items"] if item["image"] is not None]
    for kind in dict.fromkeys(item["kind"] for item in items):
        mine = [item for item in items if item["kind"] == kind]
        changed = [item for item in mine if item["run"] in others[:1] and item["id"] in right]
        if changed:
            yield f"changed-{kind}", _changed(changed[:ANSWERS], last, data["images"])
        if wrong := [item for item in mine if item["run"] == last]:
            yield f"errors-{kind}", _errors(wrong[:ERRORS], data)


def _confusion(chart: Record, categories: Sequence[str], groups: Sequence[str]) -> Any:
    """Rows are right categories in percent of their questions, columns what was given; where there is no room for the
    names of categories, those of their larger groups."""
    import numpy as np
    from matplotlib import pyplot

    cells = np.array(chart["cells"]).reshape(-1, 3)
    matrix = np.zeros((len(categories), len(categories) + 2))
    matrix[cells[:, 0], cells[:, 1]] = cells[:, 2]
    matrix = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    columns = [*categories, OTHER, NONE]
    used = [i for i in range(len(columns)) if i < len(categories) or matrix[:, i].any()]
    side = min(12.0, max(4.0, 0.17 * len(used) + 2))
    figure, axes = pyplot.subplots(figsize=(side + 0.8, side), layout="constrained")
    image = axes.imshow(matrix[:, used], cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the category's questions")
    if len(categories) <= NAMED:
        axes.set_xticks(range(len(used)), [columns[i] for i in used], rotation=90, fontsize=6)
        axes.set_yticks(range(len(categories)), list(categories), fontsize=6)
    else:
        middles = _middles(groups, len(categories) // NAMED + 1)
        axes.set_xticks([*middles], [*middles.values()], rotation=90, fontsize=6)
        axes.set_yticks([*middles], [*middles.values()], fontsize=6)
    axes.set(xlabel="given", ylabel="right", title=f"{chart['run']}, {chart['kind']}")
    return figure


def _middles(groups: Sequence[str], least: int) -> dict[float, str]:
    """Where the middle of each group lies that has so many categories or more, and its name."""
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    return {sum(own) / len(own): group for group, own in places.items() if group and len(own) >= least}


def _changed(items: Sequence[Record], last: str, images: Sequence[str]) -> Any:
    """Questions that the first run answered wrong and the last one right."""
    from matplotlib import pyplot

    figure, places = pyplot.subplots(2, -(-len(items) // 2), figsize=(2.6 * -(-len(items) // 2), 5.6),
                                     squeeze=False, layout="constrained")  # fmt: skip
    for axes, item in zip(places.flat, items, strict=False):
        _show(axes, images[item["image"]])
        axes.set_title(item["right"], fontsize=8)
        _line(axes, 0, f"{item['run']}: {item['given'] or NONE}", WRONG)
        _line(axes, 1, f"{last}: {item['right']}", RIGHT)
    for axes in places.flat[len(items) :]:
        axes.axis("off")
    return figure


def _errors(items: Sequence[Record], data: Record) -> Any:
    """An error a row: the image, then images of the category that was given, and what tells the two apart."""
    from matplotlib import pyplot

    known = data["errors"]
    wide = 1 + max((len(known["examples"].get(item["to"], ())) for item in items), default=0)
    figure, places = pyplot.subplots(len(items), wide, figsize=(2.2 * wide + 1, 2.9 * len(items)), squeeze=False,
                                     layout="constrained")  # fmt: skip
    for row, item in zip(places, items, strict=True):
        _show(row[0], data["images"][item["image"]])
        row[0].set_title(f"right: {item['right']}", color=RIGHT, fontsize=8)
        for n, text in enumerate(_differences(known["attributes"], item)):
            _line(row[0], n, text, "black")
        examples = known["examples"].get(item["to"], ())
        for axes in row[1:]:
            axes.axis("off")
        for axes, number in zip(row[1:], examples, strict=False):
            _show(axes, data["images"][number])
        if wide > 1:
            row[1].set_title(f"given: {item['given'] or NONE}", color=WRONG, fontsize=8)
    return figure


def _differences(profiles: dict[str, dict[str, str]], item: Record) -> list[str]:
    own, given = (profiles.get(item[side], {}) for side in ("from", "to"))
    found = [f"{name}: {value}, not {given[name]}" for name, value in own.items() if given.get(name, value) != value]
    return found[:DIFFERENCES]


def _show(axes: Axes, uri: str) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        axes.imshow(image.convert("RGB"))
    axes.axis("off")


def _line(axes: Axes, number: int, text: str, colour: str) -> None:
    """A line of text below an image; too long a one is cut."""
    shown = text if len(text) <= 44 else f"{text[:43]}…"
    axes.text(0, -0.04 - 0.09 * number, shown, color=colour, fontsize=7, va="top", transform=axes.transAxes)
