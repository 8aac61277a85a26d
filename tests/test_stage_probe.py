"""probe, against a model whose features are set by the colour of an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fgvr import tensors
from fgvr.analysis import alignment, linear
from fgvr.errors import FgvrError, UsageError
from fgvr.rng import for_record
from fgvr.stages import probe
from fgvr.stream import Bad

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


class Painter:
    """"last": the colour; "mean": the same for all images; "eos": the colour, as names of colours have it."""

    vlm = None

    def __init__(self) -> None:
        self.about = {"name": "painter"}
        self.calls: list[int] = []

    def images(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        self.calls.append(len(images))
        rows = torch.tensor([image.getpixel((0, 0)) for image in images], dtype=torch.float32)
        return {"output/eos": rows, "output/last": rows, "output/mean": torch.ones(len(images), 3)}

    def texts(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        return {"output/eos": torch.tensor([COLOURS[text] for text in texts], dtype=torch.float32)}


def records(root: Path, split: str, count: int) -> list[dict]:
    """`count` images of each colour, each a bit off it."""
    made = []
    for category, colour in COLOURS.items():
        for n in range(count):
            draw = for_record(0, f"{split}{category}{n}", "test")
            file = f"{split}-{category}-{n}.png"
            Image.new("RGB", (2, 2), tuple(c + draw.randrange(30) for c in colour)).save(root / file)  # type: ignore[arg-type]
            made.append({"id": file[:-4], "image": file, "category": category})
    return made


def run(train: list[dict], test: list, root: Path, batch: int = 4, vlm: Painter | None = None, **more) -> list[dict]:
    vlm = vlm or Painter()
    encode = probe.Features(vlm, root, batch)
    kept, of_test = encode(test)
    good = [item for item in kept if not isinstance(item, Bad)]
    names = probe.texts(vlm, sorted({item["category"] for item in good}))
    return list(probe.probe(train, encode.whole(train, "--train"), good, of_test, names, **more))


def test_figures(tmp_path: Path) -> None:
    train, test = records(tmp_path, "train", 10), records(tmp_path, "test", 5)
    vlm = Painter()
    found = {(r["kind"], r["metric"], r.get("pool")): r for r in run(train, test, tmp_path, vlm=vlm)}
    assert max(vlm.calls) <= 4 and sum(vlm.calls) == 46, "each image once, and one to see how wide features are"
    last, mean = found["linear probe", "accuracy", "last"], found["linear probe", "accuracy", "mean"]
    assert (last["value"], last["n"], last["high"]) == (1.0, 15, 1.0) and 0.7 < last["low"] < 1
    assert mean["value"] == pytest.approx(1 / 3), "features without information"
    objects = vlm.images([Image.open(tmp_path / r["image"]) for r in test])["output/eos"]
    categories, names = [r["category"] for r in test], sorted(COLOURS)
    quality, _ = alignment.alignment_quality(objects, categories, names, vlm.texts(names)["output/eos"])
    assert found["objects", "alignment quality", None]["value"] == round(quality, 4) > 0.9
    distance = alignment.inter_class_distance(objects, categories)
    assert found["objects", "inter-class distance", None]["value"] == round(distance, 4)
    assert found["names", "inter-class distance", None]["n"] == 3
    assert found["objects", "retrieval R@1", None]["value"] == found["objects", "retrieval R@5", None]["value"] == 1
    assert 0 < found["objects", "modality gap", None]["value"] < 0.2
    assert found["names", "retrieval R@1", None]["n"] == 3
    assert 0 < found["objects", "intra-class variance", None]["value"] < 0.1


def test_a_fifth_of_the_training_images_chooses_the_penalty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = records(tmp_path, "train", 10), records(tmp_path, "test", 2)
    sizes: list[tuple[int, int]] = []
    fit = linear.fit

    def spy(x: torch.Tensor, x_names: list[str], val: torch.Tensor, val_names: list[str]) -> linear.Probe:
        sizes.append((len(x), len(val)))
        assert sorted(set(val_names)) == sorted(COLOURS)
        return fit(x, x_names, val, val_names)

    monkeypatch.setattr(linear, "fit", spy)
    run(train, test, tmp_path)
    assert sizes == [(24, 6), (24, 6)]


def test_order_and_batches_change_nothing(tmp_path: Path) -> None:
    train, test = records(tmp_path, "train", 5), records(tmp_path, "test", 5)
    first = run(train, test, tmp_path)
    for other in (run(train, test, tmp_path, batch=1), run(train, test[::-1], tmp_path, batch=100)):
        assert [{**a, "value": 0} for a in first] == [{**b, "value": 0} for b in other]
        assert [a["value"] for a in first] == pytest.approx([b["value"] for b in other], abs=1e-4)


def test_what_is_refused(tmp_path: Path) -> None:
    train, test = records(tmp_path, "train", 5), records(tmp_path, "test", 3)
    with pytest.raises(FgvrError, match="no test images"):
        run(train, [], tmp_path)
    with pytest.raises(FgvrError, match="test categories have no training image, the first is 'red'"):
        run(train[5:], test, tmp_path)
    with pytest.raises(FgvrError, match="one image a category"):
        run(train[::5], test, tmp_path)
    (tmp_path / test[0]["image"]).write_bytes(b"")
    encode = probe.Features(Painter(), tmp_path, 4)
    kept, found = encode(test)
    assert isinstance(kept[0], Bad) and kept[1:] == test[1:] and len(found["output/eos"]) == len(test) - 1
    with pytest.raises(FgvrError, match="--train: test-red-0: cannot read image"):
        encode.whole(test, "--train")


def test_one_category(tmp_path: Path) -> None:
    """Nothing to be told apart, and no distance between categories, but the rest stands."""
    found = run(records(tmp_path, "train", 5), records(tmp_path, "test", 3)[:3], tmp_path)
    assert "inter-class distance" not in {r["metric"] for r in found}
    assert {r["metric"] for r in found} >= {"accuracy", "alignment quality", "retrieval R@1"}


def test_the_command_keeps_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgvr.cli.probe import command

    monkeypatch.setattr("fgvr.models.places.open_places", lambda *given: Painter())
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 5), ("test", 3)):
        rows = records(tmp_path, split, count)
        Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model", "none", "--image-root", ".", "--train", "train.jsonl", "test.jsonl"]
    for place in ("a", "b"):
        Path(place).mkdir()
        out = ["-o", f"{place}/probe.jsonl", "--features", f"{place}/features.safetensors"]
        CliRunner().invoke(command, [*words, *out], catch_exceptions=False)
    assert Path("a/features.safetensors").read_bytes() == Path("b/features.safetensors").read_bytes()
    kept = tensors.load("a/features.safetensors")
    assert kept.ids == [row["id"] for row in rows]
    assert {name: tuple(found.shape) for name, found in kept.tensors.items()} == dict.fromkeys(("eos", "last", "mean"), (9, 3))
    side = json.loads(Path("a/probe.jsonl.run.json").read_text())
    assert side["settings"]["features"] == "features.safetensors" and side["settings"]["seed"] == 0
    assert kept.provenance["settings"] == side["settings"]
    assert kept.provenance["inputs"][0]["sha256"] == side["inputs"][0]["sha256"]
    before = Path("b/features.safetensors").stat().st_mtime_ns
    again = [*words, "-o", "b/probe.jsonl", "--features", "b/features.safetensors", "--resume"]
    done = CliRunner().invoke(command, again, catch_exceptions=False)
    assert done.exit_code == 0 and Path("b/features.safetensors").stat().st_mtime_ns == before
    for fault in (["--features", "no/such/folder.safetensors"], ["--features", "a/x", "-o", "./a/x"]):
        with pytest.raises(UsageError, match="--features"):
            CliRunner().invoke(command, [*words, *fault], catch_exceptions=False)
