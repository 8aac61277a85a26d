"""mine-negatives, against a small encoder that knows an image by its colour."""

from __future__ import annotations

import csv
import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fgvr.errors import FgvrError, UsageError
from fgvr.models.encoders import parts
from fgvr.settings import Mine
from fgvr.stages.mine import FromModel, Report, mine_names
from fgvr.stages.mine import mine as stage
from fgvr.stream import Bad, Item


class Colours:
    """The mean colour of an image, as a direction."""

    def __init__(self) -> None:
        self.about = {"name": "colours"}
        self.calls: list[int] = []

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        self.calls.append(len(images))
        rows = torch.tensor([image.resize((1, 1)).getpixel((0, 0)) for image in images], dtype=torch.float32) + 1
        return torch.nn.functional.normalize(rows, dim=1)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """A prompt's last word is a colour."""
        known = {"red": (250, 0, 0), "orange": (250, 100, 0), "yellow": (250, 250, 0), "blue": (0, 0, 250)}
        rows = torch.tensor([known[text.split()[-1]] for text in texts], dtype=torch.float32) + 1
        return torch.nn.functional.normalize(rows, dim=1)


def mine(
    items: Iterable[Item], encoder: Colours, root: Path, per_anchor: int, batch: int, pool: Any = None, **more: Any
) -> Iterator[Item]:
    source = FromModel(encoder, parts(encoder), root, batch=batch, hashes=more.get("hash_distance") is not None)
    extra = {name: more.pop(name) for name in ("report", "wanted") if name in more}
    return stage(items, source, Mine(per_anchor=per_anchor, **more), pool, **extra)


def triple(root: Path, name: str, category: str, colour: tuple[int, int, int]) -> dict:
    Image.new("RGB", (4, 4), colour).save(root / f"{name}.png")
    return {"id": name, "image": f"{name}.png", "category": category, "description": f"text of {name}", "note": 1}


@pytest.fixture
def triples(tmp_path: Path) -> list[dict]:
    """Reds, two oranges, a yellow and a blue."""
    return [
        triple(tmp_path, "red", "red", (250, 0, 0)),
        triple(tmp_path, "orange-1", "orange", (250, 80, 0)),
        triple(tmp_path, "orange-2", "orange", (250, 120, 0)),
        triple(tmp_path, "yellow", "yellow", (250, 250, 0)),
        triple(tmp_path, "blue", "blue", (0, 0, 250)),
    ]


def test_hardest_first_one_image_a_category(triples: list[dict], tmp_path: Path) -> None:
    mined = list(mine(triples, Colours(), tmp_path, 2, 2))
    assert [{k: v for k, v in r.items() if k != "negatives"} for r in mined] == triples
    found = {r["id"]: [n["id"] for n in r["negatives"]] for r in mined}
    assert found["red"] == ["orange-1", "yellow"]
    assert found["yellow"] == ["orange-2", "red"]
    assert found["orange-2"] == ["yellow", "red"]
    first = mined[0]["negatives"][0]
    assert list(first) == ["id", "category", "description", "similarity"]
    assert first["description"] == "text of orange-1"
    a, b = torch.tensor([251.0, 1, 1]), torch.tensor([251.0, 81, 1])
    assert first["similarity"] == round(float(torch.nn.functional.cosine_similarity(a, b, dim=0)), 4)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_batches_change_nothing(triples: list[dict], tmp_path: Path, batch: int) -> None:
    encoder = Colours()
    assert list(mine(triples, encoder, tmp_path, 3, batch)) == list(mine(triples, Colours(), tmp_path, 3, 2))
    assert max(encoder.calls) <= batch


def test_as_many_negatives_as_there_are_categories(triples: list[dict], tmp_path: Path) -> None:
    mined = list(mine(triples, Colours(), tmp_path, 9, 2))
    assert [len(r["negatives"]) for r in mined] == [3] * 5
    alone = list(mine(triples[1:3], Colours(), tmp_path, 3, 2))
    assert [r["negatives"] for r in alone] == [[], []]
    assert list(mine([], Colours(), tmp_path, 3, 2)) == []


def test_a_pool_of_its_own(triples: list[dict], tmp_path: Path) -> None:
    anchor = {name: value for name, value in triples[0].items() if name != "description"}
    (mined,) = mine([anchor], Colours(), tmp_path, 2, 2, triples[1:])
    assert [n["id"] for n in mined["negatives"]] == ["orange-1", "yellow"]
    assert "description" not in mined
    (mined,) = mine([{**anchor, "category": "orange"}], Colours(), tmp_path, 1, 2, triples[1:])
    assert [n["id"] for n in mined["negatives"]] == ["yellow"], "the anchor's own category is no negative"
    (mined,) = mine([anchor], Colours(), tmp_path, 2, 2, [])
    assert mined["negatives"] == []


def test_a_bad_image_keeps_its_place_and_is_no_candidate(triples: list[dict], tmp_path: Path) -> None:
    (tmp_path / "orange-1.png").write_bytes(b"")
    earlier = Bad("in:1", "torn")
    mined = list(mine([earlier, *triples], Colours(), tmp_path, 2, 2))
    assert mined[0] is earlier
    assert isinstance(mined[2], Bad) and mined[2].where == "orange-1" and "empty" in mined[2].error
    assert [n["id"] for n in mined[1]["negatives"]] == ["orange-2", "yellow"]
    with pytest.raises(FgvrError, match="--from: orange-1: cannot read image"):
        list(mine(triples[:1], Colours(), tmp_path, 2, 2, triples))


def test_other_rankings(triples: list[dict], tmp_path: Path) -> None:
    def found(**options: Any) -> list[str]:
        return [n["id"] for n in next(mine(triples, Colours(), tmp_path, 2, 2, **options))["negatives"]]

    assert found(by="text") == found(by="both") == ["orange-1", "yellow"]
    assert found(ranked_by="prototype", templates="{}|a {}") == ["orange-1", "yellow"]
    assert found(strategy="band", band="2:3") == ["yellow", "blue"]
    assert found(per_category=2) == ["orange-1", "orange-2"]
    drawn = {tuple(found(strategy="random", seed=seed)) for seed in range(12)}
    assert len(drawn) > 3 and all(len(set(one)) == 2 for one in drawn)


@pytest.mark.parametrize("block", [1, 4096])
def test_names_alone_rank_all_categories(tmp_path: Path, block: int) -> None:
    rows = [triple(tmp_path, "a", "red", (250, 40, 0)), triple(tmp_path, "b", "yellow", (0, 0, 250)),
            triple(tmp_path, "c", "blue", (0, 0, 250))]  # fmt: skip
    bad, source = Bad("in:1", "torn"), FromModel(Colours(), parts(Colours()), tmp_path, batch=2)
    settings, report = Mine(per_anchor=2, of="names", block=block), Report()
    items = [rows[0], rows[1], bad, rows[2]]
    first, second, torn, last = mine_names(items, source, settings, [{"category": "orange"}], report=report)
    assert torn is bad and (report.anchors, report.short) == (3, 0)
    assert (first["category_rank"], second["category_rank"], last["category_rank"]) == (1, 3, 1)
    assert [n["category"] for n in first["negatives"]] == ["orange", "yellow"], "hardest first, never its own"
    assert [n["category"] for n in second["negatives"]] == ["blue", "orange"]
    want = torch.nn.functional.cosine_similarity(torch.tensor([251.0, 41, 1]), torch.tensor([251.0, 1, 1]), dim=0)
    assert first["category_similarity"] == pytest.approx(want.item(), abs=5e-5)
    assert list(mine_names([bad], source, settings)) == [bad]


def test_a_shard_mines_its_own_against_all(triples: list[dict], tmp_path: Path) -> None:
    whole = list(mine(triples, Colours(), tmp_path, 2, 2))
    report = Report()
    part = list(mine(triples, Colours(), tmp_path, 2, 2, wanted=lambda r: r["id"].startswith("o"), report=report))
    assert part == whole[1:3] and report.anchors == 2


def test_a_copied_file_and_a_resized_one_are_no_negatives(triples: list[dict], tmp_path: Path) -> None:
    (tmp_path / "copy.png").write_bytes((tmp_path / "red.png").read_bytes())
    copied = [*triples, {"id": "copy", "image": "copy.png", "category": "crimson", "description": "same file"}]
    report = Report()
    mined = list(mine(copied, Colours(), tmp_path, 4, 2, report=report))
    assert "copy" not in {n["id"] for n in mined[0]["negatives"]} and report.removed == {"same image": 2}
    assert report.short == 2 and report.summary()["with_too_few"] == 2
    assert "same image removed 2" in report.words(Mine(per_anchor=4))
    drawings = [("small", 90, "red"), ("large", 150, "blue")]
    for name, side, _ in drawings:
        drawing = Image.effect_mandelbrot((160, 160), (-2, -1.5, 1, 1.2), 40).convert("RGB")
        drawing.resize((side, side)).save(tmp_path / f"{name}.png")
    more = [{"id": n, "image": f"{n}.png", "category": c, "description": n} for n, _, c in drawings]
    report = Report()
    mined = list(mine(more, Colours(), tmp_path, 1, 2, hash_distance=8, report=report))
    assert [r["negatives"] for r in mined] == [[], []] and report.removed == {"perceptual hash": 2}


def files(triples: list[dict], folder: Path) -> list[str]:
    (folder / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in triples))
    return ["--encoder", "none", "--image-root", str(folder), str(folder / "in.jsonl")]


def invoke(argv: list[str]) -> Any:
    from fgvr.cli.mine_negatives import command

    return CliRunner().invoke(command, argv, catch_exceptions=False)


def test_groups_page_and_summary(triples: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgvr.cli import boundary

    said: list[str] = []
    monkeypatch.setattr("fgvr.models.open_encoder", lambda spec, **options: Colours())
    monkeypatch.setattr(boundary, "say", said.append)
    triples[0]["description"] = "<script>"
    base = files(triples, tmp_path)
    groups, page, out = tmp_path / "groups.jsonl", tmp_path / "page.html", tmp_path / "out.jsonl"
    both = ["--groups", str(groups), "--preview", str(page)]
    invoke([*base, *both, "-o", str(out), "--per-anchor", "1", "--group-size", "2", "--max-score", "0.95"])
    found = [json.loads(line) for line in groups.read_text().splitlines()]
    assert [g["categories"] for g in found] == [["orange", "yellow"], ["blue"], ["red"]]
    assert [set(g) for g in found] == [{"group", "categories", "inside"}] * 3
    text = page.read_text()
    assert text.count("<article>") == 5 and text.count("data:image/jpeg;base64,") == 10
    assert "<script>" not in text and "&lt;script&gt;" in text and "http" not in text and "prefers-color-scheme" in text
    summary = json.loads((tmp_path / "out.jsonl.run.json").read_text())["summary"]
    assert summary["anchors"] == 5 and summary["removed_pairs"] == {"max score": 2}
    assert said == ["max score removed 2"]
    invoke([*base, *both, "-o", str(out), "--per-anchor", "1", "--group-size", "2", "--max-score", "0.95", "--resume"])
    assert said[1:] == ["nothing was mined again; --groups and --preview need a run without --resume"]


@pytest.mark.parametrize("link", [True, False], ids=["link", "pipe"])
def test_groups_replace_neither_link_nor_pipe(
    link: bool, triples: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fgvr.models.open_encoder", lambda spec, **options: Colours())
    groups, file = tmp_path / "groups", tmp_path / "file"
    if link:
        groups.symlink_to(file)
    else:
        os.mkfifo(groups)
        reader = threading.Thread(target=lambda: file.write_bytes(groups.read_bytes()), daemon=True)
        reader.start()
    invoke([*files(triples, tmp_path), "--groups", str(groups)])
    if not link:
        reader.join(10)
    assert groups.is_symlink() if link else groups.is_fifo()
    assert json.loads(file.read_text().splitlines()[0])["group"] == 0


def test_features_made_elsewhere(triples: list[dict], tmp_path: Path) -> None:
    from fgvr import tensors

    rows = torch.tensor([[250.0, 0, 0], [250, 80, 0], [250, 120, 0], [250, 250, 0], [0, 0, 250]]) + 1
    file = tmp_path / "f.safetensors"
    tensors.save(file, {"features": rows}, [r["id"] for r in triples], {})
    base = files(triples, tmp_path)
    base[1] = f"features:{file}"
    got = [json.loads(line) for line in invoke([*base, "--per-anchor", "2"]).stdout.splitlines()]
    assert got == list(mine(triples, Colours(), tmp_path, 2, 2))
    for options in (["--by", "text"], ["--hash-distance", "3"], ["--features", str(tmp_path)]):
        with pytest.raises(UsageError, match="has no texts or images"):
            invoke([*base, *options])
    tensors.save(file, {"features": rows[1:]}, [r["id"] for r in triples[1:]], {})
    with pytest.raises(FgvrError, match="no row for 1 of 5 ids, the first is 'red'"):
        invoke(base)
    tensors.save(file, {"features": rows * 0}, [r["id"] for r in triples], {})
    with pytest.raises(FgvrError, match="the row of 'red' has no direction"):
        invoke(base)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategy", "band"], "need each other"),
        (["--band", "1:3"], "need each other"),
        (["--strategy", "band", "--band", "3:1"], "FIRST:LAST with 1 <= FIRST"),
        (["--templates", "a photo"], "in every prompt"),
        (["--relative-margin", "1.5"], "--relative-margin must be from 0 to 1"),
        (["--hash-distance", "65"], "--hash-distance must be from 0 to 64"),
        (["--groups", "/nowhere/g"], "no file can be written there"),
        (["--groups", "g", "--shard", "1/2"], "leave out --shard"),
    ],
)
def test_wrong_usage_is_refused(options: list[str], message: str, triples: list[dict], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        invoke([*files(triples, tmp_path), *options])


def histogram(path: Path) -> list[float]:
    """Shares of 6 x 6 hues and saturations among an image's bright pixels."""
    hue, saturation, value = (band.tobytes() for band in Image.open(path).convert("HSV").resize((48, 48)).split())
    counts = [1e-6] * 36
    for h, s, v in zip(hue, saturation, value, strict=True):
        counts[h * 6 // 256 * 6 + s * 6 // 256] += v > 40
    return [math.sqrt(count) for count in counts]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["toy CLIP", "colour histograms"])
def test_photographs_of_groceries(by: str, shared: Path, toy_clip: Path, tmp_path: Path) -> None:
    """Negatives come from the anchor's own coarse class (apple, pear, milk, …) far more often than chance."""
    from fgvr import tensors

    root = shared / "images" / "grocery_store"
    coarse = {row["class"]: row["coarse_class"] for row in csv.DictReader((root / "classes.csv").open())}
    paths = sorted(path for kind in coarse for path in sorted((root / "train" / kind).glob("*.jpg"))[:12])
    triples = [{"id": p.stem, "image": p.relative_to(root).as_posix(), "category": p.parent.name, "description": ""}
               for p in paths]  # fmt: skip
    argv = files(triples, tmp_path)
    argv[1], argv[3] = str(toy_clip), str(root)
    if by == "colour histograms":
        rows = torch.tensor([histogram(path) for path in paths])
        tensors.save(tmp_path / "f.safetensors", {"features": rows}, [path.stem for path in paths], {})
        argv[1] = f"features:{tmp_path}/f.safetensors"
    mined = [json.loads(line) for line in invoke(argv).stdout.splitlines()]
    hits = [coarse[n["category"]] == coarse[r["category"]] for r in mined for n in r["negatives"]]
    chance = [coarse[a["category"]] == coarse[b["category"]] for a in triples for b in triples
              if a["category"] != b["category"]]  # fmt: skip
    ratio = (sum(hits) / len(hits)) / (sum(chance) / len(chance))
    print(f"same coarse class by {by}: {ratio:.2f} times chance")
    assert len(hits) == 3 * len(triples) and ratio > 2


def test_the_command(triples: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few categories are told once; --from asks the pool for descriptions, not the input."""
    from fgvr.cli import boundary
    from fgvr.cli.mine_negatives import command

    said: list[str] = []
    monkeypatch.setattr("fgvr.models.open_encoder", lambda spec, **options: Colours())
    monkeypatch.setattr(boundary, "say", said.append)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in triples))
    base = ["--encoder", "none", "--image-root", str(tmp_path), str(tmp_path / "in.jsonl")]
    done = CliRunner().invoke(command, [*base, "--per-anchor", "3"], catch_exceptions=False)
    assert len(done.stdout.splitlines()) == 5 and not said
    done = CliRunner().invoke(command, [*base, "--per-anchor", "4"], catch_exceptions=False)
    assert len(done.stdout.splitlines()) == 5
    assert said == ["5 of 5 records have fewer than 4 negatives: too few other categories"]
    bare = [{name: value for name, value in record.items() if name != "description"} for record in triples]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(record) + "\n" for record in bare))
    base[-1] = str(tmp_path / "bare.jsonl")
    done = CliRunner().invoke(command, [*base, "--from", str(tmp_path / "in.jsonl")], catch_exceptions=False)
    assert json.loads(done.stdout.splitlines()[0])["negatives"][0]["id"] == "orange-1"
    (tmp_path / "aliases.jsonl").write_text('{"category": "a", "aliases": ["b"]}\n{"category": "a", "aliases": "b"}\n')
    with pytest.raises(FgvrError, match=r"aliases.jsonl:2: 'aliases' must be a list of texts"):
        CliRunner().invoke(command, [*base, "--aliases", str(tmp_path / "aliases.jsonl")], catch_exceptions=False)
    (tmp_path / "aliases.jsonl").write_text('{"aliases": ["b"]}\n')
    with pytest.raises(FgvrError, match=r"aliases.jsonl:1: record has no 'category'; add it$"):
        CliRunner().invoke(command, [*base, "--aliases", str(tmp_path / "aliases.jsonl")], catch_exceptions=False)
    with pytest.raises(FgvrError, match="record has no 'description'"):
        CliRunner().invoke(command, base, catch_exceptions=False)
    with pytest.raises(FgvrError, match="record has no 'description'"):
        CliRunner().invoke(command, [*base, "--from", base[-1]], catch_exceptions=False)
