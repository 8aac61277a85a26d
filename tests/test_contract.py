"""The Unix contract (docs/architecture.md, section 3) over every command.

A command enters with one line in ROWS. All tests below run for it, as real processes.
"""

from __future__ import annotations

import fcntl
import functools
import gzip
import hashlib
import json
import os
import random
import shlex
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import pytest
from PIL import Image

from fgvr.cli.group import COMMANDS, cli
from fgvr.stream import Shard
from tests import private
from tests.procs import FRESH, PRIVATE, ROOT, Ended, read_jsonl, run, shell, start, write_jsonl

Maker = Callable[[Path, int], list[dict]]


# -- inputs: (folder, how many) -> records; what the options name is made in the folder --


def images(folder: Path, count: int) -> list[dict]:
    """Image records with their images, in four categories, with a field that no command knows."""
    records = []
    for n in range(count):
        path = f"img/Red_Kite{n % 4}/{n:03d}.jpg"
        file = folder / path
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + n, 30), (n * 37 % 256, n * 11 % 256, 90)).save(file)
        record = {"id": path[4:-4], "image": path, "category": f"Red Kite{n % 4}", "superclass": "bird", "split": "img"}
        records.append({**record, "note": {"é": [1, None, "日本" * 40]}})
    return records


@dataclass(frozen=True)
class Row:
    """One command under the contract.

    Args:
        name: the command, "dataset folder".
        options: its options but input and output; "{dir}" is the folder that `make` filled, "{root}" the project's.
        make: makes the input's records; None when the command reads none.
        other: the options with a setting changed that decides the result, and its name; resuming with it must fail.
        keeps: output records are input records with more fields, under the same ids.
        required: the first field that the command asks for; "" when it asks for none.
        to_folder: -o names a folder.
        count: input records; few for a command with a model.
        before: puts what the options name into the folder of a command without input.
        private: it is one of tests/private.py.
        says: what it tells on stderr when it has done its work.
    """

    name: str
    options: str = ""
    make: Maker | None = images
    other: tuple[str, str] = ("", "")
    keeps: bool = True
    required: str = ""
    to_folder: bool = False
    count: int = 24
    private: bool = False
    before: Callable[[Path], None] = lambda folder: None
    says: str = ""

    def argv(self, folder: Path, *more: str | Path) -> list[str]:
        options = shlex.split(self.options.format(dir=folder, root=ROOT))
        # with a model it pays to fork from a process that has the libraries
        program = PRIVATE if self.private else "fgvr" if self.models else FRESH
        return [program, *self.name.split(), *options, *map(str, more)]

    @property
    def models(self) -> bool:
        """Whether it opens a model."""
        return "examples/toy/" in self.options

    def input(self, folder: Path, name: str = "in.jsonl", count: int | None = None) -> Path | None:
        """The input file, and whatever the options name. The folder gets it all."""
        if self.make is None:
            if not (folder / "img").exists():
                images(folder, count or self.count)
                self.before(folder)
            return None
        return write_jsonl(folder / name, self.make(folder, count or self.count))

    @property
    def batches(self) -> bool:
        """Whether it has an inference batch size (for training, it decides the result)."""
        command: click.Command = private.cli if self.private else cli
        for name in self.name.split():
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), name) or command
        return not self.to_folder and any(param.name == "batch_size" for param in command.params)


def attributed(folder: Path, count: int) -> list[dict]:
    """Image records; attribute questions beside them."""
    for_birds = {"superclass": "bird", "attribute": "leg colour", "question": "Describe the leg colour of the bird."}
    more = {"attribute": "bill shape", "question": "Describe the bill shape of the bird in this image."}
    write_jsonl(folder / "side.jsonl", [for_birds, {**for_birds, **more}])
    return images(folder, count)


def extracted(folder: Path, count: int) -> list[dict]:
    attributes = {"bill shape": "hooked", "leg colour": "red"}
    return [{**record, "attributes": attributes} for record in images(folder, count)]


def known(folder: Path, count: int) -> list[dict]:
    truth = {"leg colour": "red", "bill shape": "long, with a hook at its end"}
    return [{**r, "category": f"Red Kite{n}", "attributes_true": truth} for n, r in enumerate(images(folder, count))]


def described(folder: Path, count: int) -> list[dict]:
    return [{**record, "description": f"Bird {n}."} for n, record in enumerate(images(folder, count))]


def mined(folder: Path, count: int) -> list[dict]:
    triples = described(folder, count)
    keys = ("id", "category", "description")
    return [
        {**r, "negatives": [{k: triples[n - 1][k] for k in keys} | {"similarity": 0.5}]} for n, r in enumerate(triples)
    ]


@functools.cache
def adapter() -> dict[str, bytes]:
    """The files of an adapter of the embedded model."""
    import torch

    from fgvr.models.vlm import open_vlm
    from fgvr.training.adapters import add_adapter, trained
    from fgvr.training.trainer import save_adapter

    vlm = open_vlm(str(ROOT / "examples" / "toy" / "vlm"), device="cpu")
    torch.manual_seed(0)
    add_adapter(vlm, 2, 2, 0.0)
    for parameter in trained(vlm).values():
        torch.nn.init.normal_(parameter, std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(vlm, Path(folder), {})
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def adapted(folder: Path) -> None:
    (folder / "adapter").mkdir()
    for name, data in adapter().items():
        (folder / "adapter" / name).write_bytes(data)


def asked(folder: Path, count: int) -> list[dict]:
    """Open-set and multiple-choice questions in turn."""
    more = [{"kind": "open"}, {"kind": "mcq", "options": [f"Red Kite{n}" for n in range(4)]}]
    plain = [{**record, "question": "Which?", "answer": record["category"]} for record in images(folder, count)]
    return [{**record, **more[n % 2]} for n, record in enumerate(plain)]


def taught(folder: Path, count: int) -> list[dict]:
    """Questions, some of them without an image."""
    index, records = {"answer_index": 0}, asked(folder, count)
    records = [{**r, **index, "options": [r["answer"], "Other"]} if r["kind"] == "mcq" else r for r in records]
    for record in records[1::4]:
        record["modality"] = "text"
        del record["image"]
    return records


def judged(folder: Path, count: int) -> list[dict]:
    return [{**r, "raw": "A", "prediction": "A", "correct": n % 3 == 0} for n, r in enumerate(asked(folder, count))]


def split(folder: Path, count: int) -> list[dict]:
    """Image records; the same ones as training images beside them."""
    write_jsonl(folder / "side.jsonl", images(folder, count))
    return images(folder, count)


VLM, CLIP, SEES = "--model {root}/examples/toy/vlm", "--encoder {root}/examples/toy/clip", "--image-root {dir}"
TRAIN = "--batch-size 2 --save-steps 1 --warmup-steps 1"
SHORT, SEED = ("--max-new-tokens 3", "--max-new-tokens"), ("--seed 1", "--seed")
SHOUT, PAIRS = "--pause-s 0.01", "--pause-s 0.005"
FOLDER = "--root {dir} --split img --superclass bird"
ROWS = [
    Row("shout", SHOUT, other=("--marks 2", "--marks"), required="category", private=True),
    Row("pairs", PAIRS, other=("--seed 1", "--seed"), keeps=False, private=True),
    Row("train", SHOUT, other=("--marks 2", "--marks"), required="category", to_folder=True, private=True),
    Row("dataset folder", FOLDER, make=None, other=("--hyphens-to-spaces", "--hyphens-to-spaces")),
    Row("discover-attrs", f"{VLM} --superclass bird", None, ("--class-unit kinds", "--class-unit"), keeps=False),
    Row("extract-attrs", f"{VLM} {SEES} --attrs {{dir}}/side.jsonl", attributed, SHORT, required="image", count=8),
    Row("concept-attrs", "--source truth", known, SHORT, keeps=False, required="category"),
    Row("summarise", VLM, extracted, SHORT, required="superclass", count=8),
    Row("mine-negatives", f"{CLIP} {SEES}", described, ("--per-anchor 2", "--per-anchor"), required="image"),
    Row("questions", "--distractors random", images, SEED, keeps=False, required="image"),
    Row("align", f"{VLM} {SEES} {TRAIN}", mined, ("--lr 0.01", "--lr"), required="image", to_folder=True, count=8),
    Row("tune", f"{VLM} {SEES} {TRAIN}", taught, ("--lr 0.01", "--lr"), required="kind", to_folder=True, count=8),
    Row("merge", f"{VLM} --adapter {{dir}}/adapter", None, ("--base dequantised", "--base"), keeps=False,
        to_folder=True, before=adapted, says="fgvr merge: merged into the original base\n"),
    Row("eval", f"{VLM} {SEES}", asked, SHORT, required="kind", count=8),
    Row("convert", "--to llava", described, ("--to trl", "--to"), keeps=False),
    Row("score", "--by category", judged, ("--by superclass", "--by"), keeps=False),
    Row("probe", f"{VLM} {SEES} --train {{dir}}/side.jsonl", split, SEED, keeps=False, required="image"),
]
# commands that neither read nor write streams of records, tested by name elsewhere
OTHERS = {"provenance", "report", "assemble", "study"}


def rows(*wanted: str) -> pytest.MarkDecorator:
    """Parametrise over the rows that have all the wanted properties ("!x": that lack x)."""
    chosen = [row for row in ROWS if all(bool(getattr(row, w.lstrip("!"))) != w.startswith("!") for w in wanted)]
    slow = {"align", "merge"}  # align takes many seconds, and the way of tune; merge has tests of its own
    cases = [
        pytest.param(row, id=row.name.replace(" ", "-"), marks=[pytest.mark.slow] if row.name in slow else [])
        for row in chosen
    ]
    return pytest.mark.parametrize("row", cases)


def whole(row: Row, folder: Path, out: str = "whole", stdin: Path | None = None) -> Path:
    """The output of an uninterrupted run on the row's input."""
    made = row.input(folder)
    source = [] if stdin or made is None else [made]
    ended = run(row.argv(folder, *source, "-o", out), folder, stdin)
    assert (ended.status, ended.err) == (0, row.says)
    return folder / out


def content(path: Path) -> dict[str, bytes]:
    """The bytes of a file, or of all files of a folder."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): without_record(p) for p in sorted(path.rglob("*")) if p.is_file()}


def without_record(path: Path) -> bytes:
    """A file's bytes; of safetensors without the metadata, where the run record names the input."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    return json.dumps(header, sort_keys=True).encode() + data[end:]


def one_line(ended: Ended, row: Row, status: int, *words: str) -> None:
    """The command failed as agreed: this status, one line with these words, no traceback."""
    assert ended.status == status, ended.err
    assert ended.err.startswith(f"fgvr {row.name}: "), ended.err
    assert ended.err.count("\n") == 1, ended.err
    for word in words:
        assert word in ended.err


def test_every_command_has_a_row() -> None:
    there = {row.name.split()[0] for row in ROWS} | OTHERS
    assert set(COMMANDS) <= there


# -- input and output --


@rows("make")
def test_input_forms_agree(row: Row, tmp_path: Path) -> None:
    """FILE, stdin, blank lines, CRLF and .gz are one input, under any locale (without a model); .gz output holds the
    same records."""
    reference = content(whole(row, tmp_path))
    text = (tmp_path / "in.jsonl").read_bytes()
    odd = b"\n  \n" + text.replace(b"\n", b"\r\n\n")
    (tmp_path / "odd.jsonl.gz").write_bytes(gzip.compress(odd))
    out = "stdin" if row.to_folder else "stdin.gz"
    if row.models:  # its libraries take many seconds to import, and it reads by the same code
        (tmp_path / "odd.jsonl").write_bytes(odd)
        ended = run(row.argv(tmp_path, "-o", out), tmp_path, tmp_path / "odd.jsonl")
    else:
        locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        ended = shell(row.argv(tmp_path, "-o", out), tmp_path, odd, **locale)
    assert (ended.status, ended.err) == (0, "")
    ended = run(row.argv(tmp_path, "odd.jsonl.gz", "-o", "packed"), tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert content(tmp_path / "packed") == reference
    if row.to_folder:
        assert content(tmp_path / out) == reference
    else:
        assert gzip.decompress((tmp_path / out).read_bytes()) == reference[""]


@rows("!to_folder")
def test_records_only_on_stdout(row: Row, tmp_path: Path) -> None:
    """stdout gets what -o gets, byte for byte: compact UTF-8 JSON objects, one a line; nothing on stderr."""
    source = row.input(tmp_path)
    ended = run(row.argv(tmp_path), tmp_path, source)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == whole(row, tmp_path).read_bytes()
    for line in ended.out.splitlines(keepends=True):
        record = json.loads(line)
        assert isinstance(record, dict)
        assert line.decode() == json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n"


@rows("make", "keeps", "!to_folder")
def test_order_and_unknown_fields(row: Row, tmp_path: Path) -> None:
    """Output records are input records with more to them, in the order of the input; keys keep their order."""
    whole(row, tmp_path)
    before, after = read_jsonl(tmp_path / "in.jsonl"), read_jsonl(tmp_path / "whole")
    assert [r["id"] for r in after] == [r["id"] for r in before]
    for old, new in zip(before, after, strict=True):
        assert list(new)[: len(old)] == list(old)
        assert new["note"] == old["note"]


@rows("batches")
def test_batch_size_changes_nothing(row: Row, tmp_path: Path) -> None:
    reference = whole(row, tmp_path)
    for size in ("1", "5", "1000"):
        ended = run(row.argv(tmp_path, "in.jsonl", "--batch-size", size, "-o", f"b{size}"), tmp_path)
        assert ended.status == 0, ended.err
        assert content(tmp_path / f"b{size}") == content(reference)
        assert (tmp_path / f"b{size}.run.json").read_text() == Path(f"{reference}.run.json").read_text().replace(
            '"name": "whole"', f'"name": "b{size}"'
        )


@rows("!to_folder")
def test_shards(row: Row, tmp_path: Path) -> None:
    """The shards hold every record once, each in the order of the whole."""
    lines = whole(row, tmp_path).read_bytes().splitlines()
    source = [] if row.make is None else ["in.jsonl"]
    parts = []
    for k in (1, 2, 3):
        ended = run(row.argv(tmp_path, *source, "--shard", f"{k}/3"), tmp_path)
        assert (ended.status, ended.err) == (0, "")
        parts.append(ended.out.splitlines())
        assert parts[-1] == [line for line in lines if line in set(parts[-1])]
        if row.keeps:
            assert all(Shard(k, 3).has(json.loads(line)["id"]) for line in parts[-1])
    assert sorted(line for part in parts for line in part) == sorted(lines)
    if len(lines) > 10:
        assert all(parts)


# -- signals and pipes --


@rows("!to_folder")
def test_reader_goes_away(row: Row, tmp_path: Path) -> None:
    """`| head -1`: silent, 141."""
    source = row.input(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    running = start(row.argv(tmp_path), tmp_path, source, stdout=pipe)
    with open(pipe, "rb", buffering=0) as reader:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)  # less than all output, so that the command has to wait for us
        assert reader.read(1) == b"{"
    ended = running.wait()
    if len(whole(row, tmp_path).read_bytes()) > 8192:
        assert (ended.status, ended.err) == (141, "")
    else:  # it may have been done by then
        assert ended.status in (0, 141) and not ended.err


class Feeder:
    """Gives a command its input through a named pipe, so many records, then waits: a place to kill it at."""

    def __init__(self, path: Path, lines: list[bytes]) -> None:
        os.mkfifo(path)
        self.path, self.lines = path, lines
        self.go_on, self.fed = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._feed, daemon=True)
        self.thread.start()

    def _feed(self) -> None:
        with open(self.path, "wb", buffering=0) as pipe:
            pipe.write(b"".join(self.lines))
            self.fed.set()
            self.go_on.wait()


def wait_for(path: Path) -> None:
    """Until the command holds the lock of this file or folder: it is at work."""
    for _ in range(6000):
        if path.exists() and locked(path):
            return
        time.sleep(0.01)
    raise AssertionError(f"nobody at work on {path.name} after a minute")


def locked(path: Path) -> bool:
    """By the kernel's list: to try the lock ourselves could get in the command's way."""
    held = f":{path.stat().st_ino} "
    return any(held in line for line in Path("/proc/locks").read_text().splitlines())


KILLS = {"INT": (signal.SIGINT, 130), "TERM": (signal.SIGTERM, 143), "KILL": (signal.SIGKILL, -9)}


def kills(*wanted: str) -> pytest.MarkDecorator:
    """Rows and signals. Training is slow: it gets one signal of the three, the others with -m slow."""
    cases = []
    for row in ROWS:
        if all(bool(getattr(row, name)) for name in wanted):
            chosen = list(KILLS)[len(row.name) % len(KILLS)]
            for name, (signum, status) in KILLS.items():
                status = 75 if name == "TERM" and row.name in ("align", "tune") else status
                slow = row.to_folder and row.models and (name != chosen or row.name == "merge")
                marks = [pytest.mark.slow] if slow else []
                cases.append(pytest.param(row, signum, status, id=f"{row.name.replace(' ', '-')}-{name}", marks=marks))
    return pytest.mark.parametrize(("row", "signum", "status"), cases)


@kills("make")
def test_killed_and_resumed(row: Row, signum: int, status: int, tmp_path: Path) -> None:
    """Killed after a random number of records, FILE is as it was; resumed, it equals an uninterrupted run."""
    rng = random.Random(f"{row.name} {signum}")
    source = row.input(tmp_path)
    assert source is not None
    reference = whole(row, tmp_path, stdin=source)
    lines = source.read_bytes().splitlines(keepends=True)
    for round_ in range(2):
        feeder = Feeder(tmp_path / f"pipe{round_}", lines[: rng.randrange(1, len(lines))])
        running = start(row.argv(tmp_path, "-o", "out", "--resume"), tmp_path, feeder.path)
        feeder.fed.wait(60)
        wait_for(tmp_path / "out.partial")
        time.sleep(rng.uniform(0, 0.2))
        assert running.status is None
        running.kill(signum)
        ended = running.wait()
        feeder.go_on.set()
        if signum == signal.SIGKILL:
            assert (ended.status, ended.err) == (status, "")
        else:
            one_line(ended, row, status, f"stopped by {signal.Signals(signum).name}")
        assert not (tmp_path / "out").exists()
        begun = (tmp_path / "out.partial.run.json").exists()  # written before the first record
        if signum == signal.SIGKILL and begun and not row.to_folder:
            with open(tmp_path / "out.partial", "ab") as torn:
                torn.write(b'{"id": "to')
    ended = run(row.argv(tmp_path, "-o", "out", "--resume"), tmp_path, source)
    assert (ended.status, ended.err) == (0, "")
    assert content(tmp_path / "out") == content(reference)
    assert same_run(tmp_path / "out.run.json", tmp_path / "whole.run.json")
    assert not list(tmp_path.glob("out.partial*"))


@kills()
def test_killed_while_it_works(row: Row, signum: int, status: int, tmp_path: Path) -> None:
    """The same at random times, with all of the input there: while it computes, writes or finishes."""
    rng = random.Random(f"{row.name} {signum}")
    source = [name for name in [row.input(tmp_path)] if name]
    if row.make is None:
        images(tmp_path, 400)
    reference = content(whole(row, tmp_path))
    began = time.monotonic()
    assert run(row.argv(tmp_path, *source, "-o", "timed"), tmp_path).status == 0
    lasts_s = time.monotonic() - began
    (tmp_path / "out").mkdir() if row.to_folder else None
    old = tmp_path / "out" / "weights" if row.to_folder else tmp_path / "out"
    old.write_text("old")
    (tmp_path / "out.run.json").write_text("{}")  # without it fgvr would not replace a folder
    for _ in range(3):
        running = start(row.argv(tmp_path, *source, "-o", "out", "--resume"), tmp_path)
        time.sleep(rng.uniform(0.1, 1) * lasts_s)
        if running.status is None:
            running.kill(signum)
        ended = running.wait()
        if "init_import_site" in ended.err:
            continue  # Python itself was not up yet
        assert ended.status in (0, status, -signum), ended.err  # -signum: before the command took over the signal
        if ended.status != 0:
            assert (old.exists() and old.read_text() == "old") or content(tmp_path / "out") == reference
    ended = run(row.argv(tmp_path, *source, "-o", "out", "--resume"), tmp_path)
    assert ended.status == 0 and ended.err in ("", row.says)  # it may have been done
    assert content(tmp_path / "out") == reference
    assert same_run(tmp_path / "out.run.json", tmp_path / "whole.run.json")
    assert not list(tmp_path.glob("out.partial*"))


def same_run(one: Path, other: Path) -> bool:
    """Equal run records, but for the output's name."""
    records = [json.loads(path.read_text()) for path in (one, other)]
    for record in records:
        del record["output"]["name"]
    return records[0] == records[1]


@rows("make")
def test_second_signal_kills_at_once(row: Row, tmp_path: Path) -> None:
    """A command that waits for input ends on the first; told off to defer, on the second."""
    source = row.input(tmp_path)
    assert source is not None
    feeder = Feeder(tmp_path / "pipe", source.read_bytes().splitlines(keepends=True)[:1])
    running = start(row.argv(tmp_path, "-o", "out"), tmp_path, feeder.path)
    feeder.fed.wait(60)
    wait_for(tmp_path / "out.partial")
    running.kill(signal.SIGTERM)
    time.sleep(0.5)
    if running.status is None:
        running.kill(signal.SIGTERM)
    assert running.wait().status in (75, 143, -15)
    feeder.go_on.set()


# -- resume --


@rows()
def test_nothing_to_do(row: Row, tmp_path: Path) -> None:
    """--resume on a whole FILE from an equal run: status 0, FILE not written again."""
    source = [name for name in [row.input(tmp_path)] if name]
    reference = whole(row, tmp_path)
    before, bytes_ = reference.stat().st_ino, content(reference)
    ended = run(row.argv(tmp_path, *source, "-o", "whole", "--resume"), tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert (reference.stat().st_ino, content(reference)) == (before, bytes_)
    assert not list(tmp_path.glob("whole.partial*"))


@rows()
def test_changed_setting_is_named(row: Row, tmp_path: Path) -> None:
    """--resume with another setting: status 1, the setting, old and new."""
    assert all(row.other), "give the row a setting to change"
    source = [name for name in [row.input(tmp_path)] if name]
    whole(row, tmp_path)
    leave_partial(tmp_path, "whole")
    ended = run(row.argv(tmp_path, *source, *shlex.split(row.other[0]), "-o", "whole", "--resume"), tmp_path)
    one_line(ended, row, 1, row.other[1] + " was ", " and is now ", "whole.partial")
    assert (tmp_path / "whole.partial").exists()


def leave_partial(folder: Path, name: str) -> None:
    """Turn a finished run back into one that was killed just before its end."""
    os.replace(folder / name, folder / f"{name}.partial")
    os.replace(folder / f"{name}.run.json", folder / f"{name}.partial.run.json")


@rows("make")
def test_changed_input_is_named(row: Row, tmp_path: Path) -> None:
    source = row.input(tmp_path)
    assert source is not None
    whole(row, tmp_path)
    leave_partial(tmp_path, "whole")
    source.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[:-1]))
    ended = run(row.argv(tmp_path, source, "-o", "whole", "--resume"), tmp_path)
    one_line(ended, row, 1, "input in.jsonl has changed")


@rows()
def test_output_is_locked(row: Row, tmp_path: Path) -> None:
    """Two runs on one output: the second gives way."""
    source = [name for name in [row.input(tmp_path)] if name]
    partial = tmp_path / "out.partial"
    partial.mkdir() if row.to_folder else partial.write_text('{"id": "the other run"}\n')
    fd = os.open(partial, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    one_line(run(row.argv(tmp_path, *source, "-o", "out"), tmp_path), row, 75, "out.partial")
    os.close(fd)
    assert partial.is_dir() or partial.read_text() == '{"id": "the other run"}\n'
    assert run(row.argv(tmp_path, *source, "-o", "out"), tmp_path).status == 0


# -- bad input, bad usage, no room --

BAD = [
    (b'{"id": "to', "not valid JSON"),
    (b"[1, 2]", "not a JSON object"),
    (b'{"id": "n", "note": NaN}', "NaN"),
    (b'{"id": "\xff"}', "not UTF-8"),
    (b'{"id": 7}', "must be text"),
]


@pytest.mark.parametrize(("line", "word"), BAD, ids=[word.replace(" ", "-") for _, word in BAD])
@rows("make")
def test_bad_line_stops(row: Row, line: bytes, word: str, tmp_path: Path) -> None:
    """The first bad line ends the run: file, line, what, and what to do; FILE is as it was."""
    if word == "must be text" and row.required:
        word = f"no '{row.required}'"
    source = row.input(tmp_path)
    assert source is not None
    lines = source.read_bytes().splitlines()
    source.write_bytes(b"\n".join([*lines[:2], line, *lines[2:]]))
    (tmp_path / "out").mkdir() if row.to_folder else (tmp_path / "out").write_text("old")
    ended = run(row.argv(tmp_path, "in.jsonl", "-o", "out"), tmp_path)
    one_line(ended, row, 1, "in.jsonl:3: ", word, "; ")
    assert content(tmp_path / "out") == ({} if row.to_folder else {"": b"old"})


@rows("make")
def test_bad_lines_are_set_aside(row: Row, tmp_path: Path) -> None:
    """--on-error skip: the rest comes out as if the bad ones were not there; --errors has them, stderr their number."""
    source = row.input(tmp_path)
    assert source is not None
    reference = content(whole(row, tmp_path))
    lines = source.read_bytes().splitlines()
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(b"\n".join([lines[0], *[line for line, _ in BAD], lines[0], *lines[1:]]))
    skip = ["--on-error", "skip", "--errors", "errors.jsonl"]
    ended = run(row.argv(tmp_path, "torn.jsonl", "-o", "out", *skip), tmp_path)
    faults = len(BAD) + 1
    one_line(ended, row, 0, f"{faults} of {len(lines) + faults} records skipped", "errors.jsonl")
    assert content(tmp_path / "out") == reference
    errors = read_jsonl(tmp_path / "errors.jsonl")
    assert [error["error"].split(": ")[0] for error in errors] == [f"torn.jsonl:{n}" for n in range(2, faults + 2)]
    assert errors[0]["line"] == '{"id": "to'
    assert errors[-1]["id"] == json.loads(lines[0])["id"] and "came before" in errors[-1]["error"]
    ended = run(row.argv(tmp_path, "torn.jsonl", "-o", "few", *skip, "--max-errors", str(faults - 1)), tmp_path)
    one_line(ended, row, 1, f"--max-errors allows {faults - 1}")
    assert not (tmp_path / "few").exists()


@rows()
def test_no_room(row: Row, tmp_path: Path) -> None:
    """A full disk: one line, status 1, FILE as it was; with room again, --resume finishes."""
    source = [name for name in [row.input(tmp_path)] if name]
    reference = content(whole(row, tmp_path))
    (tmp_path / "out").mkdir() if row.to_folder else (tmp_path / "out").write_text("old")
    for room in (0, 700):
        ended = run(row.argv(tmp_path, *source, "-o", "out"), tmp_path, fsize=room)
        if room and row.to_folder and ended.status == 0:
            continue  # so little is written
        one_line(ended, row, 1, "out.partial", "file too large", "make room")
        assert content(tmp_path / "out") == ({} if row.to_folder else {"": b"old"})
    ended = run(row.argv(tmp_path, *source, "-o", "out", "--resume"), tmp_path)
    assert (ended.status, ended.err) == (0, row.says)
    assert content(tmp_path / "out") == reference


@pytest.mark.parametrize("row", [r for r in ROWS if "examples/toy/" in r.options], ids=lambda row: row.name)
def test_model_opens_before_the_output(row: Row, tmp_path: Path) -> None:
    """A model that is not there leaves no trace; wrong usage is found before the model is looked for."""
    source = row.input(tmp_path)
    gone = replace(row, options=row.options.replace("{root}/examples/toy/", "{dir}/no-"))
    argv = gone.argv(tmp_path, *([source] if source else []), "-o", "out")
    one_line(run(argv, tmp_path), row, 1, "no-", "; ")
    assert not list(tmp_path.glob("out*"))
    one_line(run([*argv, "--max-errors", "1"], tmp_path), row, 2, "--on-error skip")


@rows()
def test_wrong_usage(row: Row, tmp_path: Path) -> None:
    """Status 2 and one line, before anything is opened; nothing is written."""
    source = row.input(tmp_path)
    cases = [["--no-such-option"], ["-o", "nowhere/out"], ["--max-errors", "3", "-o", "out"]]
    if source:
        cases += [["no-such-file.jsonl", "-o", "out"], ["-o", "out", ".", "--resume"]]
    if not row.to_folder:
        cases += [["--resume"], ["--shard", "0/3"], ["--shard", "4/3"], ["-o", "."]]
    if source and not row.to_folder:
        cases += [["in.jsonl", "-o", "in.jsonl"], ["in.jsonl", "-o", "./in.jsonl", "--resume"]]
    before = sorted(tmp_path.rglob("*"))
    for case in cases:
        one_line(run(row.argv(tmp_path, *case), tmp_path), row, 2, "; ")
    assert sorted(tmp_path.rglob("*")) == before


# -- run records --


@rows()
def test_run_record(row: Row, tmp_path: Path) -> None:
    """Equal runs in two places leave equal bytes; nothing names the place; hashes fit; `fgvr provenance` reads it."""
    texts = []
    for place in ("here", "there"):
        folder = tmp_path / place / "work"
        folder.mkdir(parents=True)
        out = whole(row, folder)
        texts.append((folder / "whole.run.json").read_text())
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0] and str(ROOT) not in texts[0] and os.uname().nodename not in texts[0]
    record = json.loads(texts[0])
    assert record["command"] == row.name
    assert {"fgvr", "settings", "inputs", "models", "seed", "versions", "output"} <= set(record)
    if out.is_file():
        data = out.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert record["output"] == {"name": "whole", "sha256": digest, "records": data.count(b"\n")}
    if row.make:
        data = (folder / "in.jsonl").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert record["inputs"][0] == {"name": "in.jsonl", "sha256": digest, "records": data.count(b"\n")}
    ended = run([FRESH, "provenance", "whole"], folder)
    assert (ended.status, ended.err) == (0, "")
    assert f"by fgvr {row.name}" in ended.out.decode()
