"""Miniatures of the published data sets: four categories, `each` images of one in every split, laid out and listed as
the archives unpack."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgvr.cli.main import main
from tests.procs import read_jsonl


class Fgvr:
    """fgvr in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *argv: object) -> tuple[int, str, str]:
        self.capsys.readouterr()
        status = main([str(word) for word in argv])
        return (status, *self.capsys.readouterr())

    def good(self, *argv: object) -> list[dict]:
        status, out, err = self(*argv)
        assert (status, err) == (0, "")
        return read_jsonl(out.encode())

    def bad(self, *argv: object, status: int = 1) -> str:
        found, out, err = self(*argv)
        assert found == status and err.count("\n") == 1 and "Traceback" not in err, err
        assert not out
        return err


def photo(file: Path, side: int = 48) -> None:
    """An image of coloured blocks that its path decides; no two look alike."""
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(hashlib.sha256(str(file).encode()).digest()[:8], "big")
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(file)


def listed(file: Path, lines: Iterator[str] | Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def struct(rows: Sequence[dict]) -> np.ndarray:
    """Rows as MATLAB has them: a 1 x N struct array."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for n, row in enumerate(rows):
        array[0, n] = tuple(row.values())
    return array


def cells(values: Sequence[str], row: bool = False) -> np.ndarray:
    """Texts as MATLAB has them: an N x 1 cell array."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array.T if row else array


def savemat(file: Path, **arrays: np.ndarray) -> None:
    from scipy.io import savemat

    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(str(file), arrays)


BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "141.Artic_Tern", "200.Common_Yellowthroat")


def cub(root: Path, each: int = 2) -> None:
    at = root / "CUB_200_2011"
    images = [(c, f"{name}/{name[4:]}_{n:04d}", n < each) for c, name in enumerate(BIRDS, 1) for n in range(2 * each)]
    listed(at / "classes.txt", [f"{c} {name}" for c, name in enumerate(BIRDS, 1)])
    listed(at / "images.txt", [f"{n} {path}.jpg" for n, (_, path, _) in enumerate(images, 1)])
    listed(at / "image_class_labels.txt", [f"{n} {c}" for n, (c, _, _) in enumerate(images, 1)])
    listed(at / "train_test_split.txt", [f"{n} {int(train)}" for n, (_, _, train) in enumerate(images, 1)])
    for _, path, _ in images:
        photo(at / "images" / f"{path}.jpg")


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Aston Martin Virage Coupe 2012", "Acura TL Type-S 2008")


def cars(root: Path, each: int = 2) -> None:
    savemat(root / "devkit" / "cars_meta.mat", class_names=cells(CARS, row=True))
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(c, f"{n:05d}.jpg") for n, c in enumerate([1, 2, 3, 4] * each, 1)]
        boxes = {"bbox_x1": 1, "bbox_y1": 1, "bbox_x2": 40, "bbox_y2": 40}
        savemat(root / file, annotations=struct([{**boxes, "class": c, "fname": name} for c, name in rows]))
        for _, name in rows:
            photo(root / f"cars_{split}" / name)


DOGS = ("n02085620-Chihuahua", "n02088238-basset", "n02086240-Shih-Tzu", "n02095314-wire-haired_fox_terrier")


def dogs(root: Path, each: int = 2) -> None:
    for s, split in enumerate(("train", "test")):
        wnids = [(c, name, f"{name[:9]}_{s}{n}") for c, name in enumerate(DOGS, 1) for n in range(each)]
        files = [f"{name}/{file}.jpg" for _, name, file in wnids]
        labels = np.array([[c] for c, _, _ in wnids], dtype=float)
        savemat(
            root / f"{split}_list.mat",
            file_list=cells(files), annotation_list=cells([file[:-4] for file in files]), labels=labels,
        )  # fmt: skip
        for file in files:
            photo(root / "Images" / file)


def flowers(root: Path, each: int = 2) -> None:
    labels = [c for c in (1, 2, 93, 102) for _ in range(3 * each)]
    numbers = np.arange(1, len(labels) + 1)
    savemat(root / "imagelabels.mat", labels=np.array([labels], dtype=np.uint8))
    parts = {name: numbers[numbers % 3 == k][None].astype(float) for k, name in enumerate(("trnid", "valid", "tstid"))}
    savemat(root / "setid.mat", **parts)
    for n in numbers:
        photo(root / "jpg" / f"image_{n:05d}.jpg")


PETS = (("Abyssinian", 1), ("american_bulldog", 2), ("Egyptian_Mau", 1), ("yorkshire_terrier", 2))


def pets(root: Path, each: int = 2) -> None:
    for s, split in enumerate(("trainval", "test")):
        rows = [(f"{n}_{100 * s + k}", c, kind) for c, (n, kind) in enumerate(PETS, 1) for k in range(each)]
        listed(root / "annotations" / f"{split}.txt", [f"{name} {c} {kind} 1" for name, c, kind in rows])
        for name, _, _ in rows:
            photo(root / "images" / f"{name}.jpg")


PLANES = (
    ("707-320", "Boeing 707", "Boeing"), ("A300B4", "A300", "Airbus"), ("737-800", "Boeing 737", "Boeing"),
    ("DC-3", "DC-3", "Douglas Aircraft Company"),
)  # fmt: skip


def aircraft(root: Path, each: int = 2) -> None:
    at = root / "fgvc-aircraft-2013b" / "data"
    lists = (("variant", "variants"), ("family", "families"), ("manufacturer", "manufacturers"))
    for column, (level, file) in enumerate(lists):
        listed(at / f"{file}.txt", list(dict.fromkeys(plane[column] for plane in PLANES)))
        for s, split in enumerate(("train", "val", "test")):
            rows = [f"{1000 * s + 10 * c + k:07d} {p[column]}" for c, p in enumerate(PLANES) for k in range(each)]
            listed(at / f"images_{level}_{split}.txt", rows)
            for row in rows:
                photo(at / "images" / f"{row[:7]}.jpg")
        both = [(at / f"images_{level}_{split}.txt").read_text() for split in ("train", "val")]
        (at / f"images_{level}_trainval.txt").write_text("".join(both))


DISHES = ("apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio")


def food101(root: Path, each: int = 2) -> None:
    at = root / "food-101"
    listed(at / "meta" / "classes.txt", DISHES)
    for s, split in enumerate(("train", "test")):
        files = [f"{name}/{1000 * s + n}" for name in DISHES for n in range(each)]
        listed(at / "meta" / f"{split}.txt", files)
        for file in files:
            photo(at / "images" / f"{file}.jpg")


def nabirds(root: Path, each: int = 2) -> None:
    at = root / "nabirds"
    nodes = {
        "0": "Birds", "1": "Ducks, Geese, and Swans", "2": "Common Eider", "3": "Wrens", "4": "Snow Goose",
        "295": "Common Eider (Adult male)", "296": "Common Eider (Female/juvenile)", "297": "Snow Goose (White morph)",
        "298": "House Wren",
    }  # fmt: skip
    parents = {"1": "0", "2": "1", "3": "0", "4": "1", "295": "2", "296": "2", "297": "4", "298": "3"}
    leaves = ("295", "296", "297", "298")
    images = [(leaf, f"{leaf:0>4}/{leaf}a{n}", n < each) for leaf in leaves for n in range(2 * each)]
    listed(at / "classes.txt", [f"{key} {name}" for key, name in nodes.items()])
    listed(at / "hierarchy.txt", [f"{child} {parent}" for child, parent in parents.items()])
    keyed = [(f"0139e21d-{n:04d}", *image) for n, image in enumerate(images)]
    listed(at / "images.txt", [f"{key} {path}.jpg" for key, _, path, _ in keyed])
    listed(at / "image_class_labels.txt", [f"{key} {leaf}" for key, leaf, _, _ in keyed])
    listed(at / "train_test_split.txt", [f"{key} {int(train)}" for key, _, _, train in keyed])
    for _, path, _ in images:
        photo(at / "images" / f"{path}.jpg")


SPECIES = (  # supercategory, kingdom, phylum, class, order, family, genus, epithet, common name
    ("Birds", "Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Corvus", "corax", "Common Raven"),
    ("Birds", "Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "pica", "Magpie"),
    ("Birds", "Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "hudsonia", "Magpie"),
    ("Fungi", "Fungi", "Basidiomycota", "Agaricomycetes", "Agaricales", "Amanitaceae", "Amanita", "muscaria", ""),
)
RANKS = ("supercategory", "kingdom", "phylum", "class", "order", "family", "genus", "specific_epithet", "common_name")


def inat2021(root: Path, each: int = 2) -> None:
    categories = []
    for n, species in enumerate(SPECIES):
        folder = "_".join((f"{n:05d}", *species[1:8]))
        ranks = dict(zip(RANKS, species, strict=True))
        categories.append({"id": n, "name": " ".join(species[6:8]), "image_dir_name": folder, **ranks})
        for split in ("train_mini", "val"):
            for k in range(each):
                photo(root / split / folder / f"{split}-{n}-{k}.jpg")
    (root / "val.json").write_text(json.dumps({"categories": categories, "images": [], "annotations": []}))


WNIDS = ("n01440764", "n01443537", "n01498041", "n04008634")


def imagenet(root: Path, each: int = 2) -> None:
    for wnid in WNIDS:
        for n in range(each):
            photo(root / "train" / wnid / f"{wnid}_{n}.JPEG")
            photo(root / "val" / wnid / f"ILSVRC2012_val_{WNIDS.index(wnid) * each + n + 1:08d}.JPEG")


def imagenet_flat(root: Path, each: int = 2) -> None:
    """The validation images as their archive unpacks, the devkit beside them."""
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    synsets = [{"ILSVRC2012_ID": n, "WNID": wnid, "words": "x", "num_children": 0} for n, wnid in enumerate(WNIDS, 1)]
    savemat(kit / "meta.mat", synsets=struct(synsets).T)
    truth = [n for n in range(1, 5) for _ in range(each)][::-1]
    listed(kit / "ILSVRC2012_validation_ground_truth.txt", [str(n) for n in truth])
    for n in range(1, len(truth) + 1):
        photo(root / "val" / f"ILSVRC2012_val_{n:08d}.JPEG")


def wnid_folders(inside: str) -> Callable[..., None]:
    def build(root: Path, each: int = 2) -> None:
        imagenet(root, each)
        for wnid in WNIDS:
            for n in range(each):
                photo(root / inside / wnid / f"{inside}{n}.jpg")

    return build


GROCERIES = (
    ("Granny-Smith", "Apple", "Fruit"), ("Anjou", "Pear", "Fruit"), ("Arla-Standard-Milk", "Milk", "Packages"),
    ("Red-Bell-Pepper", "Pepper", "Vegetables"),
)  # fmt: skip


def grocery(root: Path, each: int = 2) -> None:
    at = root / "dataset"
    at.mkdir(parents=True)
    with open(at / "classes.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["Class Name (str)", "Class ID (int)", "Coarse Class Name (str)", "Coarse Class ID (int)",
             "Iconic Image Path (str)", "Product Description Path (str)"]
        )  # fmt: skip
        rows.writerows([name, n, coarse, n, "/iconic.jpg", "/x.txt"] for n, (name, coarse, _) in enumerate(GROCERIES))
    for split in ("train", "val", "test"):
        files = [
            (f"{split}/{wide}/{coarse}/{name}/{name}_{k:03d}.jpg", n)
            for n, (name, coarse, wide) in enumerate(GROCERIES)
            for k in range(each)
        ]
        listed(at / f"{split}.txt", [f"{file}, {n}, {n}" for file, n in files])
        for file, _ in files:
            photo(at / file)


BUILDERS: dict[str, Callable[..., None]] = {
    "cub": cub, "cars": cars, "dogs": dogs, "flowers": flowers, "pets": pets, "aircraft": aircraft, "food101": food101,
    "nabirds": nabirds, "inat2021": inat2021, "imagenet": imagenet, "imagenet-a": wnid_folders("imagenet-a"),
    "imagenet-r": wnid_folders("imagenet-r"), "imagenet-sketch": wnid_folders("sketch"), "grocery": grocery,
}  # fmt: skip
