"""FGVC-Aircraft, 2013b (Maji et al., 2013): variants, families, manufacturers."""

from __future__ import annotations

from pathlib import Path

from fgvr.datasets.spec import Archive, Category, Index, Lookup, Spec, lines

HERE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
LEVELS = ("variant", "family", "manufacturer")
LISTS = ("variants", "families", "manufacturers")


def index(at: Path, split: str, level: str) -> Index:
    """data/images_<level>_<split>.txt: "0056978 707-320". The three files together say which variant is whose."""
    listed = {name: f"data/images_{name}_{split}.txt" for name in LEVELS}
    of = {name: Lookup(at / listed[name]) for name in LEVELS}
    kin = {name: (of["family"][image], of["manufacturer"][image]) for image, name in of[level].items()}
    categories = {}
    for name in lines(at / "data" / f"{LISTS[LEVELS.index(level)]}.txt"):
        family, maker = kin.get(name, ("", ""))
        fine = tuple(dict.fromkeys((name, family))) if level == "variant" and family else (name,)
        aliases = (f"{maker} {name}",) if maker and not name.startswith(maker) else ()
        categories[name] = Category(name, aliases, "airplane", (maker,) if maker else (), fine)
    return Index(categories, [(f"data/images/{image}.jpg", name) for image, name in of[level].items()], listed[level])


SPEC = Spec(
    title="FGVC-Aircraft",
    superclass="aircraft",
    class_unit="models",
    question="What model of aircraft is this?",
    splits={"train": 3334, "val": 3333, "trainval": 6667, "test": 3333},
    sizes=(100, 70, 30),
    expects=tuple(f"data/{name}.txt" for name in LISTS)
    + tuple(f"data/images_{level}_{{split}}.txt" for level in LEVELS)
    + ("data/images",),
    index=index,
    source=HERE,
    terms="non-commercial research",
    inside=("fgvc-aircraft-2013b",),
    archives=(
        Archive(
            f"{HERE}archives/fgvc-aircraft-2013b.tar.gz", "d4acdd33327262359767eeaa97a4f732", "fgvc-aircraft-2013b"
        ),
    ),
    levels=LEVELS,
)
