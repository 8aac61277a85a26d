"""`fgvr dataset NAME`: published data sets on disk to image records, on miniatures of their layouts and, where
FGVR_SHARED has them, on their real list files."""

from __future__ import annotations

import ast
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fgvr.answers import normalise
from fgvr.datasets import DATASETS, open_dataset
from fgvr.datasets.cars import body
from fgvr.datasets.nabirds import coarse
from fgvr.datasets.published import open_split, records
from fgvr.datasets.spec import Category, Index
from tests import miniatures
from tests.miniatures import BUILDERS, Fgvr, cells, imagenet_flat, listed, photo, savemat


@pytest.fixture
def fgvr(capsys: pytest.CaptureFixture[str]) -> Fgvr:
    return Fgvr(capsys)


def labels(superordinate: str, coarse: list[str], fine: list[str]) -> dict:
    return {"superordinate": superordinate, "coarse": coarse, "fine": fine}


# (name, options, splits, one record without superclass and split): each miniature has 4 categories of 2 images a split
RECORDS = [
    ("cub", "", ("train", "test"),
     {"id": "images/141.Artic_Tern/Artic_Tern_0000", "image": "CUB_200_2011/images/141.Artic_Tern/Artic_Tern_0000.jpg",
      "category": "Arctic Tern", "aliases": ["Artic Tern"], "labels": labels("bird", [], ["Arctic Tern"])}),
    ("cars", "", ("train", "test"),
     {"id": "cars_train/00001", "image": "cars_train/00001.jpg", "category": "AM General Hummer SUV 2000",
      "aliases": ["2000 AM General Hummer SUV"], "labels": labels("car", ["SUV"], ["AM General Hummer SUV 2000"])}),
    ("dogs", "", ("train", "test"),
     {"id": "Images/n02086240-Shih-Tzu/n02086240_00", "image": "Images/n02086240-Shih-Tzu/n02086240_00.jpg",
      "category": "Shih-Tzu", "labels": labels("dog", [], ["Shih-Tzu"])}),
    ("flowers", "", ("train", "val", "test"),
     {"id": "jpg/image_00015", "image": "jpg/image_00015.jpg", "category": "air plant", "aliases": ["ball moss"],
      "labels": labels("flower", [], ["air plant"])}),
    ("pets", "", ("trainval", "test"),
     {"id": "images/american_bulldog_1", "image": "images/american_bulldog_1.jpg", "category": "American Bulldog",
      "labels": labels("pet", ["dog"], ["American Bulldog"])}),
    ("aircraft", "", ("train", "val", "test"),
     {"id": "data/images/0000021", "image": "fgvc-aircraft-2013b/data/images/0000021.jpg", "category": "737-800",
      "aliases": ["Boeing 737-800"], "labels": labels("airplane", ["Boeing"], ["737-800", "Boeing 737"])}),
    ("food101", "", ("train", "test"),
     {"id": "images/baby_back_ribs/0", "image": "food-101/images/baby_back_ribs/0.jpg", "category": "baby back ribs",
      "labels": labels("dish", [], ["baby back ribs"])}),
    ("nabirds", "", ("train", "test"),
     {"id": "images/0295/295a0", "image": "nabirds/images/0295/295a0.jpg", "category": "Common Eider (Adult male)",
      "labels": labels("bird", ["Ducks", "Geese", "Swans"], ["Common Eider"])}),
    ("inat2021", "", ("train_mini", "val"),
     {"id": "train_mini/00001_Animalia_Chordata_Aves_Passeriformes_Corvidae_Pica_pica/train_mini-1-0",
      "image": "train_mini/00001_Animalia_Chordata_Aves_Passeriformes_Corvidae_Pica_pica/train_mini-1-0.jpg",
      "category": "Magpie (Pica pica)",
      "labels": labels("Birds", ["Pica", "Corvidae", "Passeriformes"], ["Pica pica", "Magpie"])}),
    ("imagenet", "", ("train", "val"),
     {"id": "train/n04008634/n04008634_0", "image": "train/n04008634/n04008634_0.JPEG", "category": "projectile",
      "labels": labels("object", [], ["projectile"])}),
    ("imagenet-a", "", ("test",),
     {"id": "n01440764/imagenet-a0", "image": "imagenet-a/n01440764/imagenet-a0.jpg", "category": "tench",
      "labels": labels("object", [], ["tench"])}),
    ("imagenet-r", "", ("test",),
     {"id": "n01443537/imagenet-r1", "image": "imagenet-r/n01443537/imagenet-r1.jpg", "category": "goldfish",
      "labels": labels("object", [], ["goldfish"])}),
    ("imagenet-sketch", "", ("test",),
     {"id": "n01498041/sketch0", "image": "sketch/n01498041/sketch0.jpg", "category": "stingray",
      "labels": labels("object", [], ["stingray"])}),
    ("grocery", "", ("train", "val", "test"),
     {"id": "train/Packages/Milk/Arla-Standard-Milk/Arla-Standard-Milk_000",
      "image": "dataset/train/Packages/Milk/Arla-Standard-Milk/Arla-Standard-Milk_000.jpg",
      "category": "Arla Standard Milk", "labels": labels("package", ["Milk"], ["Arla Standard Milk"])}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "splits", "example"), RECORDS, ids=[row[0] for row in RECORDS])
def test_records_of_every_layout(
    name: str, options: str, splits: tuple[str, ...], example: dict, fgvr: Fgvr, tmp_path: Path
) -> None:
    """From the folder above as from the folder itself; ids are equal, unique across splits, images are there."""
    BUILDERS[name](tmp_path)
    spec = open_dataset(name)
    ids: list[str] = []
    for split in splits:
        argv = ["dataset", name, "--split", split, "--allow-partial", "--verify", *options.split()]
        found = fgvr.good(*argv, "--root", tmp_path)
        assert len(found) == 8 and set(Counter(r["category"] for r in found).values()) == {2}
        assert all((tmp_path / r["image"]).is_file() for r in found)
        assert all((r["superclass"], r["split"]) == (spec.superclass, split) for r in found)
        ids += [r["id"] for r in found]
        inside = next((folder for folder in spec.inside if (tmp_path / folder).is_dir()), None)
        if inside:
            again = fgvr.good(*argv, "--root", tmp_path / inside)
            assert [r["id"] for r in again] == [r["id"] for r in found]
            assert [f"{inside}/{r['image']}" for r in again] == [r["image"] for r in found]
        if split == splits[0]:
            own = {"superclass": spec.superclass, "split": split}
            assert {**example, **own} in found
    assert len(set(ids)) == len(ids)


def test_every_published_set_is_tested() -> None:
    assert set(DATASETS) == set(BUILDERS) == {row[0] for row in RECORDS}


@pytest.mark.parametrize("level", ["family", "manufacturer"])
def test_levels_of_aircraft(level: str, fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.aircraft(tmp_path)
    argv = ["dataset", "aircraft", "--root", tmp_path, "--split", "trainval", "--allow-partial", "--level", level]
    found = {r["category"]: r["labels"] for r in fgvr.good(*argv)}
    column = {"family": 1, "manufacturer": 2}[level]
    assert list(found) == list(dict.fromkeys(plane[column] for plane in miniatures.PLANES))
    assert found[miniatures.PLANES[0][column]]["coarse"] == ["Boeing"]


def test_the_validation_images_of_imagenet_as_they_unpack(fgvr: Fgvr, tmp_path: Path) -> None:
    imagenet_flat(tmp_path)
    found = fgvr.good("dataset", "imagenet", "--root", tmp_path, "--split", "val", "--allow-partial")
    assert [r["category"] for r in found] == [c for c in ("projectile", "stingray", "goldfish", "tench") for _ in "12"]


# -- counts, names and lists at fault --


def test_other_counts_than_the_official_ones(fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.cub(tmp_path)
    said = fgvr.bad("dataset", "cub", "--root", tmp_path, "--split", "train")
    assert "CUB_200_2011/images.txt: 8 images in train, officially 5994 (CUB-200-2011)" in said
    assert "--allow-partial" in said


def test_a_category_too_few(tmp_path: Path) -> None:
    miniatures.pets(tmp_path)
    spec = open_dataset("pets")
    counted = Category("x"), spec.__class__(**{**spec.__dict__, "splits": {"trainval": 8, "test": 8}})
    with pytest.raises(Exception, match=r"trainval\.txt: 4 categories, officially 37 \(Oxford-IIIT Pet\)"):
        open_split(counted[1], tmp_path, "trainval")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda at: (at / "images.txt").unlink(),
         "CUB_200_2011: not laid out as CUB-200-2011: no images.txt (expected classes.txt, images.txt, "),
        (lambda at: shutil.rmtree(at), ": not laid out as CUB-200-2011: no classes.txt, images.txt, "),
        (lambda at: (at / "images.txt").write_text("1\n"), "images.txt: expected lines of two words, found '1'"),
        (lambda at: (at / "classes.txt").write_bytes(b"1 \xff\n"), "classes.txt: 'utf-8' codec can't decode"),
        (lambda at: (at / "classes.txt").write_text("1 001.A_b\n"), "is of category '2', which is not listed"),
        (lambda at: (at / "train_test_split.txt").write_text("1 1\n"),
         "train_test_split.txt: list files do not fit together: nothing for '2'"),
        (lambda at: (at / "classes.txt").write_text("1 001.A_b\n2 002.A_B\n3 003.c\n4 004.d\n"),
         "categories 1 and 2 are both called 'A B'; rename one"),
        (lambda at: shutil.rmtree(at / "images") or (at / "images").mkdir(), "no image of the train split is there"),
    ],
)  # fmt: skip
def test_lists_at_fault(spoil: object, words: str, fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.cub(tmp_path)
    spoil(tmp_path / "CUB_200_2011")  # type: ignore[operator]
    said = fgvr.bad("dataset", "cub", "--root", tmp_path, "--split", "train", "--allow-partial")
    assert words in said
    if "not laid out" in said:
        assert f"found in {tmp_path}: " in said and "https://data.caltech.edu" in said


def test_a_damaged_mat_file(fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.flowers(tmp_path)
    argv = ["dataset", "flowers", "--root", tmp_path, "--split", "test", "--allow-partial"]
    savemat(tmp_path / "setid.mat", other=np.zeros((1, 1)))
    assert "setid.mat: no 'tstid' in it; is it the right file?" in fgvr.bad(*argv)
    (tmp_path / "setid.mat").write_bytes(b"no matlab")
    assert "setid.mat: " in fgvr.bad(*argv)


@pytest.mark.parametrize(
    ("name", "file", "spoil", "words"),
    [
        ("cars", "cars_test_annos_withlabels.mat", {"annotations": np.arange(3.0)}, "(only integers, slices"),
        ("flowers", "setid.mat", {"tstid": np.array([1.0, np.nan])}, "(cannot convert float NaN to integer)"),
        ("flowers", "setid.mat", {"tstid": np.array([0.0, 3])}, "nothing for 0"),
        ("flowers", "imagelabels.mat", {"labels": np.array([1, 2])}, "nothing for 5"),
        ("grocery", "dataset/test.txt", b"x y z\n", "(list index out of range); is it Grocery Store?"),
        ("nabirds", "nabirds/hierarchy.txt", b"1 0\n", "nothing for '295'"),
        ("cub", "CUB_200_2011/classes.txt", b"1 Birds\n2 Ducks\n", "category 1 has no name; is it CUB-200-2011?"),
    ],
)
def test_list_files_of_another_kind(
    name: str, file: str, spoil: bytes | dict, words: str, fgvr: Fgvr, tmp_path: Path
) -> None:
    BUILDERS[name](tmp_path)
    if isinstance(spoil, dict):
        savemat(tmp_path / file, **spoil)
    else:
        (tmp_path / file).write_bytes(spoil)
    assert words in fgvr.bad("dataset", name, "--root", tmp_path, "--split", "test", "--allow-partial")


def test_a_split_that_does_not_exist(fgvr: Fgvr, tmp_path: Path) -> None:
    said = fgvr.bad("dataset", "cub", "--root", tmp_path, "--split", "val", status=2)
    assert "'val' is not one of 'train', 'test'" in said


def test_a_root_that_does_not_exist(fgvr: Fgvr, tmp_path: Path) -> None:
    said = fgvr.bad("dataset", "cub", "--root", tmp_path / "no", "--split", "test")
    assert "no such folder; check --root, or give --download" in said


def test_a_listed_image_that_is_missing(fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.food101(tmp_path)
    (tmp_path / "food-101/images/baklava/1001.jpg").unlink()
    spec = open_dataset("food101")
    whole = spec.__class__(**{**spec.__dict__, "splits": {"train": 8, "test": 8}, "sizes": (4,)})
    found = [str(item) for item in records(open_split(whole, tmp_path, "test")) if not isinstance(item, dict)]
    assert len(found) == 1 and found[0].startswith("food-101/meta/test.txt: cannot read image 'food-101/images/baklava")
    status, out, err = fgvr("dataset", "food101", "--root", tmp_path, "--split", "test", "--allow-partial")
    assert status == 0 and out.count("\n") == 7
    assert err == "fgvr dataset food101: 1 of 8 listed images are not there, left out\n"


def test_an_image_listed_twice(fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.food101(tmp_path)
    listed(tmp_path / "food-101/meta/test.txt", ["baklava/1001", "baklava/1001", "apple_pie/1000"])
    argv = ["dataset", "food101", "--root", tmp_path, "--split", "test", "--allow-partial"]
    said = fgvr.bad(*argv, "-o", tmp_path / "x")
    assert "meta/test.txt: food-101/images/baklava/1001.jpg is listed twice; remove one" in said
    status, out, err = fgvr(*argv, "--on-error", "skip", "--errors", tmp_path / "errors")
    assert status == 0 and out.count("\n") == 2 and "1 of 3 records skipped" in err


def test_an_image_that_cannot_be_read(fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.cars(tmp_path)
    (tmp_path / "cars_test/00002.jpg").write_text("no image")
    argv = ["dataset", "cars", "--root", tmp_path, "--split", "test", "--allow-partial"]
    assert len(fgvr.good(*argv)) == 8
    status, _, err = fgvr(*argv, "--verify")
    assert status == 1 and "cannot read image 'cars_test/00002.jpg': not an image" in err


def test_the_test_labels_of_cars_are_a_file_of_their_own(fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.cars(tmp_path)
    argv = ["dataset", "cars", "--root", tmp_path, "--split", "test", "--allow-partial"]
    there = fgvr.good(*argv)
    labelled = tmp_path / "cars_test_annos_withlabels.mat"
    labelled.rename(tmp_path / "devkit" / labelled.name)
    assert fgvr.good(*argv) == there
    (tmp_path / "devkit" / labelled.name).unlink()
    assert "cars_test_annos_withlabels.mat: " in fgvr.bad(*argv)


def test_aliases_that_would_mislead_are_dropped(tmp_path: Path) -> None:
    """An alias that is another category's name, that two share, or that differs in punctuation only."""
    photo(tmp_path / "a.jpg")
    categories = {
        "1": Category("kite", ("Milan", "red kite", "KITE.")),
        "2": Category("red kite", ("milan", "Milvus milvus")),
    }
    spec = open_dataset("cub")
    own = {"expects": (), "index": lambda *_: Index(categories, [("a.jpg", "2")]), "splits": {"x": 1}, "sizes": (2,)}
    opened = open_split(spec.__class__(**{**spec.__dict__, **own}), tmp_path, "x")
    (record,) = records(opened)
    assert isinstance(record, dict) and record["aliases"] == ["Milvus milvus"]


# -- rules --


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AM General Hummer SUV 2000", ("SUV",)),
        ("Rolls-Royce Phantom Drophead Coupe Convertible 2012", ("coupe",)),  # an accident of the rule
        ("Aston Martin V8 Vantage Convertible 2012", ("convertible",)),
        ("Chrysler Town and Country Minivan 2012", ("van",)),
        ("Acura TL Type-S 2008", ()),
    ],
)
def test_body_types_by_keyword(name: str, expected: tuple[str, ...]) -> None:
    assert body(name) == expected


@pytest.mark.parametrize(
    ("leaf", "above", "expected"),
    [
        ("House Wren", ["Wrens", "Birds"], ("Wrens",)),
        ("Mallard (Breeding male)", ["Mallard", "Ducks, Geese, and Swans"], ("Ducks", "Geese", "Swans")),
        ("Snow Goose (White morph)", ["Snow Geese", "Ducks and Geese"], ("Ducks", "Geese")),
        ("Blue-winged Warbler", ["Warbler", "Songbirds"], ("Songbirds",)),
        ("Osprey", [], ()),
    ],
)
def test_coarse_labels_of_nabirds(leaf: str, above: list[str], expected: tuple[str, ...]) -> None:
    assert coarse(leaf, above) == expected


def test_names_of_imagenet_are_unique() -> None:
    from fgvr.datasets.imagenet_names import NAMES

    assert len(NAMES) == 1000 == len({name.casefold() for name in NAMES.values()})
    assert list(NAMES) == sorted(NAMES) and all(len(wnid) == 9 for wnid in NAMES)
    assert [NAMES[f"n{n}"] for n in ("03773504", "04008634", "04355933", "04356056")] == [
        "missile", "projectile", "sunglass", "sunglasses",
    ]  # fmt: skip


# -- --labels --


def test_labels_of_a_file(fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.cub(tmp_path)
    argv = ["dataset", "cub", "--root", tmp_path, "--split", "test", "--allow-partial", "--labels"]
    (tmp_path / "l.csv").write_text("category,coarse\nArtic_Tern,Tern;Seabird\nLaysan Albatross,Albatross\n")
    found = {r["category"]: r["labels"] for r in fgvr.good(*argv, tmp_path / "l.csv")}
    assert found["Arctic Tern"] == labels("bird", ["Tern", "Seabird"], ["Arctic Tern"])  # matched by its alias
    assert found["Laysan Albatross"]["coarse"] == ["Albatross"] and found["Common Yellowthroat"]["coarse"] == []
    row = {"category": "common yellowthroat", "coarse": ["Warbler"], "superordinate": "songbird"}
    (tmp_path / "l.jsonl").write_text(json.dumps(row))
    found = {r["category"]: r["labels"] for r in fgvr.good(*argv, tmp_path / "l.jsonl")}
    assert found["Common Yellowthroat"] == labels("songbird", ["Warbler"], ["Common Yellowthroat"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,coarse\nx,y\n", "l.csv:2: expected columns category and coarse, superordinate or fine"),
        ("category,coarse\nLaysan Albatros,x\n", "'laysan albatros' is no category of CUB-200-2011; did you mean 'Lay"),
        ("category,coarse\nArctic Tern,x\narctic tern,y\n", "l.csv:3: category 'arctic tern' comes twice"),
        ('category,coarse\n"torn\n', "l.csv:"),
    ],
)
def test_labels_at_fault(text: str, words: str, fgvr: Fgvr, tmp_path: Path) -> None:
    miniatures.cub(tmp_path)
    (tmp_path / "l.csv").write_text(text)
    argv = ["dataset", "cub", "--root", tmp_path, "--split", "test", "--allow-partial"]
    assert words in fgvr.bad(*argv, "--labels", tmp_path / "l.csv")


def test_labels_for_any_folders(fgvr: Fgvr, tmp_path: Path) -> None:
    photo(tmp_path / "root/train/Red_Kite/1.jpg")
    argv = ["dataset", "folder", "--root", tmp_path / "root", "--split", "train", "--superclass", "bird", "--labels"]
    (tmp_path / "l.csv").write_text("category,coarse\nred kite,kite\n")
    assert [r["labels"] for r in fgvr.good(*argv, tmp_path / "l.csv")] == [labels("bird", ["kite"], ["Red Kite"])]
    photo(tmp_path / "root/train/Osprey/1.jpg")
    (tmp_path / "l.csv").write_text("category,coarse\nred kite,kite\nospray,osprey\n")
    status, out, err = fgvr(*argv, tmp_path / "l.csv")
    assert status == 0 and len(out.splitlines()) == 2
    names = "l.csv: 1 of 2 names are no category of these images, the first is 'ospray'; did you mean 'Osprey'?"
    assert err.endswith(f"{names}\n") and err.count("\n") == 1
    (tmp_path / "l.csv").write_text("category,coarse\nblack kite,kite\n")
    assert "names no category of these images" in fgvr(*argv, tmp_path / "l.csv")[2]


# -- folder, table, hf --


def test_two_folders_of_one_name(fgvr: Fgvr, tmp_path: Path) -> None:
    for folder in ("Red_Kite", "Red Kite"):
        photo(tmp_path / "train" / folder / "1.jpg")
    said = fgvr("dataset", "folder", "--root", tmp_path, "--split", "train", "--superclass", "bird")[2]
    assert "its category 'Red_Kite' and 'Red Kite' are one name; rename one" in said


TABLES = {
    "t.csv": "image,category,split,genus\na/1.jpg,Red Kite,train,Milvus\na/2.jpg,Osprey,test,Pandion\n",
    "t.tsv": "image\tcategory\tsplit\tgenus\na/1.jpg\tRed Kite\ttrain\tMilvus\na/2.jpg\tOsprey\ttest\tPandion\n",
    "t.jsonl": '{"image":"./a/1.jpg","category":"Red Kite","split":"train","genus":["Milvus"]}\n\n'
    '{"image":"./a/2.jpg","category":"Osprey","split":"test","genus":["Pandion"]}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, fgvr: Fgvr, tmp_path: Path) -> None:
    for n in (1, 2):
        photo(tmp_path / f"a/{n}.jpg")
    (tmp_path / name).write_text(TABLES[name])
    argv = ["dataset", "table", "--file", tmp_path / name, "--root", tmp_path, "--superclass", "bird", "--split"]
    assert fgvr.good(*argv, "test") == [
        {"id": "a/2", "image": "a/2.jpg", "category": "Osprey", "superclass": "bird", "split": "test"}
    ]
    found = fgvr.good(*argv, "mine", "--split-column", "", "--coarse-column", "genus")
    assert [r["labels"] for r in found] == [
        labels("bird", ["Milvus"], ["Red Kite"]), labels("bird", ["Pandion"], ["Osprey"]),
    ]  # fmt: skip
    assert {r["split"] for r in found} == {"mine"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label,split\na,b,test\n", "t.csv:2: no column 'category' (there: image, label, split); see --help"),
        ("image,category,split\na,b,train\n", "t.csv: no row of split 'test' (there: train); check --split"),
        ("image,category,split\n", "no row of split 'test' (there: no rows)"),
        ("image,category,split\n../x.jpg,b,test\n", "t.csv:2: image '../x.jpg' leaves --image-root"),
        ("image,category,split\nno.jpg,b,test\n", "t.csv:2: cannot read image 'no.jpg': no such file"),
        ("image,category,split\na/1.jpg,,test\n", "t.csv:2: column 'category' holds ''; it must be text"),
        ("image,category,split\na/1.jpg,b,test\na/1.jpg,b,test\n", "t.csv:3: has the id 'a/1' of an earlier row"),
        ("image,category,split\na/1.jpg,\xff,test\n", "t.csv:2: not UTF-8 CSV"),
        ("image,category,split\na/1.jpg,Crow, male,test\n", "t.csv:2: not UTF-8 CSV (more or fewer cells than the 3"),
        ("image,category,split\na/1.jpg,Crow\n", "t.csv:2: not UTF-8 CSV (more or fewer cells than the 3"),
        ("image,category,split,category\na/1.jpg,a,test,b\n", "t.csv:2: not UTF-8 CSV (column 'category' comes twice)"),
    ],
)
def test_tables_at_fault(text: str, words: str, fgvr: Fgvr, tmp_path: Path) -> None:
    photo(tmp_path / "a/1.jpg")
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    argv = ["dataset", "table", "--file", tmp_path / "t.csv", "--root", tmp_path, "--superclass", "x"]
    status, _, err = fgvr(*argv, "--split", "test")
    assert status == 1 and err.count("\n") == 1 and words in err


def test_a_category_spelt_in_two_ways_is_one(fgvr: Fgvr, tmp_path: Path) -> None:
    """Composed or not, in capitals or not: as the first row of the table has it, in every split; a line says so."""
    names = ["Cafe\u0301 Owl", "caf\xe9 owl", "Caf\xe9 Owl", "Wren", "Wren's"]
    rows = []
    for n, name in enumerate(names):
        photo(tmp_path / f"{n}.jpg")
        rows.append(f"{n}.jpg,{name},{'ab'[n % 2]}")
    argv = ["dataset", "table", "--file", tmp_path / "t.csv", "--root", tmp_path, "--superclass", "x", "--split"]

    def told(split: str, *some: str) -> tuple[list[str], str]:
        (tmp_path / "t.csv").write_text("\n".join(["image,category,split", *some]))
        status, out, err = fgvr(*argv, split, "--split-column", "split")
        assert status == 0 and err.count("\n") <= 1
        return [json.loads(line)["category"] for line in out.splitlines()], err

    for split, found in (("a", ["Caf\xe9 Owl", "Caf\xe9 Owl", "Wren's"]), ("b", ["Caf\xe9 Owl", "Wren"])):
        categories, err = told(split, *rows)
        assert categories == found
        assert "'caf\xe9 owl' differs from 'Caf\xe9 Owl' only in case and became that one, and 1 more; if two" in err
    err = told("a", rows[0], rows[2])[1]
    assert r"'Caf\xe9 Owl' differs from 'Cafe\u0301 Owl' only in Unicode form and became that one; if" in err
    assert told("a", rows[0], rows[3]) == (["Caf\xe9 Owl"], ""), "composing alone is not worth a line"


def test_ids_of_a_table_are_text_or_numbers(fgvr: Fgvr, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    rows = [{"image": "a.jpg", "category": "Crow", "n": n} for n in (7, None, "", {"a": 1})]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["dataset", "table", "--file", tmp_path / "t.jsonl", "--root", tmp_path, "--superclass", "x", "--split", "s"]
    options = ["--split-column", "", "--id-column", "n", "--on-error", "skip", "--errors", tmp_path / "bad.jsonl"]
    status, out, _ = fgvr(*argv, *options)
    assert status == 0 and [json.loads(line)["id"] for line in out.splitlines()] == ["7"]
    assert (tmp_path / "bad.jsonl").read_text().count("column 'n' holds") == 3


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """train-00000-of-00001.parquet, test-…: images as bytes, class labels with names."""
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["red_kite", "osprey"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    for split in ("train", "test"):
        images = []
        for n in range(4):
            file = tmp_path / "src" / split / f"{n}.{'png' if n else 'jpg'}"
            photo(file)
            images.append({"bytes": file.read_bytes(), "path": None})
        made = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)
        (tmp_path / "data").mkdir(exist_ok=True)
        made.to_parquet(str(tmp_path / "data" / f"{split}-00000-of-00001.parquet"))
    return tmp_path / "data"


def test_local_parquet(parquet: Path, fgvr: Fgvr, tmp_path: Path) -> None:
    argv = ["dataset", "hf", "--from", parquet, "--root", tmp_path / "out", "--split", "test", "--superclass", "bird"]
    found = fgvr.good(*argv, "--verify")
    assert [r["category"] for r in found] == ["red kite", "osprey"] * 2
    assert [r["image"] for r in found] == [f"test/{n:07d}.{'png' if n else 'jpg'}" for n in range(4)]
    for n, record in enumerate(found):
        original = tmp_path / "src" / "test" / f"{n}.{'png' if n else 'jpg'}"
        assert (tmp_path / "out" / record["image"]).read_bytes() == original.read_bytes()
    assert "no column 'name' (there: image, label)" in fgvr.bad(*argv, "--category-column", "name")
    assert fgvr(*argv, "-o", tmp_path / "r.jsonl")[0] == 0
    record = json.loads((tmp_path / "r.jsonl.run.json").read_text())
    assert [len(entry["sha256"]) for entry in record["inputs"]] == [64, 64]


def test_other_images_of_equal_size_are_written(parquet: Path, fgvr: Fgvr, tmp_path: Path) -> None:
    argv = ["dataset", "hf", "--from", parquet, "--root", tmp_path / "out", "--split", "test", "--superclass", "bird"]
    file = tmp_path / "out" / fgvr.good(*argv)[1]["image"]
    right = file.read_bytes()
    file.write_bytes(bytes(len(right)))
    fgvr.good(*argv)
    assert file.read_bytes() == right


def test_parquet_at_fault(parquet: Path, fgvr: Fgvr, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    argv = ["dataset", "hf", "--root", tmp_path / "out", "--superclass", "bird", "--from"]
    said = fgvr.bad(*argv, parquet, "--split", "val")
    assert "no file of split 'val' (there: test, train)" in said
    good = (tmp_path / "src" / "train" / "0.jpg").read_bytes()
    names = ["a", "b"]
    tables = {
        "number": {"image": [1, 2], "label": names},
        "paths": {"image": [str(tmp_path / "no.jpg"), str(tmp_path / "src" / "train" / "0.jpg")], "label": names},
        "alike": {"image": [good, good], "label": ["x", "x"]},
    }
    for name, columns in tables.items():
        write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
    assert "cannot read its rows: " in fgvr.bad(*argv, tmp_path / "number.parquet", "--split", "s")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "alike.parquet").read_bytes()[:-50])
    assert "cannot read" in fgvr.bad(*argv, tmp_path / "cut.parquet", "--split", "s")
    assert "s/0000000: cannot read " in fgvr.bad(*argv, tmp_path / "paths.parquet", "--split", "s")
    status, out, _ = fgvr(*argv, tmp_path / "paths.parquet", "--split", "s", "--on-error", "skip")
    assert status == 0 and [json.loads(line)["category"] for line in out.splitlines()] == ["b"]


def test_class_labels_that_become_one_name(fgvr: Fgvr, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a_b", "a b"])})
    photo(tmp_path / "0.png")
    stored = {"bytes": (tmp_path / "0.png").read_bytes(), "path": None}
    made = datasets.Dataset.from_dict({"image": [stored], "label": [1]}, features=features)
    made.to_parquet(str(tmp_path / "x.parquet"))
    argv = ["dataset", "hf", "--root", tmp_path, "--superclass", "x", "--split", "s", "--from", tmp_path / "x.parquet"]
    assert "categories 'a_b' and 'a b' are one name; rename one" in fgvr.bad(*argv)


def test_a_missing_extra_is_named(fgvr: Fgvr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    said = fgvr.bad("dataset", "hf", "--from", "org/name", "--root", tmp_path, "--split", "train", "--superclass", "x")
    assert "pip install 'fgvr[hf]'" in said


def test_a_folder_without_parquet(fgvr: Fgvr, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    argv = ["dataset", "hf", "--from", tmp_path, "--root", tmp_path, "--split", "train", "--superclass", "x"]
    assert "no .parquet file in it" in fgvr.bad(*argv)


# -- --list --


def test_the_list_is_aligned_and_whole(fgvr: Fgvr) -> None:
    status, out, err = fgvr("dataset", "--list")
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert [row.split()[0] for row in rows] == list(DATASETS)
    at = head.index("where")
    assert all(row[at - 2 : at] == "  " and row[at] != " " for row in rows)
    for name, row in zip(DATASETS, rows, strict=True):
        spec = open_dataset(name)
        assert all(f"{split} {count:,}" in row for split, count in spec.splits.items())
        assert spec.terms in row and spec.source in row
        assert spec.superclass and spec.question.endswith("?") and len(spec.sizes) == max(1, len(spec.levels))


# -- the real list files --


def test_real_lists_of_cub(shared: Path, tmp_path: Path) -> None:
    """classes.txt and image_class_labels.txt are real, images.txt and the split made up to the official counts."""
    at = tmp_path / "CUB_200_2011"
    (at / "images").mkdir(parents=True)
    for name in ("classes.txt", "image_class_labels.txt"):
        shutil.copy(shared / "metadata/cub200_meta" / name, at)
    listed(at / "images.txt", [f"{n} x/{n}.jpg" for n in range(1, 11789)])
    listed(at / "train_test_split.txt", [f"{n} {int(n <= 5994)}" for n in range(1, 11789)])
    opened = {split: open_split(open_dataset("cub"), tmp_path, split) for split in ("train", "test")}
    assert [len(opened[split].images) for split in ("train", "test")] == [5994, 5794]
    ours = {normalise(n) for c in opened["test"].index.categories.values() for n in (c.name, *c.aliases)}
    options = shared / "reference/finedefics/options/bird-200-ViT-L-14-laion2b_s32b_b82k-4.json"
    assert {normalise(name) for name in json.loads(options.read_text())} <= ours
    finer = json.loads((shared / "reference/finer_vocabulary_free/class_names.json").read_text())
    assert sum(normalise(name) in ours for name in finer["bird"]) == 200


def test_real_lists_of_cars(shared: Path, tmp_path: Path) -> None:
    """The devkit is real but for the test labels, which are made of its unlabelled test list."""
    from fgvr.datasets.spec import mat

    shutil.copytree(shared / "metadata/cars196_meta/devkit", tmp_path / "devkit")
    for split in ("train", "test"):
        (tmp_path / f"cars_{split}").mkdir()
    (rows,) = mat(tmp_path / "devkit/cars_test_annos.mat", "annotations")
    made = [{"class": 1 + n % 196, "fname": str(name)} for n, name in enumerate(rows["fname"])]
    savemat(tmp_path / "cars_test_annos_withlabels.mat", annotations=miniatures.struct(made))
    opened = {split: open_split(open_dataset("cars"), tmp_path, split) for split in ("train", "test")}
    assert [len(opened[split].images) for split in ("train", "test")] == [8144, 8041]
    assert opened["train"].images[0] == ("cars_train/00001.jpg", "14")
    categories = list(opened["train"].index.categories.values())
    ours = {normalise(n) for category in categories for n in (category.name, *category.aliases)}
    year_first = json.loads((shared / "metadata/cars196_meta/cars_classes.json").read_text())
    assert [name for name in year_first if normalise(name) not in ours] == []
    log = (shared / "reference/finer_benchmark/stanford_cars_out.txt").read_text()
    after = (log.partition(f"=== self.{grain}_classes")[2].partition("[")[2] for grain in ("coarse", "fine"))
    theirs, fine = (ast.literal_eval("[" + text.partition("]")[0] + "]") for text in after)
    rule = dict(zip(fine, theirs, strict=True))
    by_name = {category.name: category.coarse for category in categories}
    assert len(rule) == 196
    assert sum(bool(by_name[name]) for name in rule) == 160  # FINER asked GPT-4 for the other 36
    assert all(by_name[name] in ((), (label,)) for name, label in rule.items())


def test_real_lists_of_flowers(shared: Path, tmp_path: Path) -> None:
    for name in ("imagelabels.mat", "setid.mat"):
        shutil.copy(shared / "metadata/flowers102_meta" / name, tmp_path)
    (tmp_path / "jpg").mkdir()
    spec = open_dataset("flowers")
    opened = {split: open_split(spec, tmp_path, split) for split in spec.splits}
    names = [category.name for category in opened["test"].index.categories.values()]
    assert names == json.loads((shared / "metadata/flowers102_meta/flowers_classes.json").read_text())
    options = json.loads(
        (shared / "reference/finedefics/options/flower-102-ViT-L-14-laion2b_s32b_b82k-4.json").read_text()
    )
    theirs = {Path(row["image"]).name: name for name, rows in options.items() for row in rows}
    ours = {Path(path).name: opened["test"].index.categories[key].name for path, key in opened["test"].images}
    assert ours == theirs


@pytest.mark.parametrize(("name", "file"), [("dogs", "dog-120"), ("pets", "pet-37")])
def test_names_of_the_option_files(name: str, file: str, shared: Path, tmp_path: Path) -> None:
    """Lists made of the images of Finedefics' option files give its names again, FineR's by alias."""
    text = (shared / f"reference/finedefics/options/{file}-ViT-L-14-laion2b_s32b_b82k-4.json").read_text()
    images = {row["image"].partition("/")[2]: label for label, rows in json.loads(text).items() for row in rows}
    if name == "dogs":
        savemat(tmp_path / "test_list.mat", file_list=cells(list(images)))
        (tmp_path / "Images").mkdir()
    else:
        listed(tmp_path / "annotations/test.txt", [f"{Path(image).stem} 1 1 1" for image in images])
        (tmp_path / "images").mkdir()
    spec = open_dataset(name)
    index = spec.index(tmp_path, "test", "")
    assert len(index.categories) == spec.sizes[0]
    assert [index.categories[key].name for _, key in index.images] == [clean(label) for label in images.values()]
    finer = json.loads((shared / "reference/finer_vocabulary_free/class_names.json").read_text())[name[:-1]]
    ours = {normalise(n) for category in index.categories.values() for n in (category.name, *category.aliases)}
    assert [other for other in finer if normalise(other) not in ours] == []


def clean(label: str) -> str:
    return label.replace("_", " ")
