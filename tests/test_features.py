"""Extraction, its cache, and feature files made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from fgvr import features, tensors
from fgvr.errors import FgvrError, UsageError
from fgvr.features import Extractor, Pace, load, of
from fgvr.models.encoders import Parts, parts, pick_dtype
from fgvr.stream import Bad


class Counting:
    """Encodes an image as its mean colour; counts what it encodes."""

    def __init__(self, fails_above: int = 10**9) -> None:
        self.calls: list[int] = []
        self.fails_above = fails_above

    def parts(self, about: str = "mean") -> Parts:
        return Parts(lambda image: torch.tensor(image.resize((1, 1)).getpixel((0, 0))).float() + 1, self.encode,
                     {"model": about}, batch=4)  # fmt: skip

    def encode(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        if len(rows) > self.fails_above:
            raise MemoryError
        self.calls.append(len(rows))
        return nn.functional.normalize(torch.stack(list(rows)), dim=1)


@pytest.fixture
def records(tmp_path: Path) -> list[dict]:
    made = []
    for n in range(11):
        colour = (n * 20, 90, 250 - n * 20) if n != 7 else (0, 90, 250)      # 7 is a copy of 0
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{n}.png")
        made.append({"id": f"r{n}", "image": f"{n}.png"})
    return made


def test_rows_in_order_each_file_once_at_any_batch_and_thread_count(records: list[dict], tmp_path: Path) -> None:
    plain = Counting()
    wanted = plain.encode([plain.parts().prepare(Image.open(tmp_path / r["image"])) for r in records])
    for batch, threads in ((1, 1), (3, 2), (100, 4)):
        model = Counting()
        kept, found = Extractor(model.parts(), tmp_path, batch=batch, threads=threads)(records)
        assert kept == records and torch.equal(found.features, wanted)
        assert sum(model.calls) == 10 and max(model.calls) <= batch, "a copy is not encoded again"
        assert found.digests[7] == found.digests[0] and len(set(found.digests)) == 10


def test_a_cache_serves_moved_images_other_runs_and_knows_its_model(records: list[dict], tmp_path: Path) -> None:
    cache = tmp_path / "kept"
    _, first = Extractor(Counting().parts(), tmp_path, cache)(records)
    (tmp_path / "3.png").rename(tmp_path / "moved.png")
    records[3] = {"id": "else", "image": "moved.png"}
    again = Counting()
    _, second = Extractor(again.parts(), tmp_path, cache)(records)
    assert not again.calls and torch.equal(first.features, second.features)
    other = Counting()
    Extractor(other.parts("another model"), tmp_path, cache)(records[:4])
    assert sum(other.calls) == 4, "features of one model are not taken for another's"
    assert len([path for path in cache.iterdir() if (path / "about.json").exists()]) == 2


def test_an_interrupted_extraction_goes_on_after_its_last_part(
    records: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "PART", 2)

    def stops() -> Any:
        yield from records[:9]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Extractor(Counting().parts(), tmp_path, tmp_path / "kept", batch=2, threads=1)(stops())
    done = sum(len(tensors.load(path).ids) for path in (tmp_path / "kept").rglob("*.safetensors"))
    model = Counting()
    _, found = Extractor(model.parts(), tmp_path, tmp_path / "kept", batch=2)(records)
    assert done >= 2 and sum(model.calls) == 10 - done
    assert torch.equal(found.features, Extractor(Counting().parts(), tmp_path)(records)[1].features)


def test_a_bad_image_keeps_its_place(records: list[dict], tmp_path: Path) -> None:
    (tmp_path / "4.png").write_bytes(b"no image")
    earlier = Bad("in:1", "torn")
    kept, found = Extractor(Counting().parts(), tmp_path)([earlier, *records])
    assert kept[0] is earlier and isinstance(kept[5], Bad) and "4.png" in kept[5].error
    assert len(found.features) == len(found.digests) == 10
    with pytest.raises(FgvrError, match="--from: r4: cannot read image"):
        Extractor(Counting().parts(), tmp_path).whole(records, "--from")


def test_batches_shrink_when_memory_runs_out(records: list[dict], tmp_path: Path) -> None:
    model = Counting(fails_above=2)
    _, found = Extractor(model.parts(), tmp_path, batch=8)(records)
    assert max(model.calls) == 2 and len(found.features) == 11
    with pytest.raises(MemoryError):
        Extractor(Counting(fails_above=0).parts(), tmp_path)(records)


def test_perceptual_hashes_survive_in_the_cache(records: list[dict], tmp_path: Path, monkeypatch: Any) -> None:
    for n in (1, 2):                                     # one drawing in two sizes, and another
        drawing = Image.effect_mandelbrot((160, 160), (-2, -1.5, 1, 1.2), 40).convert("RGB")
        drawing.resize((n * 80, n * 80)).save(tmp_path / f"{n}.png")
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "3.png")
    _, found = Extractor(Counting().parts(), tmp_path, tmp_path / "kept", hashes=True)(records)
    assert found.hashes is not None and found.hashes.shape == (11, 64)
    assert found.hashes.unique().tolist() == [-1, 1]
    distance = (found.hashes[1] != found.hashes).sum(1)
    assert distance[2] <= 4 and distance[3] > 10
    monkeypatch.setattr(features, "_bits", None)         # would fail if it were called
    _, again = Extractor(Counting().parts(), tmp_path, tmp_path / "kept", hashes=True)(records)
    assert torch.equal(again.hashes, found.hashes)


def test_damaged_parts_and_impossible_folders_are_one_line(records: list[dict], tmp_path: Path) -> None:
    Extractor(Counting().parts(), tmp_path, tmp_path / "kept")(records)
    (part,) = (tmp_path / "kept").rglob("*.safetensors")
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(FgvrError, match="not a whole safetensors file"):
        Extractor(Counting().parts(), tmp_path, tmp_path / "kept")
    with pytest.raises(FgvrError, match=r"cannot keep features in .*; name another folder"):
        Extractor(Counting().parts(), tmp_path, part)


def test_pace_names_what_bounds() -> None:
    pace = Pace(images=10, waited_s=3, worked_s=1)
    assert pace.words().endswith("images/s, bound by decoding")
    pace.worked_s = 4
    assert pace.words().endswith("images/s, bound by encoding")


def test_half_precision_where_it_gains() -> None:
    small, large = nn.Linear(10, 10), nn.Linear(4000, 4000, bias=False)
    cpu = torch.device("cpu")
    assert pick_dtype("auto", small, cpu) is torch.float32
    assert pick_dtype("auto", large, torch.device("cuda")) is torch.bfloat16
    assert pick_dtype("bfloat16", small, cpu) is torch.bfloat16
    with pytest.raises(UsageError, match="--dtype bfloat16"):
        parts(type("Plain", (), {"about": {}, "images": None})(), "bfloat16")


def test_the_toy_clip_in_parts_gives_its_own_features(toy_clip: Path) -> None:
    from fgvr.models import open_encoder

    clip = open_encoder(str(toy_clip), device="cpu")
    images = [Image.effect_mandelbrot((120, 96), (-2, -1, 1, 1 + n), 40).convert("RGB") for n in range(3)]
    whole = clip.images(images)
    apart = parts(clip)
    assert torch.allclose(apart.encode([apart.prepare(image) for image in images]), whole, atol=1e-6)
    assert apart.size == 2 * 96 and apart.about["model"]["dtype"] == "float32" and " at 0x" not in str(apart.about)
    half = parts(clip, "bfloat16")
    close = (half.encode([half.prepare(image) for image in images]) * whole).sum(1)
    assert (close > 0.99).all() and half.about["model"]["dtype"] == "bfloat16" and half.about != apart.about


# --- files made elsewhere ---


def test_ids_in_the_file_or_beside_it(tmp_path: Path) -> None:
    rows = torch.randn(3, 4)
    tensors.save(tmp_path / "ours.safetensors", {"features": rows, "other": rows + 1}, list("abc"), {})
    save_file({"anything": rows.double()}, str(tmp_path / "plain.safetensors"))
    (tmp_path / "plain.safetensors.ids").write_text("d\ne\nf\n")
    names = f"{tmp_path}/ours.safetensors,{tmp_path}/plain.safetensors"
    found = load(names)
    assert found.ids == list("abcdef") and torch.equal(of(found, [{"id": "e"}, {"id": "a"}], names), rows[[1, 0]])
    with pytest.raises(FgvrError, match="no row for 1 of 2 ids, the first is 'z'; make features of these records"):
        of(found, [{"id": "a"}, {"id": "z"}], names)


@pytest.mark.parametrize(
    ("made", "ids", "message"),
    [
        ({"x": torch.ones(2, 3)}, None, r"no record ids.*one a line, into f.safetensors.ids"),
        ({"x": torch.ones(2, 3)}, "a\n", r"float32 \(2, 3\) for 1 ids"),
        ({"x": torch.ones(2, 3), "y": torch.ones(2, 3)}, "a\nb\n", "has tensors x, y; call the one to use 'features'"),
        ({"x": torch.ones(2).long()}, "a\nb\n", r"int64 \(2,\) for 2 ids; floating"),
        ({"x": torch.ones(2, 0)}, "a\nb\n", r"float32 \(2, 0\) for 2 ids"),
        ({"x": torch.ones(2, 3)}, "a\na\n", r"an id comes twice \('a'\)"),
    ],
)
def test_wrong_files_are_one_line(made: Any, ids: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    save_file(made, str(file))
    if ids is not None:
        file.with_name(file.name + ".ids").write_text(ids)
    with pytest.raises(FgvrError, match=message):
        load(str(file))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_row_without_direction_is_named(value: float, tmp_path: Path) -> None:
    rows = torch.ones(3, 2)
    rows[1] = value
    tensors.save(tmp_path / "f", {"features": rows}, ["a", "b", "c"], {})
    with pytest.raises(FgvrError, match="f: the row of 'b' has no direction"):
        of(load(str(tmp_path / "f")), [{"id": "c"}, {"id": "b"}], "f")


def test_ids_with_a_mark_or_of_another_encoding(tmp_path: Path) -> None:
    file = str(tmp_path / "f.safetensors")
    save_file({"x": torch.ones(2, 3)}, file)
    Path(file + ".ids").write_bytes("\ufeffa\r\nb\r\n".encode())
    assert load(file).ids == ["a", "b"]
    Path(file + ".ids").write_bytes(b"\xff\xfe\n")
    with pytest.raises(FgvrError, match=r"f.safetensors.ids: cannot read: .*; write one id a line, in UTF-8"):
        load(file)


def test_widths_and_pickles(tmp_path: Path) -> None:
    for name, width in (("a", 3), ("b", 4)):
        tensors.save(tmp_path / name, {"features": torch.ones(1, width)}, [name], {})
    with pytest.raises(FgvrError, match=r"b: features are 4 wide, before 3; use one model"):
        load(f"{tmp_path}/a,{tmp_path}/b")
    torch.save(torch.ones(1, 3), tmp_path / "p")
    (tmp_path / "p.ids").write_text("a\n")
    with pytest.raises(FgvrError, match="a pickle, which may run code"):
        load(str(tmp_path / "p"))
