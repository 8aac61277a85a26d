"""`fgvr dataset folder`: images in folders to image records."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.procs import FRESH, Ended, read_jsonl, run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """root/{train/{Red_Kite,Red-Bell-Pepper},test/Red_Kite}, with odd files in between."""
    for path in ("train/Red_Kite/b.jpg", "train/Red_Kite/a.PNG", "train/Red-Bell-Pepper/1.jpg", "test/Red_Kite/c.jpg"):
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (len(path), 0, 0)).save(file)
    for path in ("train/Red_Kite/.hidden.jpg", "train/Red_Kite/notes.txt"):
        (tmp_path / "root" / path).write_text("x")
    return tmp_path / "root"


def folder(root: Path, *more: str) -> Ended:
    split = [] if "--split" in more else ["--split", "train"]
    argv = [FRESH, "dataset", "folder", "--root", "root", "--superclass", "thing", *split, *more]
    return run(argv, root.parent)


def test_layout_names_and_order(root: Path) -> None:
    ended = folder(root)
    assert ended.status == 0
    assert ended.err == "fgvr dataset folder: 2 files left out: hidden, or no image by their suffix\n"
    assert read_jsonl(ended.out) == [
        {"id": stem, "image": stem + suffix, "category": category, "superclass": "thing", "split": "train"}
        for stem, suffix, category in (
            ("train/Red-Bell-Pepper/1", ".jpg", "Red-Bell-Pepper"),
            ("train/Red_Kite/a", ".PNG", "Red Kite"),
            ("train/Red_Kite/b", ".jpg", "Red Kite"),
        )
    ]
    names = {record["category"] for record in read_jsonl(folder(root, "--hyphens-to-spaces").out)}
    assert names == {"Red Bell Pepper", "Red Kite"}


def test_deeper_folders_and_hidden_ones(root: Path) -> None:
    for path in ("train/birds/kites/Black_Kite/x.jpg", "train/.cache/Y/y.jpg"):
        (root / path).parent.mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(root / path)
    found = {record["image"]: record["category"] for record in read_jsonl(folder(root).out)}
    assert found["train/birds/kites/Black_Kite/x.jpg"] == "Black Kite"
    assert not any(".cache" in path for path in found)


def test_split_that_is_not_there(root: Path) -> None:
    ended = folder(root, "--split", "val")
    assert ended.status == 1
    assert ended.err == (
        "fgvr dataset folder: root: no split folder 'val' (there: test, train); check --split and --root\n"
    )
    (root / "val").mkdir()
    ended = folder(root, "--split", "val")
    assert (ended.status, ended.err) == (1, "fgvr dataset folder: root/val: no images; check --split and --root\n")


def test_split_file(root: Path) -> None:
    (root.parent / "splits.csv").write_bytes(
        b"\xef\xbb\xbfsplit,path,category\r\nmine,train/Red_Kite/b.jpg,\r\nmine,test/Red_Kite/c.jpg,Milan_royal\r\n"
        b'other,train/Red_Kite/a.PNG,x\r\nmine,"train/Red-Bell-Pepper/1.jpg","Pepper, red"\r\nmine,readme.txt,x\r\n'
    )
    ended = folder(root, "--split-file", "splits.csv", "--split", "mine")
    assert ended.status == 0 and "1 files left out" in ended.err
    assert {r["image"]: r["category"] for r in read_jsonl(ended.out)} == {
        "test/Red_Kite/c.jpg": "Milan_royal",  # a category that is written down is taken as it is
        "train/Red-Bell-Pepper/1.jpg": "Pepper, red",
        "train/Red_Kite/b.jpg": "Red Kite",
    }
    assert {r["split"] for r in read_jsonl(ended.out)} == {"mine"}
    assert folder(root, "--split-file", "splits.csv", "-o", "out", "--split", "mine").status == 0
    assert '"splits.csv"' in (root.parent / "out.run.json").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,category\na.jpg,b\n", "splits.csv:1: no column split;"),
        ("", "splits.csv:1: no column path, split;"),
        ("path,split\n\xff.jpg,train\n", "splits.csv:2: not a UTF-8 CSV file"),
        ("path,split\na.jpg,other\n", "splits.csv, split 'train': no images;"),
        ("path,split\nno/such/file.jpg,train\n", "splits.csv:2: cannot read image 'no/such/file.jpg': no such file"),
        ("path,split\n../x/secret.jpg,train\n", "splits.csv:2: image '../x/secret.jpg' leaves --image-root"),
        ("path,split\n/etc/secret.jpg,train\n", "splits.csv:2: image '/etc/secret.jpg' is not a path relative"),
        ("path,split\nloose.jpg,train\n", "splits.csv:2: is in no category folder;"),
    ],
)
def test_split_file_at_fault(root: Path, text: str, words: str) -> None:
    (root.parent / "splits.csv").write_bytes(text.encode("latin-1"))
    (root / "loose.jpg").write_bytes((root / "test/Red_Kite/c.jpg").read_bytes())
    ended = folder(root, "--split-file", "splits.csv")
    assert ended.status == 1 and ended.err.count("\n") == 1
    assert ended.err.startswith("fgvr dataset folder: " + words)


def test_two_files_with_one_id(root: Path) -> None:
    Image.new("RGB", (9, 9)).save(root / "train/Red_Kite/b.png")
    ended = folder(root)
    assert ended.status == 1 and "train/Red_Kite/b.png: has the same id as train/Red_Kite/b.jpg" in ended.err
    ended = folder(root, "--on-error", "skip", "--errors", "errors")
    assert ended.status == 0 and len(read_jsonl(ended.out)) == 3
    assert read_jsonl(root.parent / "errors")[0]["image"] == "train/Red_Kite/b.png"


def test_unreadable_images_are_found_on_request(root: Path) -> None:
    (root / "train/Red_Kite/a.PNG").write_text("no image")
    assert len(read_jsonl(folder(root).out)) == 3
    ended = folder(root, "--verify")
    assert ended.status == 1
    assert "train/Red_Kite/a.PNG: cannot read image 'train/Red_Kite/a.PNG': not an image; replace it" in ended.err
    (root / "train/Red_Kite/b.jpg").write_text("")
    assert "the file is empty" in folder(root).err  # seen without looking inside


def test_file_name_that_is_not_utf8(root: Path) -> None:
    os.rename(root / "train/Red_Kite/a.PNG", os.fsencode(str(root / "train/Red_Kite")) + b"/\xe9.png")
    ended = folder(root)
    assert ended.status == 1 and ended.err.count("\n") == 1
    assert r"'train/Red_Kite/\udce9.png': the file name is not UTF-8; rename it" in ended.err


def test_shared_photographs(shared: Path, tmp_path: Path) -> None:
    argv = [FRESH, "dataset", "folder", "--root", str(shared / "images" / "grocery_store"), "--split", "val"]
    ended = run([*argv, "--superclass", "product", "--hyphens-to-spaces", "--verify"], tmp_path)
    assert (ended.status, ended.err) == (0, "")
    records = read_jsonl(ended.out)
    there = {path.name.replace("-", " ") for path in (shared / "images" / "grocery_store" / "val").iterdir()}
    assert {record["category"] for record in records} == there and "Arla Standard Milk" in there
    assert [r["image"] for r in records] == sorted(r["image"] for r in records)
