"""`fgvr dataset --check` and `--download`: leaks between splits, archives from a server that breaks off."""

from __future__ import annotations

import hashlib
import io
import itertools
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from fgvr.datasets import download, open_dataset
from fgvr.datasets.leaks import _nearest
from fgvr.datasets.published import open_split, records
from fgvr.datasets.spec import Archive
from fgvr.errors import FgvrError, TryAgain
from fgvr.rng import for_record
from tests import miniatures
from tests.miniatures import Fgvr, photo
from tests.procs import FRESH, Ended, read_jsonl, run, write_jsonl


class World:
    """A folder with images and files of records."""

    def __init__(self, root: Path, fgvr: Fgvr) -> None:
        self.root, self.fgvr = root, fgvr

    def file(self, name: str, *images: str, **more: str) -> str:
        """A file of records; an image that is not there yet is made."""
        rows = []
        for image in images:
            if not (self.root / image).exists():
                photo(self.root / image)
            rows.append({"id": image.rpartition(".")[0], "image": image, "category": "Red Kite", **more})
        write_jsonl(self.root / name, rows)
        return name

    def check(self, *argv: str) -> Ended:
        status, out, err = self.fgvr("dataset", "--check", "--image-root", ".", *argv)
        return Ended(status, out.encode(), err)


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tmp_path, Fgvr(capsys))


def found(ended: Ended) -> list[tuple[str, bool, str, str]]:
    pairs = [(r["kind"], r["leak"], r["first"]["image"], r["second"]["image"]) for r in read_jsonl(ended.out)]
    return sorted(pairs)


def test_nothing_shared(world: World) -> None:
    ended = world.check(world.file("train", "a/1.png", "a/2.png"), world.file("test", "b/3.png"))
    assert (ended.status, ended.out) == (0, b"")
    assert ended.err == "fgvr dataset check: 3 images checked: no leaks\n"


def test_one_path_in_two_files(world: World) -> None:
    """The fault behind 23.87 % on Cars: a flat folder, where train and test images share file names."""
    ended = world.check(world.file("train", "images/00001.jpg"), world.file("test", "images/00001.jpg", id="other"))
    assert ended.status == 1 and found(ended) == [("image", True, "images/00001.jpg", "images/00001.jpg")]
    assert ended.err == (
        "fgvr dataset check: leaks: 1 equal image paths; first: images/00001.jpg (test) and images/00001.jpg (train); "
        "take them out of one file, or --allow 1\n"
    )
    assert world.check("train", "test", "--allow", "1").status == 0
    assert world.fgvr("dataset", "--image-root", ".", "--check", "train", "test")[0] == 1, "the flag's place is free"


def test_a_copied_file(world: World) -> None:
    """The same fault as Finedefics had it: the training image lies where the test image should."""
    train = world.file("train", "cars_train/00001.jpg", "cars_train/00002.jpg")
    (world.root / "images").mkdir()
    shutil.copy(world.root / "cars_train/00002.jpg", world.root / "images/00001.jpg")
    ended = world.check(train, world.file("test", "images/00001.jpg"))
    assert ended.status == 1
    assert ("content", True, "cars_train/00002.jpg", "images/00001.jpg") in found(ended)


def test_file_names_of_the_official_layout_are_a_warning(world: World, tmp_path: Path) -> None:
    """Train and test of Cars share file names in different folders: told in one finding, no leak unless --strict."""
    miniatures.cars(tmp_path)
    spec = open_dataset("cars")
    for split in spec.splits:
        write_jsonl(tmp_path / split, list(records(open_split(spec, tmp_path, split, partial=True))))
    ended = world.check("train", "test")
    assert ended.status == 0 and found(ended) == [("name", False, "cars_train/00001.jpg", "cars_test/00001.jpg")]
    assert read_jsonl(ended.out)[0]["count"] == 8
    assert "no leaks; warnings: 8 file names that differ in their folder only" in ended.err
    assert world.check("train", "test", "--strict").status == 1


def test_records_without_an_id_or_a_category(world: World) -> None:
    world.file("train", "a/1.png")
    write_jsonl(world.root / "test", [{"image": "a/1.png"}])
    ended = world.check("train", "test")
    assert (ended.status, ended.out) == (1, b"")
    assert ended.err == "fgvr dataset check: test:1: record has no 'id'; run `fgvr dataset` first\n"
    write_jsonl(world.root / "test", [{"id": "x", "image": "a/1.png", "category": 5}])
    assert found(world.check("train", "test")) == [("image", True, "a/1.png", "a/1.png")]


def test_ids_and_categories(world: World) -> None:
    train = world.file("train", "a/1.png", "a/2.png", id="x")
    ended = world.check(train, world.file("test", "b/3.png", id="x", category="red_kite"))
    assert ended.status == 1
    assert found(ended) == [
        ("category", False, "a/1.png", "b/3.png"),
        ("id", True, "a/1.png", "a/2.png"),
        ("id", True, "a/1.png", "b/3.png"),
    ]


def test_equal_bytes_within_a_split_are_a_warning(world: World) -> None:
    photo(world.root / "a/1.png")
    shutil.copy(world.root / "a/1.png", world.root / "a/2.png")
    ended = world.check(world.file("train", "a/1.png", "a/2.png"))
    assert ended.status == 0 and found(ended) == [("content", False, "a/1.png", "a/2.png")]


def test_near_images(world: World) -> None:
    """Recompressed, scaled and brightened copies are near; other images are not."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((160, 160), Image.Resampling.BICUBIC)
    (world.root / "b").mkdir()
    smooth.save(world.root / "b/first.png")
    smooth.resize((100, 100)).save(world.root / "b/scaled.jpg", quality=60)
    smooth.point(lambda v: min(255, v + 12)).save(world.root / "b/brighter.png")
    train = world.file("train", "a/1.png", "b/first.png")
    test = world.file("test", "b/scaled.jpg", "b/brighter.png", "c/2.png")
    ended = world.check(train, test)
    near = {(r["first"]["image"], r["second"]["image"]) for r in read_jsonl(ended.out) if r["kind"] == "near"}
    assert ended.status == 0 and near == {("b/first.png", "b/scaled.jpg"), ("b/first.png", "b/brighter.png")}
    assert all(r["distance"] <= 4 for r in read_jsonl(ended.out))
    assert world.check(train, test, "--near", "-1").out == b""
    assert world.check(train, test, "--strict").status == 1


@pytest.mark.parametrize("near", [0, 3, 4, 9])
def test_nearest_against_a_slow_loop(near: int) -> None:
    rng = for_record(0, "x", "test")
    first = [rng.getrandbits(64) for _ in range(60)]
    second = [rng.choice(first) ^ sum(1 << rng.randrange(64) for _ in range(rng.randrange(12))) for _ in range(60)]
    second = [value & (2**64 - 1) for value in second]
    for one, (at, distance) in zip(second, _nearest(first, second, near), strict=True):
        best = min((one ^ other).bit_count() for other in first)
        assert distance == (best if best <= near else -1)
        assert at == -1 or (first[at] ^ one).bit_count() == best


def test_an_image_that_cannot_be_read(world: World) -> None:
    train = world.file("train", "a/1.png")
    (world.root / "a/1.png").write_text("x")
    ended = world.check(train)
    assert ended.status == 1 and "train: a/1: cannot read image 'a/1.png': not an image" in ended.err
    ended = world.check(train, "--on-error", "skip")
    assert ended.status == 0 and "1 of 1 records skipped" in ended.err


# -- download --


class Server:
    """Serves bytes by path, with ranges; `breaks` cuts the next answers short after so many bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.asked: list[str | None] = []
        self.ranges = True
        self.status = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.headers.get("Range"))
                data = outer.files.get(self.path.lstrip("/"))
                if outer.status or data is None:
                    self.send_error(outer.status or 404)
                    return
                start = 0
                if outer.ranges and self.headers.get("Range"):
                    start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                    if start >= len(data):
                        self.send_error(416)
                        return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                end = start + outer.breaks.pop(0) if outer.breaks else len(data)
                self.wfile.write(data[start:end])

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.http.serve_forever, daemon=True).start()

    def archive(self, name: str, data: bytes, gives: str = "") -> Archive:
        self.files[name] = data
        port = self.http.server_address[1]
        return Archive(f"http://127.0.0.1:{port}/{name}", hashlib.md5(data).hexdigest(), gives or name)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def plain(chunks: Iterator[bytes], total: int | None, have: int) -> Iterator[bytes]:
    return chunks


DATA = bytes(range(256)) * 9000


def test_a_download_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", DATA)
    server.breaks = [1_000_000, 500_000]
    for kept in (1_000_000, 1_500_000):
        with pytest.raises(TryAgain, match=r"broke off.*run again, what came is kept in .*x\.mat\.part"):
            download.download(archive, tmp_path / "x.mat", plain)
        assert (tmp_path / "x.mat.part").stat().st_size == kept and not (tmp_path / "x.mat").exists()
    download.download(archive, tmp_path / "x.mat", plain)
    assert (tmp_path / "x.mat").read_bytes() == DATA and not (tmp_path / "x.mat.part").exists()
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", DATA)
    server.ranges, server.breaks = False, [1_000_000]
    with pytest.raises(TryAgain):
        download.download(archive, tmp_path / "x.mat", plain)
    download.download(archive, tmp_path / "x.mat", plain)
    assert (tmp_path / "x.mat").read_bytes() == DATA


def test_a_whole_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", DATA)
    (tmp_path / "x.mat.part").write_bytes(DATA)
    download.download(archive, tmp_path / "x.mat", plain)
    assert (tmp_path / "x.mat").read_bytes() == DATA


def test_another_checksum(server: Server, tmp_path: Path) -> None:
    archive = replace(server.archive("x.mat", DATA), md5="0" * 32)
    with pytest.raises(FgvrError, match=f"MD5 {hashlib.md5(DATA).hexdigest()}, must be 0000") as caught:
        download.download(archive, tmp_path / "x.mat", plain)
    assert caught.value.status == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "kind"), [(404, FgvrError), (403, FgvrError), (503, TryAgain), (429, TryAgain)])
def test_what_the_server_refuses(status: int, kind: type[FgvrError], server: Server, tmp_path: Path) -> None:
    archive = server.archive("x.mat", DATA)
    server.status = status
    with pytest.raises(FgvrError) as caught:
        download.download(archive, tmp_path / "x.mat", plain)
    assert type(caught.value) is kind and str(status) in str(caught.value)


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(TryAgain, match="refused"):
        download.download(Archive("http://127.0.0.1:9/x.mat", "", "x"), tmp_path / "x.mat", plain)


def tar(root: Path, *extra: tarfile.TarInfo) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as packed:
        for path in sorted(root.iterdir()):
            packed.add(path, path.name)
        for member in extra:
            packed.addfile(member)
    return data.getvalue()


def test_fetched_unpacked_and_read(server: Server, tmp_path: Path) -> None:
    """Nothing is fetched twice; an archive that was not unpacked to its end is unpacked again."""
    miniatures.cub(tmp_path / "src")
    archive = server.archive("CUB.tgz", tar(tmp_path / "src"), "CUB_200_2011")
    spec = replace(open_dataset("cub"), archives=(archive, server.archive("note.txt", b"x")))
    said: list[str] = []
    root = tmp_path / "root"
    root.mkdir()
    for _ in range(2):
        download.fetch(spec, root, "train", said.append, plain)
    assert len(list(records(open_split(spec, root, "train", partial=True)))) == 8
    assert sorted(path.name for path in root.iterdir()) == ["CUB_200_2011", "note.txt"] and len(server.asked) == 2
    assert [line.split()[0] for line in said] == ["fetching", "unpacking", "fetching"]
    (root / "CUB.tgz").write_bytes(server.files["CUB.tgz"])  # as a kill while unpacking leaves it
    (root / "CUB_200_2011/images.txt").unlink()
    download.fetch(spec, root, "train", said.append, plain)
    assert (root / "CUB_200_2011/images.txt").exists() and len(server.asked) == 2
    (root / "CUB.tgz").write_bytes(b"x")
    with pytest.raises(FgvrError, match=r"must be .*; remove it and run again"):
        download.fetch(spec, root, "train", said.append, plain)


def test_an_archive_that_would_leave_the_root(server: Server, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "root").mkdir()
    spec = open_dataset("cub")
    bad = replace(spec, archives=(server.archive("x.tar.gz", tar(tmp_path / "src", tarfile.TarInfo("../evil")), "x"),))
    with pytest.raises(FgvrError, match="cannot unpack"):
        download.fetch(bad, tmp_path / "root", "train", lambda line: None, plain)
    assert not (tmp_path / "evil").exists()


def test_splits_have_archives_of_their_own(server: Server, tmp_path: Path) -> None:
    archives = [replace(server.archive(f"{s}.json", b"{}"), splits=(s,)) for s in ("train", "val")]
    spec = replace(open_dataset("inat2021"), archives=tuple(archives))
    download.fetch(spec, tmp_path, "val", lambda line: None, plain)
    assert [path.name for path in tmp_path.iterdir()] == ["val.json"]


def test_a_set_that_must_be_fetched_by_hand(tmp_path: Path) -> None:
    argv = [FRESH, "dataset", "nabirds", "--root", "new", "--split", "test", "--download"]
    ended = run(argv, tmp_path)
    assert ended.status == 1 and "https://dl.allaboutbirds.org/nabirds" in ended.err


def test_checksums_are_well_formed_and_no_archive_comes_twice() -> None:
    from fgvr.datasets import DATASETS

    archives = [archive for name in DATASETS for archive in open_dataset(name).archives]
    assert all(len(a.md5) == 32 and int(a.md5, 16) for a in archives)
    assert all(a.url != b.url and a.md5 != b.md5 for a, b in itertools.combinations(archives, 2))
