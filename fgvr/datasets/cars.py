"""Stanford Cars (Krause et al., 2013)."""

from __future__ import annotations

from pathlib import Path

from fgvr.datasets.spec import Category, Index, Spec, clean, first, mat

TEST_LABELS = ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
# FINER's rule: the first of these, in this order, that occurs in the name. Where none does it asked GPT-4: --labels.
BODIES = ("sedan", "SUV", "coupe", "convertible", "pickup", "hatchback", "van")


def body(name: str) -> tuple[str, ...]:
    """FINER's body type of a car by keyword; () where the name holds none. "Minivan" and "Vantage" hold "van"."""
    return tuple(body for body in BODIES if body.lower() in name.lower())[:1]


def year_first(name: str) -> str:
    """ "Acura RL Sedan 2012" as CLIP's prompts and VLMClassifier have it: "2012 Acura RL Sedan"."""
    rest, _, year = name.rpartition(" ")
    return f"{year} {rest}"


def index(at: Path, split: str, level: str) -> Index:
    """The devkit's .mat files; image numbers are unique in a split only: cars_train/00001.jpg, cars_test/00001.jpg."""
    (names,) = mat(at / "devkit/cars_meta.mat", "class_names")
    cars = [clean(str(name)) for name in names]
    categories = {str(n): Category(car, (year_first(car),), coarse=body(car)) for n, car in enumerate(cars, 1)}
    listed = "devkit/cars_train_annos.mat" if split == "train" else first(at, *TEST_LABELS)
    (rows,) = mat(at / listed, "annotations")
    images = [(f"cars_{split}/{name}", str(n)) for name, n in zip(rows["fname"], rows["class"], strict=True)]
    return Index(categories, images, listed)


SPEC = Spec(
    title="Stanford Cars",
    superclass="car",
    class_unit="models",
    question="What model of car is this?",
    splits={"train": 8144, "test": 8041},
    sizes=(196,),
    expects=("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_{split}"),
    index=index,
    source="no longer at ai.stanford.edu/~jkrause/cars; mirrors hold car_devkit.tgz, cars_train.tgz, cars_test.tgz "
    "and cars_test_annos_withlabels.mat",
    terms="non-commercial research",
    inside=("stanford_cars",),
)
