"""Run records and the chain that they make: fgvr.provenance, fgvr.lineage and `fgvr provenance`."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fgvr import lineage, provenance
from fgvr.errors import FgvrError
from tests.procs import FRESH, PRIVATE, Ended, run, write_jsonl


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """work/{img, images.jsonl -> shouted.jsonl -> pairs.jsonl}, and an adapter trained on the shouted records."""
    work = tmp_path / "work"
    for n in range(4):
        file = work / "img" / "train" / f"bird{n % 2}" / f"{n}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (n, 0, 0)).save(file)
    write_jsonl(work / "words.jsonl", [{"word": "loud"}])
    steps = [
        [FRESH, "dataset", "folder", "--root", "img", "--split", "train", "--superclass", "bird", "-o", "images.jsonl"],
        [PRIVATE, "shout", "images.jsonl", "--words", "words.jsonl", "-o", "shouted.jsonl"],
        [PRIVATE, "train", "shouted.jsonl", "-o", "adapter"],
        [PRIVATE, "shout", "images.jsonl", "--adapter", "adapter", "-o", "tuned.jsonl"],
    ]
    for step in steps:
        assert run(step, work).status == 0
    ended = run([PRIVATE, "pairs", "-o", "pairs.jsonl"], work, work / "tuned.jsonl")
    assert ended.status == 0
    return work


def show(work: Path, target: str, *more: str) -> Ended:
    return run([FRESH, "provenance", target, *more], work)


def shape(node: lineage.Node) -> dict:
    """The names and states, as nested dictionaries."""
    return {f"{node.name} {node.state}".strip(): [shape(below) for below in node.inputs]}


IMAGES = {"images.jsonl": [{"img/ (4 images)": []}]}
SHOUTED = {"shouted.jsonl": [IMAGES, {"words.jsonl origin not found": []}]}


def test_chain_goes_back_to_the_images(chain: Path) -> None:
    """Through stdin, a side input and an adapter folder."""
    node = lineage.trace(chain / "pairs.jsonl")
    assert shape(node) == {"pairs.jsonl": [{"tuned.jsonl": [IMAGES, {"adapter": [SHOUTED]}]}]}
    assert lineage.trace(chain / "pairs.jsonl.run.json") == lineage.trace(chain / "pairs.jsonl")


def test_tree_and_json(chain: Path) -> None:
    ended = show(chain, "pairs.jsonl")
    assert (ended.status, ended.err) == (0, "")
    text = ended.out.decode()
    for words in ("by fgvr shout 0", ": marks 1, seed 0", "model spec none", "img/ (4 images)", "origin not found"):
        assert words in text
    assert text.splitlines()[0].startswith("pairs.jsonl  sha256 ")
    assert text.count("by fgvr dataset folder") == 1 and text.count("images.jsonl") == 2  # the second time only named
    assert text.count("(see above)") == 1
    tree = json.loads(show(chain, "pairs.jsonl", "--json").out)
    assert tree["name"] == "pairs.jsonl" and tree["state"] == "ok" and tree["run"]["command"] == "pairs"
    assert tree["inputs"][0]["name"] == "tuned.jsonl"


def test_change_is_seen(chain: Path) -> None:
    with open(chain / "tuned.jsonl", "a") as file:
        file.write("{}\n")
    ended = show(chain, "pairs.jsonl")
    assert ended.status == 1
    assert ended.err == "fgvr provenance: changed since the run: tuned.jsonl; make it again, or restore it\n"
    assert "    tuned.jsonl  sha256" in ended.out.decode() and "** changed since **" in ended.out.decode()
    ended = show(chain, "tuned.jsonl")
    assert ended.status == 1 and "tuned.jsonl" in ended.err


def test_change_of_an_input_without_run_record(chain: Path) -> None:
    (chain / "words.jsonl").write_text('{"word":"soft"}\n')
    assert show(chain, "shouted.jsonl").status == 1
    (chain / "words.jsonl").unlink()
    assert show(chain, "shouted.jsonl").status == 0  # nobody knows


def test_input_made_anew_is_a_change(chain: Path) -> None:
    assert run([PRIVATE, "shout", "images.jsonl", "--marks", "2", "-o", "tuned.jsonl"], chain).status == 0
    # read from stdin: nothing says which file it was
    assert shape(lineage.trace(chain / "pairs.jsonl")) == {"pairs.jsonl": [{f"<stdin> {lineage.PIPED}": []}]}
    assert run([PRIVATE, "shout", "images.jsonl", "--marks", "2", "-o", "shouted.jsonl"], chain).status == 0
    assert "shouted.jsonl changed since" in str(shape(lineage.trace(chain / "adapter")))


def test_folder_change_is_seen(chain: Path) -> None:
    (chain / "adapter" / "extra").write_text("x")
    ended = show(chain, "tuned.jsonl")
    assert ended.status == 1 and "adapter" in ended.err


def test_file_that_is_gone(chain: Path) -> None:
    (chain / "tuned.jsonl").unlink()
    node = lineage.trace(chain / "pairs.jsonl")
    assert shape(node) == {"pairs.jsonl": [{"tuned.jsonl no longer there": [IMAGES, {"adapter": [SHOUTED]}]}]}


def test_search_folders_and_renames(chain: Path, tmp_path: Path) -> None:
    """Hashes tie the chain, not names or places."""
    other = tmp_path / "elsewhere" / "deep"
    other.mkdir(parents=True)
    for name in ("tuned.jsonl", "tuned.jsonl.run.json"):
        shutil.move(chain / name, other / name.replace("tuned", "renamed"))
    assert shape(lineage.trace(chain / "pairs.jsonl")) == {"pairs.jsonl": [{f"<stdin> {lineage.PIPED}": []}]}
    node = lineage.trace(chain / "pairs.jsonl", [tmp_path / "elsewhere"])
    assert shape(node) == {"pairs.jsonl": [{"renamed.jsonl": [IMAGES, {"adapter": [SHOUTED]}]}]}
    shutil.copy(chain / "pairs.jsonl", chain / "copy.jsonl")
    assert list(shape(lineage.trace(chain / "copy.jsonl"))) == ["copy.jsonl"]
    ended = show(chain, "pairs.jsonl", "--search", str(tmp_path / "elsewhere"))
    assert ended.status == 0 and "renamed.jsonl" in ended.out.decode()


def test_images_on_request(chain: Path) -> None:
    assert show(chain, "shouted.jsonl", "--images", "img").status == 0
    Image.new("RGB", (8, 8), (99, 0, 0)).save(chain / "img" / "train" / "bird0" / "0.png")
    assert show(chain, "shouted.jsonl").status == 0
    ended = show(chain, "shouted.jsonl", "--images", "img")
    assert ended.status == 1 and "img/ (4 images)" in ended.err


def test_what_cannot_be_traced(chain: Path) -> None:
    ended = show(chain, "words.jsonl")
    assert (ended.status, ended.out) == (1, b"")
    assert ended.err == (
        "fgvr provenance: words.jsonl: no run record words.jsonl.run.json; was it written with -o?\n"
    )
    with pytest.raises(FgvrError, match="no such file"):
        lineage.trace(chain / "nowhere")
    (chain / "pairs.jsonl.run.json").write_text('{"torn')
    with pytest.raises(FgvrError, match="no run record"):
        lineage.trace(chain / "pairs.jsonl")


def test_run_record_of_a_data_set(chain: Path) -> None:
    record = json.loads((chain / "images.jsonl.run.json").read_text())
    paths = sorted(p.relative_to(chain / "img").as_posix() for p in chain.glob("img/*/*/*.png"))
    lines = [f"{hashlib.sha256((chain / 'img' / p).read_bytes()).hexdigest()}  {p}\n" for p in paths]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert record["images"] == {"root": "img", "files": 4, "sha256": digest}
    assert record["settings"]["root"] == "img" and record["inputs"] == [] and record["command"] == "dataset folder"


def test_settings_that_only_change_speed_stay_out(chain: Path) -> None:
    record = json.loads((chain / "shouted.jsonl.run.json").read_text())
    assert record["settings"] == {"marks": 1, "seed": 0} and record["seed"] == 0
    assert [entry["name"] for entry in record["inputs"]] == ["images.jsonl", "words.jsonl"]
    assert [entry["records"] for entry in record["inputs"]] == [4, 1]
    assert record["prompt_sha256"] == hashlib.sha256(b"shout {}").hexdigest()
    assert set(record["versions"]) >= {"python"}


def test_portable_names(tmp_path: Path) -> None:
    beside = tmp_path / "runs" / "out.jsonl"
    (tmp_path / "runs").mkdir()
    assert provenance.portable(str(tmp_path / "runs" / "images" / "x"), beside) == "images/x"
    assert provenance.portable(str(tmp_path / "runs-two" / "x"), beside) == "x"
    assert provenance.portable("/data/x", beside) == "x"
    assert provenance.portable("/data/x/", None) == "x"


def test_save_leaves_the_old_record_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.run.json"
    old = provenance.run_record("a", {})
    provenance.save(path, old)

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        provenance.save(path, provenance.run_record("b", {}))
    assert provenance.load(path) == old
    assert [p.name for p in tmp_path.iterdir()] == ["x.run.json"]


@pytest.mark.parametrize("name", ["fgvr", "settings", "inputs", "models", "versions", "output", "images"])
@pytest.mark.parametrize("value", [None, 5, "x", [5], {"sha256": 5}])
def test_a_damaged_run_record_is_none(name: str, value: object, tmp_path: Path) -> None:
    """As one that cannot be read is: --resume and `fgvr provenance` both follow it."""
    path = tmp_path / "out.run.json"
    provenance.save(path, {**provenance.run_record("eval", {}, []), name: value})
    fits = (name == "fgvr" and value == "x") or (name in ("settings", "versions") and isinstance(value, dict))
    assert (provenance.load(path) is None) != fits
