"""The knowledge study's figures: fine-grained against general ability (Figure 3), models beside their vision encoders,
what each factor moves (Figures 5 and 7), and the stairs (Figure 8)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgvr.analysis.study import PART, SCOPES, Study
from fgvr.errors import FgvrError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fgvr.analysis.intervals import Figure

HELP = "run `pip install 'fgvr[plots]'`"


def draw(study: Study, folder: Path) -> list[str]:
    """Write the figures that the study has material for, as NAME.png and NAME.svg; their names.

    Raises:
        FgvrError: a library is missing.
    """
    both = [m for m in study.models if all(study.mean(m, scope) is not None for scope in SCOPES)]
    with _pyplot(folder) as save:
        if len(both) > 1:
            save("scatter", _scatter, study, both)
        if study.encoders:
            save("gaps", _gaps, study)
        if study.stairs:
            scopes = [scope for scope in SCOPES if study.mean(study.stairs[0], scope) is not None]
            save("stairs", _stairs, study, scopes, columns=len(scopes))
        if study.factors and len(both) > 1:
            save("factors", _factors, study, both, columns=len(study.factors))
        return save.names


class _Saver:
    def __init__(self, pyplot: Any, folder: Path) -> None:
        self.pyplot, self.folder = pyplot, folder
        self.names: list[str] = []

    def __call__(self, name: str, paint: Any, *about: Any, columns: int = 1) -> None:
        figure, axes = self.pyplot.subplots(1, columns, figsize=(max(7, 4 * columns), 5), dpi=150, layout="constrained")
        try:
            paint(axes, *about)
            self.folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.folder / f"{name}.png", metadata={"Software": None})
            figure.savefig(self.folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        finally:
            self.pyplot.close(figure)
        self.names.append(name)


@contextmanager
def _pyplot(folder: Path) -> Iterator[_Saver]:
    try:
        importlib.import_module("adjustText")  # asked for before anything is drawn
        import matplotlib
    except ImportError as error:
        raise FgvrError(f"no {error.name} to draw with; {HELP}") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    # equal figures, equal bytes; a $ in a name is a dollar
    with pyplot.rc_context({"svg.hashsalt": "fgvr", "font.size": 9, "text.parse_math": False}):
        yield _Saver(pyplot, folder)


def _at(study: Study, run: str) -> tuple[float, float]:
    """(general, fine-grained) in percent."""
    fine, general = (study.mean(run, scope) for scope in SCOPES)
    assert fine is not None and general is not None
    return 100 * general[0], 100 * fine[0]


def _scatter(axes: Axes, study: Study, models: list[str]) -> None:
    places = [_at(study, model) for model in models]
    x, y = zip(*places, strict=True)
    axes.scatter(x, y, s=22, zorder=3)
    label(axes, places, models)
    _named(axes)


def label(axes: Axes, places: list[tuple[float, float]], names: list[str]) -> list[Any]:
    """Names beside their points, none over another."""
    from adjustText import adjust_text

    axes.margins(0.15)
    texts = [axes.text(*place, name, fontsize=8) for place, name in zip(places, names, strict=True)]
    x, y = zip(*places, strict=True)
    adjust_text(texts, list(x), list(y), ax=axes, expand=(1.1, 1.3), iter_lim=1000, ensure_inside_axes=True,
                arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.6})  # fmt: skip
    return texts


def _named(axes: Axes) -> None:
    axes.set_xlabel("general ability (%)")
    axes.set_ylabel("fine-grained accuracy (%)")
    axes.grid(alpha=0.3)


def _gaps(axes: Axes, study: Study) -> None:
    """Each model and its vision encoder, by their means; a single model on each data set."""
    rows: list[tuple[str, list[Figure | None]]]
    if len(study.encoders) == 1:
        words = [word for pair in study.encoders.items() for word in pair]
        rows = [(name, [answers.accuracy(run) for run in words]) for name, answers in study.sets.items()]
    else:
        words = ["model", "its vision encoder"]
        rows = [(pair[0], [study.mean(run, SCOPES[0]) for run in pair]) for pair in study.encoders.items()]
    for row, (_, found) in enumerate(rows):
        for number, figure in enumerate(found):
            value, low, high, _ = figure or (0, None, None, 0)
            at, colour = row + 0.1 * (2 * number - 1), f"C{number}"
            if low is not None and high is not None:
                axes.plot([100 * low, 100 * high], [at, at], color=colour, lw=4, alpha=0.3)
            axes.plot([100 * value], [at], "o", color=colour, label=None if row else words[number])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("fine-grained accuracy (%), with 95 % interval")
    axes.legend()
    axes.grid(alpha=0.3, axis="x")


def _stairs(panels: Any, study: Study, scopes: list[str]) -> None:
    """What each step adds, in a panel for each scope."""
    names = [run.replace(PART, "\n") for run in study.stairs]
    for scope, axes in zip(scopes, [panels] if len(scopes) == 1 else panels, strict=True):
        values = [100 * (study.mean(run, scope) or (float("nan"),))[0] for run in study.stairs]
        axes.step(range(len(values)), values, where="mid")
        for n, value in enumerate(values):
            step = f"\n({value - values[n - 1]:+.1f})" if n else ""
            axes.annotate(f"{value:.1f}{step}", (n, value), (0, 4), textcoords="offset points", ha="center")
        axes.set_xticks(range(len(names)), names, fontsize=7)
        axes.set_ylabel(f"{scope} accuracy (%)")
        axes.margins(0.1, 0.2)


def _factors(panels: Any, study: Study, models: list[str]) -> None:
    """One panel a factor: arrows between models that differ in it and in nothing else."""
    for number, axes in enumerate([panels] if len(study.factors) == 1 else panels):
        x, y = zip(*[_at(study, model) for model in models], strict=True)
        axes.scatter(x, y, s=14, color="0.4", zorder=3)
        kinds = study.pairs(number)
        for colour, ((low, high), pairs) in enumerate(kinds.items()):
            for before, after in pairs:
                if before in models and after in models:
                    arrow = {"arrowstyle": "->", "color": f"C{colour}"}
                    axes.annotate("", _at(study, after), _at(study, before), arrowprops=arrow)
            axes.plot([], [], color=f"C{colour}", label=f"{low} → {high}")
        axes.set_title(study.factors[number])
        axes.legend(fontsize=7)
        _named(axes)
