"""Features in the plane: t-SNE, UMAP or two principal components of objects, names and descriptions together, drawn.

Finedefics' Figures 2 and 4 are t-SNE of one data set's embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgvr.errors import FgvrError
from fgvr.records import Record

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

METHODS = ("tsne", "umap", "pca")
CALLED = {"tsne": "t-SNE", "umap": "UMAP", "pca": "principal components"}
COMPONENTS = 50  # principal components that t-SNE and UMAP are given
MARKS = {"objects": ("o", 9), "descriptions": ("D", 16), "names": ("*", 110)}


def places(kinds: dict[str, tuple[Sequence[Record], Tensor]], method: str, seed: int) -> list[Record]:
    """Records {id, of, category, x, y, method, image?} of all rows laid out together.

    Args:
        kinds: "objects", "names", "descriptions" -> records with id and category, and features (N, D) of one width.
    Raises:
        FgvrError: the method's library is not installed, or there are fewer than four rows.
    """
    import torch

    rows = torch.cat([torch.nn.functional.normalize(features.double(), dim=1) for _, features in kinds.values()])
    if len(rows) < 4:
        raise FgvrError(f"a map needs four points or more, there are {len(rows)}")
    xy = coordinates(rows.numpy(), method, seed)
    made: list[Record] = []
    for of, (records, _) in kinds.items():
        for record in records:
            x, y = xy[len(made)]
            place = {"id": record["id"], "of": of, "category": record["category"], "x": round(float(x), 5)}
            image = {"image": record["image"]} if of == "objects" and "image" in record else {}
            made.append({**place, "y": round(float(y), 5), "method": CALLED[method], **image})
    return made


def coordinates(rows: ndarray, method: str, seed: int) -> ndarray:
    """(N, D) -> (N, 2)."""
    import numpy as np

    centred = rows - rows.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(axis=1)])  # a component's sign is arbitrary
    components = (u * s * signs)[:, :COMPONENTS]
    if method == "pca":
        return components[:, :2] if components.shape[1] > 1 else np.pad(components, ((0, 0), (0, 1)))
    near = max(2, min(30, (len(rows) - 1) // 3))
    try:
        if method == "umap":
            import umap

            return umap.UMAP(n_neighbors=min(15, len(rows) - 1), random_state=seed, n_jobs=1).fit_transform(components)
        from sklearn.manifold import TSNE
    except ImportError as error:
        run = f"run `pip install 'fgvr[{'umap' if method == 'umap' else 'plots'}]'`"
        raise FgvrError(f"--map-method {method}: no {error.name}; {run}, or use pca") from None
    return TSNE(perplexity=near, init="pca", random_state=seed).fit_transform(components)


def draw(made: Sequence[Record], files: Sequence[Path]) -> None:
    """The map as pictures, their form by suffix (.png, .svg): a colour a category, a mark a kind of point.

    Raises:
        FgvrError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise FgvrError("no matplotlib to draw the map; run `pip install 'fgvr[plots]'`") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    categories = sorted({record["category"] for record in made})
    # neighbours in the alphabet get unlike colours: the golden angle round the colour circle
    hue = {name: (n * 0.381966) % 1 for n, name in enumerate(categories)}
    colour = {name: matplotlib.colors.hsv_to_rgb((hue[name], 0.65, 0.75)) for name in categories}
    # equal maps, equal bytes; a $ in a name is a dollar
    with pyplot.rc_context({"svg.hashsalt": "fgvr", "font.size": 9, "text.parse_math": False}):
        figure, axes = pyplot.subplots(figsize=(7, 6), dpi=150, layout="constrained")
        for of, (mark, size) in MARKS.items():
            mine = [record for record in made if record["of"] == of]
            if mine:
                xs, ys = ([record[axis] for record in mine] for axis in "xy")
                edge: dict[str, Any] = {"edgecolors": "black", "linewidths": 0.6 if of == "names" else 0}
                axes.scatter(xs, ys, c=[colour[r["category"]] for r in mine], marker=mark, s=size, label=of, **edge)
        axes.set(xticks=[], yticks=[], title=f"{made[0]['method']}, {len(categories)} categories")
        axes.set_aspect("equal", "datalim")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.01), ncols=3, frameon=False)
        for file in files:
            about = {"Date": None} if file.suffix == ".svg" else {"Software": None}
            figure.savefig(file, metadata=about)
        pyplot.close(figure)
