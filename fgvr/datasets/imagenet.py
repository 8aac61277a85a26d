"""ImageNet-1k (Russakovsky et al., 2015) and its test sets -A (Hendrycks et al., 2021), -R (Hendrycks et al., 2021) and
-Sketch (Wang et al., 2019)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fgvr.datasets.spec import Archive, Category, Index, Spec, class_folders, lines, mat

DEVKIT = "ILSVRC2012_devkit_t12/data"
BERKELEY = "https://people.eecs.berkeley.edu/~hendrycks/"


def _named(wnids: set[str]) -> dict[str, Category]:
    from fgvr.datasets.imagenet_names import NAMES

    return {wnid: Category(name) for wnid, name in NAMES.items() if wnid in wnids}


def index(at: Path, split: str, level: str) -> Index:
    """train/<wnid>/; val/<wnid>/, or val/ as its archive unpacks, with the devkit beside it."""
    if split == "val" and (at / DEVKIT).is_dir() and any((at / split).glob("*.JPEG")):
        (synsets,) = mat(at / DEVKIT / "meta.mat", "synsets")
        wnid = {int(number): str(name) for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
        truth = f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt"
        labels = [wnid[int(number)] for number in lines(at / truth)]
        images = [(f"val/ILSVRC2012_val_{n:08d}.JPEG", label) for n, label in enumerate(labels, 1)]
        return Index(_named(set(labels)), images, truth)
    return _folders(at, split)


def index_test(at: Path, split: str, level: str) -> Index:
    """<wnid>/ folders."""
    return _folders(at, "")


def _folders(at: Path, top: str) -> Index:
    images = list(class_folders(at, top))
    return Index(_named({wnid for _, wnid in images}), images)


SPEC = Spec(
    title="ImageNet-1k",
    superclass="object",
    class_unit="types",
    question="What type of object is in this photo?",
    splits={"train": 1_281_167, "val": 50_000},
    sizes=(1000,),
    expects=("{split}",),
    index=index,
    source="https://image-net.org/download-images (an account is needed)",
    terms="non-commercial research and education",
    inside=("ILSVRC/Data/CLS-LOC",),
)
A = dataclasses.replace(
    SPEC,
    title="ImageNet-A",
    splits={"test": 7500},
    sizes=(200,),
    expects=("n01498041",),
    index=index_test,
    source="https://github.com/hendrycks/natural-adv-examples",
    terms="MIT for the collection; the images are of the web",
    inside=("imagenet-a",),
    archives=(Archive(f"{BERKELEY}imagenet-a.tar", "c3e55429088dc681f30d81f4726b6595", "imagenet-a"),),
)
R = dataclasses.replace(
    A,
    title="ImageNet-R",
    splits={"test": 30_000},
    expects=("n01443537",),
    source="https://github.com/hendrycks/imagenet-r",
    inside=("imagenet-r",),
    archives=(Archive(f"{BERKELEY}imagenet-r.tar", "a61312130a589d0ca1a8fca1f2bd3337", "imagenet-r"),),
)
SKETCH = dataclasses.replace(
    A,
    title="ImageNet-Sketch",
    splits={"test": 50_889},
    sizes=(1000,),
    expects=("n01440764",),
    source="https://github.com/HaohanWang/ImageNet-Sketch",
    terms="the images are of the web",
    inside=("sketch", "imagenet-sketch"),
    archives=(),
)
