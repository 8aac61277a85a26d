"""Caltech-UCSD Birds-200-2011 (Wah et al., 2011)."""

from __future__ import annotations

from pathlib import Path

from fgvr.datasets.spec import Archive, Category, Index, Lookup, Spec, clean, pairs

SPELLING = {"Artic Tern": "Arctic Tern"}  # the archive's own slip


def index(at: Path, split: str, level: str) -> Index:
    """images.txt, image_class_labels.txt and train_test_split.txt are joined by image number."""
    labels, part = Lookup(at / "image_class_labels.txt"), Lookup(at / "train_test_split.txt")
    wanted = {"train": "1", "test": "0"}[split]
    names = {key: clean(name.partition(".")[2]) for key, name in pairs(at / "classes.txt")}
    categories = {key: Category(SPELLING.get(name, name), aliases=(name,)) for key, name in names.items()}
    images = [(f"images/{path}", labels[key]) for key, path in pairs(at / "images.txt") if part[key] == wanted]
    return Index(categories, images, "images.txt")


SPEC = Spec(
    title="CUB-200-2011",
    superclass="bird",
    class_unit="species",
    question="What species of bird is this?",
    splits={"train": 5994, "test": 5794},
    sizes=(200,),
    expects=("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt", "images"),
    index=index,
    source="https://data.caltech.edu/records/65de6-vp158",
    terms="non-commercial research and education; the photographers keep their rights",
    inside=("CUB_200_2011",),
    archives=(
        Archive(
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "97eceeb196236b17998738112f37df78",
            "CUB_200_2011",
        ),
    ),
)
