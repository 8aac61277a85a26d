"""Grocery Store (Klasson et al., 2019)."""

from __future__ import annotations

import csv
from pathlib import Path

from fgvr.datasets.spec import Category, Index, Spec, lines
from fgvr.errors import FgvrError

NAME, NUMBER, COARSE = "Class Name (str)", "Class ID (int)", "Coarse Class Name (str)"


def index(at: Path, split: str, level: str) -> Index:
    """<split>.txt: "train/Fruit/Apple/Granny-Smith/Granny-Smith_001.jpg, 1, 0"; classes.csv names the categories."""
    listed = f"{split}.txt"
    rows = list(csv.DictReader(lines(at / "classes.csv")))
    if not rows or not {NAME, NUMBER, COARSE} <= set(rows[0]):
        raise FgvrError(f"{at / 'classes.csv'}: expected the columns {NAME}, {NUMBER}, {COARSE}; is it the right file?")
    images, group = [], {}
    for line in lines(at / listed):
        path, _, numbers = line.partition(",")
        images.append((path.strip(), numbers.partition(",")[0].strip()))
        group[images[-1][1]] = path.split("/")[1]
    categories = {}
    for row in rows:
        wide = group.get(row[NUMBER], "product").lower().rstrip("s")  # Fruit, Packages, Vegetables
        name, coarse = (row[column].replace("-", " ") for column in (NAME, COARSE))
        categories[row[NUMBER]] = Category(name, superordinate=wide, coarse=(coarse,))
    return Index(categories, images, listed)


SPEC = Spec(
    title="Grocery Store",
    superclass="grocery product",
    class_unit="kinds",
    question="What kind of grocery product is this?",
    splits={"train": 2640, "val": 296, "test": 2485},
    sizes=(81,),
    expects=("classes.csv", "{split}.txt", "{split}"),
    index=index,
    source="https://github.com/marcusklasson/GroceryStoreDataset (git clone)",
    terms="MIT",
    inside=("dataset", "GroceryStoreDataset/dataset"),
)
