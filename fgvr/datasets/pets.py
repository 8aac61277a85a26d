"""Oxford-IIIT Pet (Parkhi et al., 2012)."""

from __future__ import annotations

from pathlib import Path

from fgvr.datasets.spec import Archive, Category, Index, Spec, pairs

HERE = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
SPECIES = {"1": "cat", "2": "dog"}


def index(at: Path, split: str, level: str) -> Index:
    """Lines "Abyssinian_201 1 1 1": image, category, species (1 cat, 2 dog), breed within the species."""
    listed = f"annotations/{split}.txt"
    categories, images = {}, []
    for image, numbers in pairs(at / listed):
        key = image.rpartition("_")[0]
        if key not in categories:
            name = key.replace("_", " ").title()
            categories[key] = Category(name, superordinate="pet", coarse=(SPECIES[numbers.split()[1]],))
        images.append((f"images/{image}.jpg", key))
    return Index(categories, images, listed)


SPEC = Spec(
    title="Oxford-IIIT Pet",
    superclass="pet",
    class_unit="breeds",
    question="What breed of pet is this?",
    splits={"trainval": 3680, "test": 3669},
    sizes=(37,),
    expects=("annotations/{split}.txt", "images"),
    index=index,
    source=HERE,
    terms="CC BY-SA 4.0",
    inside=("oxford-iiit-pet",),
    archives=(
        Archive(f"{HERE}data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c", "images"),
        Archive(f"{HERE}data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f", "annotations"),
    ),
)
