"""Recorded replies: kept as they come, never asked for twice, given back byte for byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from fgvr.errors import FgvrError, RecordError, TryAgain, UsageError
from fgvr.models import open_answerer
from fgvr.models.base import Ask, Said
from fgvr.models.replay import Recorder, recorded
from fgvr.stages.extract import extract
from fgvr.stream import Bad


class Model:
    """Replies with the prompt and the image's size; counts what it is asked."""

    def __init__(self, name: str = "model") -> None:
        self.about = {"name": name}
        self.asked: list[str] = []

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        self.asked += [ask.prompt for ask in asks]
        return [f"{ask.prompt} é\u2028{ask.image and ask.image.size} {max_new_tokens}" for ask in asks]

    def reply_scored(self, asks: Sequence[Ask], max_new_tokens: int) -> list[Said]:
        return [Said(text, -0.1234567890123) for text in self.reply(asks, max_new_tokens)]

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        self.asked.append(ask.prompt)
        return f"{ask.prompt} {temperature} {seed}"


RED, BLUE = Image.new("RGB", (4, 3), "red"), Image.new("RGB", (3, 4), "blue")
ASKS = [Ask("a", RED), Ask("b", RED), Ask("a", BLUE), Ask("a"), Ask("a", RED, {"type": "object"}), Ask("a", RED)]


def record(path: Path, asks: Sequence[Ask] = ASKS, name: str = "model") -> tuple[Model, list[str]]:
    model = Model(name)
    with recorded(model, str(path)) as with_file:
        return model, with_file.reply(asks, 9)


def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    model, found = record(tmp_path / "r")
    assert found == Model().reply(ASKS, 9) and len(model.asked) == 5, "equal questions are asked once"
    again = open_answerer(f"replay:{tmp_path / 'r'}", device="auto")
    assert again.reply(ASKS[::-1], 9) == found[::-1]
    assert again.about["of"] == {"name": "model"} and len(again.about["sha256"]) == 64
    first = json.loads((tmp_path / "r").read_bytes().split(b"\n")[0])
    assert (first["prompt"], first["settings"], len(first["image"])) == ("a", {"max_new_tokens": 9}, 64)


def test_scores_and_samples_come_back(tmp_path: Path) -> None:
    with_file = Recorder(Model(), str(tmp_path / "r"))
    scored = with_file.reply_scored(ASKS, 9)  # type: ignore[attr-defined]
    drawn = [with_file.sample(ASKS[0], 9, 0.5, seed) for seed in (1, 2)]  # type: ignore[attr-defined]
    with_file.file.close()
    again = open_answerer(f"replay:{tmp_path / 'r'}")
    assert again.reply_scored(ASKS, 9) == scored and scored[0].confidence == -0.1234567890123  # type: ignore[attr-defined]
    assert [again.sample(ASKS[0], 9, 0.5, seed) for seed in (1, 2)] == drawn  # type: ignore[attr-defined]
    with pytest.raises(RecordError, match=r"holds this reply with --confidence only; ask for it like that$"):
        again.reply(ASKS[:1], 9)
    with pytest.raises(RecordError, match=r"temperature 0\.5, seed 3"):
        again.sample(ASKS[0], 9, 0.5, 3)  # type: ignore[attr-defined]


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    record(tmp_path / "r", ASKS[:2])
    before = (tmp_path / "r").read_bytes()
    model, found = record(tmp_path / "r")
    assert model.asked == ["a", "a", "a"] and found == Model().reply(ASKS, 9)
    assert (tmp_path / "r").read_bytes().startswith(before)
    other, _ = record(tmp_path / "r", ASKS[:2], "other")
    assert other.asked == ["a", "b"], "another model's replies are not its own"
    with pytest.raises(FgvrError, match="holds replies of model, other, one is needed"):
        open_answerer(f"replay:{tmp_path / 'r'}")


def test_a_torn_line_is_asked_again(tmp_path: Path) -> None:
    _, found = record(tmp_path / "r", ASKS[:3])
    whole = (tmp_path / "r").read_bytes()
    for cut in range(1, len(whole.split(b"\n")[-2]) + 1, 37):
        (tmp_path / "r").write_bytes(whole[:-cut])
        model, again = record(tmp_path / "r", ASKS[:3])
        assert again == found and model.asked == ["a"] and (tmp_path / "r").read_bytes() == whole


def test_replies_that_came_before_a_failure_are_kept(tmp_path: Path) -> None:
    class Server(Model):
        heard = None

        def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
            for ask in asks[:-1]:
                self.heard(ask, Said(*super().reply([ask], max_new_tokens), None))  # type: ignore[misc]
            raise TryAgain("server away")

    with_file = Recorder(Server(), str(tmp_path / "r"))
    with pytest.raises(TryAgain):
        with_file.reply(ASKS[:3], 9)
    with_file.file.close()
    model, found = record(tmp_path / "r", ASKS[:3])
    assert model.asked == ["a"] and found == Model().reply(ASKS[:3], 9)


def test_a_missing_reply_names_the_record_and_the_file(tmp_path: Path) -> None:
    RED.save(tmp_path / "red.png")
    BLUE.save(tmp_path / "blue.png")
    rows = [{"id": name, "image": f"{name}.png", "superclass": "bird"} for name in ("red", "blue", "red2")]
    rows[2]["image"] = "red.png"
    questions = {"bird": {"bill": "Bill?"}}
    record(tmp_path / "r", [Ask("Bill?", RED)])
    model = open_answerer(f"replay:{tmp_path / 'r'}")
    found = list(extract(rows, model, questions, tmp_path, 8, 9))
    assert [isinstance(item, Bad) for item in found] == [False, True, False]
    assert str(found[1]) == (
        f"blue: {tmp_path / 'r'} holds no reply to 'Bill?' on this image with max_new_tokens 9; record it with the "
        "model itself"
    )
    (longer,) = extract(rows[:1], model, questions, tmp_path, 8, 10)
    assert isinstance(longer, Bad)


def test_files_that_cannot_be_recordings(tmp_path: Path) -> None:
    with pytest.raises(FgvrError, match="no such file"):
        open_answerer("replay:nowhere")
    (tmp_path / "r").write_text('{"key":"a"}\n{"key":"b"}\n')
    for open_ in (lambda: open_answerer(f"replay:{tmp_path / 'r'}"), lambda: Recorder(Model(), str(tmp_path / "r"))):
        with pytest.raises(FgvrError, match=r"r:1: no recorded reply"):
            open_()
    assert (tmp_path / "r").read_text().count("\n") == 2, "a file that is something else stays as it is"
    with pytest.raises(UsageError, match="--adapter has no effect"):
        open_answerer(f"replay:{tmp_path / 'r'}", adapter="x")
    model = Model()
    with recorded(model, None) as same:
        assert same is model


def test_other_files_are_not_recorded_over(tmp_path: Path) -> None:
    """A file without a line's end is no recording that broke off."""
    (tmp_path / "results.json").write_text('{"accuracy": 0.9}')
    with pytest.raises(FgvrError, match=r"results.json:1: no recorded reply"):
        Recorder(Model(), str(tmp_path / "results.json"))
    assert (tmp_path / "results.json").read_text() == '{"accuracy": 0.9}'
    with pytest.raises(FgvrError, match=r"--record /dev/zero: .*name a plain file"):
        Recorder(Model(), "/dev/zero")


def test_one_run_records_at_a_time(tmp_path: Path) -> None:
    first = Recorder(Model(), str(tmp_path / "r"))
    with pytest.raises(TryAgain, match="is being written by another run"):
        Recorder(Model(), str(tmp_path / "r"))
    first.file.close()
