"""mine-negatives, against a small encoder that knows an image by its colour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fgvr.errors import FgvrError
from fgvr.stages.mine import mine, mine_by_text
from fgvr.stream import Bad


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
        raise AssertionError("texts play no part in mining")


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


class Named(Colours):
    """Names a colour by its text."""

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        known = {"red": (9, 1, 1), "green": (1, 9, 1), "blue": (1, 1, 9), "grey": (3, 3, 3)}
        rows = torch.tensor([known[text.removeprefix("an image of a ")] for text in texts], dtype=torch.float32)
        return torch.nn.functional.normalize(rows, dim=1)


@pytest.mark.parametrize("batch", [1, 3])
def test_by_text_ranks_all_categories(tmp_path: Path, batch: int) -> None:
    reddish, bluish = (200, 50, 90), (0, 0, 250)
    rows = [triple(tmp_path, "a", "red", reddish), triple(tmp_path, "b", "green", bluish),
            triple(tmp_path, "c", "blue", bluish)]  # fmt: skip
    bad = Bad("in:1", "torn")
    first, second, *_, last = mine_by_text(
        [rows[0], rows[1], bad, rows[2]], Named(), tmp_path, 2, batch, [{"category": "grey"}]
    )
    assert first["category_rank"] == last["category_rank"] == 1 and second["category_rank"] == 4 - 1
    assert [n["category"] for n in first["negatives"]] == ["grey", "blue"], "hardest first, never its own"
    assert [n["category"] for n in second["negatives"]] == ["blue", "grey"]
    want = torch.nn.functional.cosine_similarity(torch.tensor([201.0, 51, 91]), torch.tensor([9.0, 1, 1]), dim=0)
    assert first["category_similarity"] == pytest.approx(want.item(), abs=5e-5)
    assert list(mine_by_text([bad], Named(), tmp_path, 2, batch)) == [bad]


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
    assert said == ["5 records have fewer than 4 negatives: too few other categories"]
    bare = [{name: value for name, value in record.items() if name != "description"} for record in triples]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(record) + "\n" for record in bare))
    base[-1] = str(tmp_path / "bare.jsonl")
    done = CliRunner().invoke(command, [*base, "--from", str(tmp_path / "in.jsonl")], catch_exceptions=False)
    assert json.loads(done.stdout.splitlines()[0])["negatives"][0]["id"] == "orange-1"
    with pytest.raises(FgvrError, match="record has no 'description'"):
        CliRunner().invoke(command, base, catch_exceptions=False)
    with pytest.raises(FgvrError, match="record has no 'description'"):
        CliRunner().invoke(command, [*base, "--from", base[-1]], catch_exceptions=False)
