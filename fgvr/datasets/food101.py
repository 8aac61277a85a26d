"""Food-101 (Bossard et al., 2014)."""

from __future__ import annotations

from pathlib import Path

from fgvr.datasets.spec import Archive, Category, Index, Spec, clean, lines


def index(at: Path, split: str, level: str) -> Index:
    """meta/<split>.txt: "apple_pie/1005649"."""
    listed = f"meta/{split}.txt"
    categories = {key: Category(clean(key)) for key in lines(at / "meta/classes.txt")}
    images = [(f"images/{path}.jpg", path.partition("/")[0]) for path in lines(at / listed)]
    return Index(categories, images, listed)


SPEC = Spec(
    title="Food-101",
    superclass="dish",
    class_unit="dishes",
    question="What dish is this?",
    splits={"train": 75750, "test": 25250},
    sizes=(101,),
    expects=("meta/classes.txt", "meta/{split}.txt", "images"),
    index=index,
    source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    terms="the photographs belong to their authors at foodspotting.com; scientific fair use",
    inside=("food-101",),
    archives=(
        Archive(
            "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87", "food-101"
        ),
    ),
)
