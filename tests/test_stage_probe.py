"""probe, against a model whose features are set by the colour of an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fgvr import tensors
from fgvr.analysis import alignment, linear
from fgvr.cli.probing import Probing, open_text_encoder
from fgvr.errors import FgvrError, UsageError
from fgvr.models.base import Ask
from fgvr.rng import for_record
from fgvr.settings import Probe
from fgvr.stages import knowledge, probe
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
    shapes = {name: tuple(found.shape) for name, found in kept.tensors.items()}
    assert shapes == dict.fromkeys(("eos", "last", "mean"), (9, 3))
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


# --- probes, choosing images, caches, maps ---


def test_all_probes(tmp_path: Path) -> None:
    train, test = records(tmp_path, "train", 10), records(tmp_path, "test", 5)
    which = probe.Which(("sweep", "knn", "few-shot", "best-epoch"), shots=(1, 4), seeds=2)
    found = [r for r in run(train, test, tmp_path, which=which) if r.get("pool") == "last"]
    kinds = ["swept probe", "kNN probe", "few-shot probe", "few-shot probe", "linear probe"]
    assert [r["kind"] for r in found] == kinds
    assert [r["value"] for r in found[:4]] == [1.0] * 4 and found[0]["settings"] == 52
    assert [r.get("shots") for r in found[2:4]] == [1, 4]
    assert "best test epoch" in found[4]["metric"] and found[4]["low"] is None


def test_own_validation_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test, val = (records(tmp_path, split, 5) for split in ("train", "test", "val"))
    sizes: list[tuple[int, int]] = []
    fit = linear.fit
    monkeypatch.setattr(linear, "fit", lambda x, a, v, b: sizes.append((len(x), len(v))) or fit(x, a, v, b))
    run(train, test, tmp_path, val=(val, probe.Features(Painter(), tmp_path, 4).whole(val, "--val")))
    assert sizes == [(15, 15), (15, 15)]
    # one image a category is enough then
    assert run(train[::5], test, tmp_path, val=(val, probe.Features(Painter(), tmp_path, 4).whole(val, "--val")))


def test_only_what_was_held_back_goes_back_into_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgvr.analysis import sweep as module

    train, test, val = (records(tmp_path, split, 5) for split in ("train", "test", "val"))
    refitted: list[bool] = []
    own = module.sweep
    monkeypatch.setattr(module, "sweep", lambda *a, **b: refitted.append(b["refit"]) or own(*a, **b))
    which = probe.Which(("sweep",))
    run(train, test, tmp_path, which=which)
    held, refitted[:] = list(refitted), []
    run(train, test, tmp_path, which=which, val=(val, probe.Features(Painter(), tmp_path, 4).whole(val, "--val")))
    assert set(held) == {True} and set(refitted) == {False}


def test_features_that_say_nothing() -> None:
    rows = {"tower/mean": torch.ones(3, 2), "output/eos": torch.eye(3)}
    assert probe.constant(rows, [{"id": str(n)} for n in range(3)]) == ["tower/mean"]
    rows["output/eos"][1, 2] = float("inf")
    with pytest.raises(FgvrError, match="1: features at output/eos are not finite"):
        probe.constant(rows, [{"id": str(n)} for n in range(3)])


def test_features_made_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgvr.cli.probe import command

    monkeypatch.chdir(tmp_path)
    train, test = records(tmp_path, "train", 5), records(tmp_path, "test", 3)
    rows = Painter().images([Image.open(r["image"]) for r in (*train, *test)])["output/eos"]
    ids = [r["id"] for r in (*train, *test)]
    tensors.save("all.safetensors", {"features": rows}, ids, {})
    tensors.save("few.safetensors", {"features": rows[:-2]}, ids[:-2], {})
    for name, some in (("train", train), ("test", test)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    words = ["--train", "train.jsonl", "test.jsonl", "--probes", "logistic,knn", "--model"]
    with pytest.raises(UsageError, match=r"^missing option '--image-root'"):
        CliRunner().invoke(command, [*words, "a-model"], catch_exceptions=False)
    done = CliRunner().invoke(command, [*words, "all.safetensors"], catch_exceptions=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["kind"], r["value"], r["pool"]) for r in found] == [
        ("linear probe", 1.0, "features"), ("kNN probe", 1.0, "features")
    ]  # fmt: skip
    with pytest.raises(FgvrError, match=r"few.safetensors: .* no row for 2 of 9 ids, the first is 'test-blue-1'"):
        CliRunner().invoke(command, [*words, "few.safetensors"], catch_exceptions=False)
    Path("empty.jsonl").write_text("")
    for option in ("--val", "--train"):
        with pytest.raises(FgvrError, match=f"{option} has no record"):
            CliRunner().invoke(command, [*words, "all.safetensors", option, "empty.jsonl"], catch_exceptions=False)
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    for name in ("all.safetensors", "train.jsonl", "test.jsonl"):
        for option in ("--features", "--map"):
            done = CliRunner().invoke(command, [*words, "all.safetensors", option, f"./{name}"])
            assert "would overwrite an input" in str(done.exception)
    done = CliRunner().invoke(command, [*words, "all.safetensors", "--map", "map.png"])
    assert "is no name for records" in str(done.exception)
    assert before == {path: path.read_bytes() for path in before}


def test_a_cache_encodes_no_image_twice(tmp_path: Path) -> None:
    train, vlm = records(tmp_path, "train", 5), Painter()
    about = {"adapter": None}
    first = probe.Features(vlm, tmp_path, 4, str(tmp_path / "cache"), about).whole(train, "--train")
    count = len(vlm.calls)
    again = probe.Features(vlm, tmp_path, 4, str(tmp_path / "cache"), about).whole(train, "--train")
    assert len(vlm.calls) == count + 1, "only the one that shows how wide features are"
    assert all(torch.equal(first[name], again[name]) for name in first)
    probe.Features(vlm, tmp_path, 4, str(tmp_path / "cache"), {"adapter": "other"}).whole(train, "--train")
    assert len(vlm.calls) > count + 2, "another adapter has other features"


def test_the_command_draws_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgvr.cli.probe import command

    pytest.importorskip("matplotlib")
    monkeypatch.setattr("fgvr.models.places.open_places", lambda *given: Painter())
    monkeypatch.chdir(tmp_path)
    rows = {split: records(tmp_path, split, 4) for split in ("train", "test")}
    rows["train"].append({**rows["train"][0], "id": "alone", "category": "alone"})
    for split, some in rows.items():
        Path(f"{split}.jsonl").write_text("".join(json.dumps({**row, "description": "red"}) + "\n" for row in some))
    words = ["--model", "none", "--image-root", ".", "--train", "train.jsonl", "test.jsonl"]
    pictures = []
    for _ in range(2):
        more = ["-o", "out.jsonl", "--map", "map.jsonl", "--map-method", "pca"]
        done = CliRunner().invoke(command, [*words, *more], catch_exceptions=False)
        assert "1 categories have one training image" in done.stderr
        pictures.append((Path("map.png").read_bytes(), Path("map.svg").read_bytes(), Path("map.jsonl").read_text()))
    assert pictures[0] == pictures[1] and pictures[0][0][:4] == b"\x89PNG"
    places = [json.loads(line) for line in Path("map.jsonl").read_text().splitlines()]
    assert [sum(p["of"] == of for p in places) for of in ("objects", "names", "descriptions")] == [12, 3, 12]
    assert places[0]["image"] == rows["test"][0]["image"] and "image" not in places[-1]
    side = json.loads(Path("out.jsonl.run.json").read_text())
    assert side["summary"]["validation"].startswith("a fifth of each") and side["settings"]["map"] == "map.jsonl"
    assert side["summary"]["categories_of_one_image"] == ["alone"]


@pytest.mark.parametrize("method", ["tsne", "pca", pytest.param("umap", marks=pytest.mark.slow)])  # numba compiles
def test_a_map_keeps_neighbours(method: str) -> None:
    """Three far clusters stay three clusters, and equal calls give equal places."""
    from fgvr.analysis import layout

    pytest.importorskip("umap" if method == "umap" else "sklearn")
    draw = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 8) * 5
    rows = torch.cat([centre + 0.1 * torch.randn(20, 8, generator=draw) for centre in centres])
    first, again = (layout.coordinates(rows.double().numpy(), method, 0) for _ in range(2))
    assert (first == again).all() and first.shape == (60, 2)
    places = torch.tensor(first).view(3, 20, 2)
    spread = (places - places.mean(1, keepdim=True)).norm(dim=2).max()
    apart = torch.pdist(places.mean(1).float()).min()
    assert apart > 2 * spread


class Teller:
    """Describes every category by its name and a word of its own, or by one word for all."""

    def __init__(self, knows: bool) -> None:
        self.knows = knows

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        name = next(name for name in COLOURS if name in ask.prompt)
        return f"The {name} is {'#' * len(name) if self.knows else 'nice'} ({seed % 7})."


@pytest.mark.parametrize("knows", [True, False])
def test_knowledge(knows: bool) -> None:
    told = list(knowledge.describe([{"category": name} for name in COLOURS], Teller(knows), 8, 10, 0))
    assert len(told) == 24 and all(r["leaked"] and "this one" in r["description"].lower() for r in told)
    assert [r["description"] for r in told] == [
        r["description"] for r in knowledge.describe([{"category": name} for name in COLOURS], Teller(knows), 8, 10, 0)
    ]
    features = {"output/mean": torch.tensor([[r["description"].count("#"), 1.0] for r in told])}
    found = {r["metric"]: r["value"] for r in knowledge.figures(told, features, 0)}
    assert found["naming the category"] == 1 and found["naming it when hidden"] == found["empty"] == 0
    assert found["accuracy"] == (1.0 if knows else pytest.approx(1 / 3))


def test_a_text_encoder_reads_the_descriptions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clip:
        def texts(self, texts: Sequence[str]) -> torch.Tensor:
            return torch.tensor([[text.count("#"), 1.0] for text in texts])

    monkeypatch.setattr("fgvr.models.answering.VlmAnswerer", lambda vlm: Teller(True))
    blind = Painter()
    monkeypatch.setattr(blind, "vlm", object(), raising=False)
    monkeypatch.setattr(blind, "texts", lambda texts: {"output/mean": torch.ones(len(texts), 2)})
    clip: Any = Clip()
    work = Probing(blind, str(tmp_path), None, None, Probe(knowledge=8), clip)
    work.test = [{"category": name} for name in COLOURS]
    found = {r.get("place"): r["value"] for r in work._knowledge(sorted(COLOURS)) if r["metric"] == "accuracy"}
    assert found == {None: pytest.approx(1 / 3), "text encoder": 1.0}
    with pytest.raises(UsageError, match="add it"):
        open_text_encoder("clip:x", Probe(), "cpu")


def test_places_of_the_toy_model(toy_vlm: Path, toy_clip: Path) -> None:
    """Every place against the model's own parts; a text's places; what there is not."""
    from fgvr.models.places import open_places

    images = [Image.new("RGB", size, (90, 200, 30)) for size in ((96, 96), (96, 60))]
    model = open_places(str(toy_vlm), ["tower", "connector", "1", "-1", "output"], ["eos", "last", "mean"], None, "cpu")
    assert model.at == ["tower", "connector", "layer 1", "layer 4", "output"]
    found, vlm = model.images(images), model.vlm
    for pool in ("eos", "last", "mean"):
        own = vlm.objects(images, pool)
        assert torch.allclose(found[f"output/{pool}"], own) and torch.allclose(found[f"layer 4/{pool}"], own)
        assert torch.allclose(model.texts(["a kite", "b"])[f"output/{pool}"], vlm.texts(["a kite", "b"], pool))
        assert not torch.allclose(found[f"layer 1/{pool}"], own)
    tokens = vlm.features(vlm.pixels(images))
    assert torch.allclose(found["connector/mean"], torch.stack([row.mean(0) for row in tokens]), atol=1e-5)
    alone = model.images(images[1:])
    assert torch.allclose(alone["tower/mean"], found["tower/mean"][1:], atol=1e-4), "padding does not count"
    assert "tower/mean" not in model.texts(["a"])
    for at, pool, words in ((["9"], "mean", "from -5 to 4"), (["tower"], "cls", "none of them at 'tower'")):
        with pytest.raises(UsageError, match=words):
            open_places(str(toy_vlm), at, [pool], None, "cpu")
    clip = open_places(str(toy_clip), ["output"], ["eos"], None, "cpu")
    assert clip.images(images)["output/eos"].shape[1] == clip.texts(["a"])["output/eos"].shape[1]
    with pytest.raises(UsageError, match="at its output only"):
        open_places(str(toy_clip), ["tower"], ["eos"], None, "cpu")
