"""What happens before several processes train: they wait for the first one, which looks at every image."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import distributed

from fgvr import images
from fgvr.cli import training
from fgvr.errors import RecordError
from fgvr.stream import Bad
from fgvr.training import ranks


def record(number: int, image: str | None) -> dict[str, Any]:
    return {"id": str(number), "image": image} if image else {"id": str(number), "modality": "text"}


def fits(given: dict[str, Any]) -> None:
    if given["id"] == "9":
        raise RecordError("does not fit")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image was opened."""
    found: Counter[str] = Counter()
    lock, plain = threading.Lock(), images.open_image

    def counted(root: str, image: str) -> Any:
        with lock:
            found[image] += 1
        return plain(root, image)

    monkeypatch.setattr(images, "open_image", counted)
    return found


def test_each_image_is_looked_at_once_and_faults_stay_in_their_place(tmp_path: Path, opened: Counter[str]) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    unread = Bad("in.jsonl:3", "torn line")
    names = ["a.png", "torn.png", "b.png", "gone.png", None]
    records = [record(number, names[number % 5]) for number in range(200)]
    read = list(training._readable(iter([*records[:2], unread, *records[2:]]), str(tmp_path), fits))
    assert read.pop(2) is unread
    assert [item.record if isinstance(item, Bad) else item for item in read] == records
    told = {item.where: item.error.partition(":")[0] for item in read if isinstance(item, Bad)}
    words = {1: "cannot read image 'torn.png'", 3: "cannot read image 'gone.png'"}
    assert told.pop("9") == "does not fit"
    assert told == {str(number): words[number % 5] for number in range(200) if number % 5 in words}
    assert opened == {"a.png": 1, "b.png": 1, "torn.png": 1, "gone.png": 1}


def test_only_some_records_are_looked_at_ahead(tmp_path: Path, opened: Counter[str]) -> None:
    taken: list[int] = []

    def given() -> Iterator[dict[str, Any]]:
        for number in range(1000):
            taken.append(number)
            yield record(number, f"{number}.png")

    read = training._readable(given(), str(tmp_path), fits)
    assert next(read).where == "0"  # type: ignore[union-attr]
    read.close()  # type: ignore[attr-defined]
    assert len(taken) == training.AHEAD + 1 >= sum(opened.values())


def test_the_others_wait_longer_than_torch_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million images take the first process longer than the half hour that is gloo's limit."""
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, **more: said.append({"of": backend, **more}))
    monkeypatch.setattr(distributed, "rendezvous", lambda url: iter([("store", 1, 2)]))
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    joined, device = ranks.start("cpu")
    assert (joined.rank, joined.world, device) == (1, 2, "cpu")
    assert said == [{"of": "gloo", "timeout": ranks.PATIENCE, "store": "store", "rank": 1, "world_size": 2}]
    assert ranks.PATIENCE.total_seconds() >= 24 * 3600
