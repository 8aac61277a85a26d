"""NABirds v1 (Van Horn et al., 2015)."""

from __future__ import annotations

import re
from pathlib import Path

from fgvr.datasets.spec import Category, Index, Lookup, Spec, clean, pairs


def coarse(leaf: str, above: list[str]) -> tuple[str, ...]:
    """FINER's coarse labels: the parent in the hierarchy, split at "," and "and"; the grandparent where the leaf has a
    "(…)" suffix or holds the parent's name.

    Args:
        above: the names above the leaf, the parent first.
    """
    plain = leaf.partition("(")[0].strip()
    skip = len(above) > 1 and ("(" in leaf or above[0] in plain)
    return tuple(part for part in re.split(r",\s*(?:and\s+)?|\s+and\s+", above[int(skip)]) if part) if above else ()


def index(at: Path, split: str, level: str) -> Index:
    """classes.txt names leaves and inner nodes, hierarchy.txt is "child parent"; images have categories by number."""
    names = {key: clean(name) for key, name in pairs(at / "classes.txt")}
    parents = Lookup(at / "hierarchy.txt")
    labels, part = Lookup(at / "image_class_labels.txt"), Lookup(at / "train_test_split.txt")
    categories = {}
    for key in sorted(set(labels.values()), key=int):
        above: list[str] = []
        node = parents[key]
        while node in names and len(above) < 2:
            above.append(names[node])
            node = parents.get(node, "")
        plain = names[key].partition("(")[0].strip()
        categories[key] = Category(names[key], coarse=coarse(names[key], above), fine=(plain,))
    wanted = {"train": "1", "test": "0"}[split]
    images = [(f"images/{path}", labels[key]) for key, path in pairs(at / "images.txt") if part[key] == wanted]
    return Index(categories, images, "images.txt")


SPEC = Spec(
    title="NABirds",
    superclass="bird",
    class_unit="species",
    question="What species of bird is this?",
    splits={"train": 23929, "test": 24633},
    sizes=(555,),
    expects=("classes.txt", "hierarchy.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt", "images"),
    index=index,
    source="https://dl.allaboutbirds.org/nabirds (a form to fill in)",
    terms="non-commercial research and education; not to be passed on",
    inside=("nabirds",),
)
