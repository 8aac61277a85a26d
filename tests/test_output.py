"""fgvr.job and fgvr.output: where records go, what becomes of bad ones, how an interrupted run goes on.

What a command shows from outside (signals, statuses, a full disk) is in test_contract.py; here are the corners.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from fgvr import output, provenance, stream
from fgvr.errors import FgvrError, RecordError, Stopped, TryAgain, UsageError
from fgvr.job import Job
from fgvr.stream import Bad, Shard
from tests.procs import read_jsonl, write_jsonl


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def records(count: int, **more: object) -> list[dict]:
    return [{"id": f"r{n}", "category": f"c{n}", **more} for n in range(count)]


def job(source: str | None = "in.jsonl", out: str | None = "out", **more: object) -> Job:
    made = Job("test", source=source, output=out, **more)  # type: ignore[arg-type]
    made.check()
    return made


class Stage:
    """Marks records as done, counts them, and can fail at one."""

    def __init__(self, stop_at: str = "", bad: tuple[str, ...] = ()) -> None:
        self.seen: list[str] = []
        self.stop_at, self.bad = stop_at, bad

    def __call__(self, items):
        for item in items:
            if isinstance(item, Bad):
                yield item
                continue
            if item["id"] == self.stop_at:
                raise Stopped(15)
            self.seen.append(item["id"])
            yield stream.bad(item, "cannot; replace it") if item["id"] in self.bad else {**item, "done": 1}


def go(made: Job, stage: Stage | None = None, **more: object) -> Stage:
    stage = stage or Stage()
    with made.run(**more) as run:  # type: ignore[arg-type]
        run.write(stage(run.read()))
    return stage


def interrupt(at: str, count: int = 6, **more: object) -> None:
    """Leave what a run leaves that is stopped at a record."""
    if not Path("in.jsonl").exists():
        write_jsonl(Path("in.jsonl"), records(count))
    with pytest.raises(Stopped) as stopped:
        go(job(**more), Stage(stop_at=at))
    assert stopped.value.note == "out.partial keeps what is done, run again with --resume"


# -- resume --


def test_resume_computes_only_what_is_missing() -> None:
    interrupt("r4")
    with open("out.partial", "ab") as file:
        file.write(b'{"id":"r4","ca')
    assert go(job(resume=True)).seen == ["r4", "r5"]
    assert read_jsonl(Path("out")) == [{**r, "done": 1} for r in records(6)]
    resumed = [Path(name).read_bytes() for name in ("out", "out.run.json")]
    go(job())
    assert [Path(name).read_bytes() for name in ("out", "out.run.json")] == resumed
    assert sorted(os.listdir()) == ["in.jsonl", "out", "out.run.json"]


@pytest.mark.parametrize("written", range(1, 8))
def test_resume_computes_the_batch_again_in_which_it_was_stopped(written: int) -> None:
    """Batches of three good records; each result tells its batch, as floating point would."""
    lines = [json.dumps(r) for r in records(8)]
    lines[2:2] = ["torn {"]
    Path("in.jsonl").write_text("\n".join(lines))
    skip = {"on_error": "skip", "errors": "errors"}

    def work(batch: list[dict]) -> list:
        ids = [r["id"] for r in batch]
        return [stream.bad(r, "cannot") if r["id"] == "r4" else {**r, "with": ids} for r in batch]

    def run_(**more: object) -> None:
        with job(**skip, **more).run() as run:
            stop = None if more else written
            items = stream.ordered(run.read(required=("category",), batch=3), 3, work)
            for n, item in enumerate(items):
                if n == stop:
                    raise Stopped(15)
                run.write([item])

    run_(resume=False)
    whole = [Path(name).read_bytes() for name in ("out", "errors", "out.run.json")]
    assert [r["with"] for r in read_jsonl(Path("out"))][2:5] == [["r0", "r1", "r2"], *[["r3", "r4", "r5"]] * 2]
    with pytest.raises(Stopped):
        run_()
    run_(resume=True)
    assert [Path(name).read_bytes() for name in ("out", "errors", "out.run.json")] == whole


def test_resume_drops_a_last_line_of_nulls() -> None:
    """What some file systems leave after a power failure."""
    interrupt("r4")
    with open("out.partial", "ab") as file:
        file.write(b"\0" * 100 + b"\n")
    assert go(job(resume=True)).seen == ["r4", "r5"]


def test_without_resume_begins_anew() -> None:
    interrupt("r4")
    assert len(go(job()).seen) == 6
    assert len(read_jsonl(Path("out"))) == 6


def test_stopped_before_the_first_record_leaves_nothing() -> None:
    write_jsonl(Path("in.jsonl"), records(3))
    with pytest.raises(Stopped) as stopped:
        go(job(), Stage(stop_at="r0"))
    assert stopped.value.note == ""
    assert os.listdir() == ["in.jsonl"]


def test_resume_refuses_another_stream_on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of a pipe is known at its end only, so the ids have to tell."""

    def pipe(these: list[dict]) -> None:
        data = "".join(json.dumps(r) + "\n" for r in these).encode()
        read_end, write_end = os.pipe()
        os.write(write_end, data)
        os.close(write_end)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(os.fdopen(read_end, "rb")))

    for other, word in (
        (records(6)[::-1], "'r5'"),
        (records(6)[1:], "'r1'"),
        (records(3), "'r3'"),
        ([{"id": "new"}, *records(6)], "'new'"),
    ):
        pipe(records(6))
        with pytest.raises(Stopped):
            go(job("-"), Stage(stop_at="r4"))
        pipe(other)
        with pytest.raises(FgvrError, match=f"out.partial does not fit this input at record {word}"):
            go(job("-", resume=True))
        assert not Path("out").exists()
    pipe(records(6))
    assert go(job("-", resume=True)).seen == ["r4", "r5"]
    pipe(records(6))
    assert go(job("-", resume=True)).seen == []  # whole, and the pipe is the same
    pipe(records(7))
    assert len(go(job("-", resume=True)).seen) == 7  # whole, but of another pipe


def test_resume_compares_settings_models_prompts_and_inputs() -> None:
    now = {"settings": {"k": 3, "name": None}, "folders": []}
    runs = {"models": [{"spec": "m", "sha256": "a"}], "prompts": ["p"]}
    write_jsonl(Path("in.jsonl"), records(6))
    with pytest.raises(Stopped):
        go(job(**now), Stage(stop_at="r4"), **runs)
    for changed, words in (
        ({"settings": {"k": 5, "name": None}}, "--k was 3 and is now 5"),
        ({"settings": {"k": 3, "name": "x"}}, '--name was not given and is now "x"'),
        ({"settings": {"k": 3, "name": None, "new_one": 1}}, "--new-one was not given and is now 1"),
        ({"settings": {"k": 3}, "command": "other"}, "the command was 'test' and is now 'other'"),
        ({"models": [{"spec": "m", "sha256": "b"}]}, 'the model\'s sha256 was "a" and is now "b"'),
        ({"prompts": ["q"]}, "the prompts have changed"),
    ):
        made = job(**{**now, **{k: v for k, v in changed.items() if k == "settings"}}, resume=True)
        made.command = str(changed.get("command", "test"))
        with pytest.raises(FgvrError) as error:
            go(made, **{**runs, **{k: v for k, v in changed.items() if k in runs}})
        assert words in str(error.value)
        assert len(Path("out.partial").read_bytes().splitlines()) == 4
    assert go(job(**now, resume=True), **runs).seen == ["r4", "r5"]


def test_partial_without_run_record_is_refused() -> None:
    interrupt("r4")
    os.unlink("out.partial.run.json")
    with pytest.raises(FgvrError, match="no run record to compare with"):
        go(job(resume=True))


def test_input_that_changes_while_it_is_read() -> None:
    write_jsonl(Path("in.jsonl"), records(3))
    with pytest.raises(FgvrError, match=r"in\.jsonl changed while it was read"), job().run() as run:
        with open("in.jsonl", "a") as file:
            file.write('{"id":"late"}\n')
        run.write(run.read())
    assert not Path("out").exists()


def test_recompute_skips_what_is_there() -> None:
    def ask(items):
        for item in items:
            yield from ({"id": f"{item['id']}#{kind}"} for kind in "ab")

    write_jsonl(Path("in.jsonl"), records(3))
    with job().run(recompute=True) as run:
        run.write(ask(run.read()))
    whole = Path("out").read_bytes()
    Path("out.partial").write_bytes(whole[: len(whole) // 2])
    os.rename("out.run.json", "out.partial.run.json")
    with job(resume=True).run(recompute=True) as run:
        assert run.resumed
        run.write(ask(run.read()))
    assert Path("out").read_bytes() == whole
    Path("out.partial").write_bytes(whole.splitlines(keepends=True)[1])
    os.rename("out.run.json", "out.partial.run.json")
    with pytest.raises(FgvrError, match="does not fit"), job(resume=True).run(recompute=True) as run:
        run.write(ask(run.read()))


def test_complete_needs_equal_settings_inputs_and_bytes() -> None:
    write_jsonl(Path("in.jsonl"), records(3))
    go(job(settings={"k": 1}))
    assert go(job(settings={"k": 1}, resume=True)).seen == []
    assert len(go(job(settings={"k": 2}, resume=True)).seen) == 3  # an old result: made anew
    Path("out").write_text("edited")
    assert len(go(job(settings={"k": 2}, resume=True)).seen) == 3
    write_jsonl(Path("in.jsonl"), records(4))
    assert len(go(job(settings={"k": 2}, resume=True)).seen) == 4
    before = os.stat("out").st_mtime_ns
    os.utime("out", (1, 1))
    go(job(settings={"k": 2}, resume=True))
    assert os.stat("out").st_mtime_ns >= before  # make sees that it is up to date


# -- bad records --


def test_bad_record_of_a_stage_stops() -> None:
    write_jsonl(Path("in.jsonl"), records(3))
    with pytest.raises(RecordError, match=r"^r1: cannot; replace it$"):
        go(job(), Stage(bad=("r1",)))
    assert not Path("out").exists() and len(read_jsonl(Path("out.partial"))) == 1


def test_skip_and_resume_equal_an_uninterrupted_run() -> None:
    lines = [json.dumps(r) for r in records(9)]
    lines[1:1] = ["torn {", lines[0]]
    Path("in.jsonl").write_text("\n".join(lines))
    skip = {"on_error": "skip", "errors": "errors"}
    said: list[str] = []
    go(job(**skip, say=said.append), Stage(bad=("r2", "r6")))
    assert said == ["4 of 11 records skipped; see errors"]
    places = [error["error"].partition(": ")[0] for error in read_jsonl(Path("errors"))]
    assert places == ["in.jsonl:2", "in.jsonl:3", "r2", "r6"]
    assert json.loads(Path("out.run.json").read_text())["output"]["skipped"] == 4
    whole = [Path(name).read_bytes() for name in ("out", "errors", "out.run.json")]
    for at in ("r1", "r3", "r7"):
        with pytest.raises(Stopped):
            go(job(**skip), Stage(stop_at=at, bad=("r2", "r6")))
        with open("errors", "ab") as file:
            file.write(b'{"id":"r6","err')
        stage = go(job(**skip, resume=True), Stage(bad=("r2", "r6")))
        assert stage.seen[0] == at  # what failed is not tried again
        assert [Path(name).read_bytes() for name in ("out", "errors", "out.run.json")] == whole


@pytest.mark.parametrize("batch", [1, 4])
def test_what_was_skipped_without_an_errors_file_does_not_stop_resume(batch: int) -> None:
    write_jsonl(Path("in.jsonl"), records(9))

    def go_on(stage: Stage, **more: object) -> None:
        with job(on_error="skip", **more).run() as run:
            run.write(stage(run.read(batch=batch)))

    go_on(Stage(bad=("r2", "r6")))
    whole = [Path(name).read_bytes() for name in ("out", "out.run.json")]
    for at in ("r4", "r8"):
        with pytest.raises(Stopped):
            go_on(Stage(stop_at=at, bad=("r2", "r6")))
        said: list[str] = []
        go_on(Stage(), resume=True, errors="errors", say=said.append)  # usable now, but its place has gone
        assert "r2" not in [record["id"] for record in read_jsonl(Path("out"))]
        with pytest.raises(Stopped):
            go_on(Stage(stop_at=at, bad=("r2", "r6")))
        go_on(Stage(bad=("r2", "r6")), resume=True)
        assert [Path(name).read_bytes() for name in ("out", "out.run.json")] == whole


def test_no_other_file_is_in_the_place_of_what_is_written() -> None:
    """FILE.partial and the run records count as FILE does: they would be cleared, or written over."""
    write_jsonl(Path("out.partial"), records(2))
    kept = Path("out.partial").read_bytes()
    with pytest.raises(UsageError, match=r"^-o out would overwrite the input"):
        job("out.partial")
    assert Path("out.partial").read_bytes() == kept
    write_jsonl(Path("in.jsonl"), records(2))
    for name in ("out", "out.partial", "out.run.json", "out.partial.run.json"):
        with pytest.raises(UsageError, match=f"^--errors {name} is also the output"):
            job(on_error="skip", errors=name)
        with pytest.raises(UsageError, match=f"^--record {name} is also the output"):
            job(record=name)
    with pytest.raises(UsageError, match=r"^--errors bad is also the --record file"):
        job(on_error="skip", errors="bad", record="bad")


def test_a_line_at_fault_does_not_hide_a_good_record_of_its_id() -> None:
    """A record that lacks a field, then a good one with the same id, then a kill between the two."""
    Path("in.jsonl").write_text('{"id":"a"}\n{"id":"b","category":"c"}\n{"id":"a","category":"c"}\n')
    skip = {"on_error": "skip", "errors": "errors"}

    def run_(stage: Stage, **more: object) -> None:
        with job(**skip, **more).run() as run:
            run.write(stage(run.read(required=("category",))))

    with pytest.raises(Stopped):
        run_(Stage(stop_at="a"))
    run_(Stage(), resume=True)
    assert [r["id"] for r in read_jsonl(Path("out"))] == ["b", "a"]


def test_max_errors() -> None:
    write_jsonl(Path("in.jsonl"), records(9))
    skip = {"on_error": "skip", "errors": "errors", "max_errors": 2}
    go(job(**skip), Stage(bad=("r1", "r2")))
    with pytest.raises(FgvrError, match=r"^r4: cannot; replace it; this is bad record 3, --max-errors allows 2$"):
        go(job(**skip), Stage(bad=("r1", "r2", "r4", "r5")))
    assert len(read_jsonl(Path("errors"))) == 3
    with pytest.raises(FgvrError, match="bad record 4"):  # the count goes on
        go(job(**skip, resume=True), Stage(bad=("r5",)))


def test_skip_without_a_file_says_each() -> None:
    write_jsonl(Path("in.jsonl"), records(3))
    said: list[str] = []
    go(job(on_error="skip", say=said.append), Stage(bad=("r1",)))
    assert said == ["r1: cannot; replace it", "1 of 3 records skipped"]


def test_a_stage_that_makes_nan_made_a_bad_record() -> None:
    write_jsonl(Path("in.jsonl"), records(3))
    with pytest.raises(RecordError, match=r"^r0: cannot write the record: NaN"), job().run() as run:
        run.write({**item, "x": float("nan")} for item in run.read() if isinstance(item, dict))
    skip = {"on_error": "skip", "errors": "errors"}
    with job(**skip).run() as run:
        run.write({**item, "x": float("nan")} for item in run.read() if isinstance(item, dict))
    assert len(read_jsonl(Path("errors"))) == 3


# -- files --


def test_links_and_permissions_are_kept() -> None:
    write_jsonl(Path("in.jsonl"), records(3))
    os.mkdir("far")
    Path("far/real").write_text("old")
    os.chmod("far/real", 0o640)
    os.symlink("far/real", "out")
    go(job())
    assert os.path.islink("out") and len(read_jsonl(Path("far/real"))) == 3
    assert os.stat("far/real").st_mode & 0o777 == 0o640


def test_packed_output_is_the_same_each_time() -> None:
    write_jsonl(Path("in.jsonl"), records(50))
    go(job(out="out.gz"))
    first = Path("out.gz").read_bytes()
    assert gzip.decompress(first).count(b"\n") == 50
    os.utime("in.jsonl", (1, 1))
    go(job(out="out.gz"))
    assert Path("out.gz").read_bytes() == first
    with pytest.raises(Stopped):
        go(job(out="out.gz"), Stage(stop_at="r30"))
    assert go(job(out="out.gz", resume=True)).seen[0] == "r30"
    assert Path("out.gz").read_bytes() == first
    assert sorted(os.listdir()) == ["in.jsonl", "out.gz", "out.gz.run.json"]
    assert list(stream.read("out.gz")) == [{**r, "done": 1} for r in records(50)]


def test_zst_works_or_names_what_is_missing() -> None:
    write_jsonl(Path("in.jsonl"), records(50))
    try:
        import zstandard  # noqa: F401
    except ImportError:
        with pytest.raises(
            FgvrError, match=r"out\.zst: no zstd library; run `pip install 'fgvr\[zstd\]'`, or use \.gz"
        ):
            job(out="out.zst")
        with pytest.raises(FgvrError, match=r"in\.zst: no zstd library"):
            job(source="in.zst")
        return
    go(job(out="out.zst"))
    assert len(list(stream.read("out.zst"))) == 50
    go(job(source="out.zst", out="again"))
    packed = Path("out.zst").read_bytes()
    Path("two.zst").write_bytes(packed + packed)
    assert len(list(stream.read("two.zst", unique=False))) == 100
    for hurt in (packed[:-5], packed[: len(packed) // 2], packed + packed[:9], b"no zstd at all", packed + b"more"):
        Path("hurt.zst").write_bytes(hurt)
        with pytest.raises(FgvrError, match=r"hurt\.zst:\d+: cannot read on: .*; replace the file"):
            go(job(source="hurt.zst", out="again"))


def test_devices_are_written_as_they_are() -> None:
    write_jsonl(Path("in.jsonl"), records(3))
    go(job(out="/dev/null"))
    assert not Path("/dev/null.run.json").exists() and not os.path.isfile("/dev/null")
    with pytest.raises(UsageError, match="no regular file"):
        job(out="/dev/null", resume=True)
    with pytest.raises(FgvrError, match="cannot write /dev/full: no space left on device; make room"):
        go(job(out="/dev/full"))


def test_lock_is_of_the_file_that_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run may finish, and rename its file, between our open and our lock."""
    path = Path("out.partial")
    flock, finished = fcntl.flock, False

    def late(fd: int, flags: int) -> None:
        nonlocal finished
        if not finished:
            finished = True
            os.rename(path, "out")
        flock(fd, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    path.write_text("whole")
    fd = output.lock(path)
    assert os.path.samestat(os.fstat(fd), os.stat(path)) and Path("out").read_text() == "whole"
    with pytest.raises(TryAgain, match=r"out\.partial is being written by another run"):
        output.lock(path)
    os.close(fd)
    os.close(output.lock(path))


def test_crash_between_run_record_and_rename() -> None:
    """FILE is as it was, its new run record does not fit it, and --resume repairs this without computing."""
    write_jsonl(Path("in.jsonl"), records(3))
    Path("out").write_text("old")
    replace = os.replace

    def crash(a: os.PathLike, b: os.PathLike) -> None:
        if os.path.basename(b) == "out":
            raise Stopped(9)
        replace(a, b)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(os, "replace", crash)
        go(job())
    assert Path("out").read_text() == "old"
    assert go(job(resume=True)).seen == []
    assert len(read_jsonl(Path("out"))) == 3


def test_a_link_to_where_no_folder_is() -> None:
    os.symlink("nowhere/real", "link")
    with pytest.raises(UsageError, match=r"-o link: there is no folder \S*/nowhere; make it first"):
        job(out="link")


def test_two_outputs_that_are_one() -> None:
    write_jsonl(Path("in.jsonl"), records(1))
    os.symlink("in.jsonl", "link")
    for out in ("in.jsonl", "link", "./in.jsonl", os.path.abspath("in.jsonl")):
        with pytest.raises(UsageError, match="would overwrite the input"):
            job(out=out)
        with pytest.raises(UsageError, match=r"--errors .* would overwrite the input"):
            job(errors=out, on_error="skip")
    with pytest.raises(UsageError, match="is also the output"):
        job(errors="out", on_error="skip")
    with pytest.raises(UsageError, match="would overwrite the input"):
        job(source=None, out="in.jsonl").load("in.jsonl")


def test_shards_of_bad_lines_come_once() -> None:
    Path("in.jsonl").write_text("".join(f'{{"torn {n}\n' for n in range(20)) + '{"id":"a"}\n')
    found: list[str] = []
    for k in (1, 2, 3):
        go(job(on_error="skip", errors="errors", shard=Shard(k, 3)))
        part = [e["line"] for e in read_jsonl(Path("errors"))]
        assert 0 < len(part) < 20
        found += part
    assert sorted(found) == sorted(f'{{"torn {n}' for n in range(20))


# -- folders --


def train(made: Job, stop: bool = False) -> tuple[bool, list[str]]:
    with made.run() as run:
        if run.complete:
            return True, []
        there = sorted(p.name for p in run.folder.iterdir())
        (run.folder / "checkpoints").mkdir(exist_ok=True)
        (run.folder / "checkpoints" / "1").write_text("half")
        if stop:
            raise Stopped(15)
        (run.folder / "deep").mkdir()
        (run.folder / "deep" / "weights").write_text("whole")
    return run.resumed, there


def test_a_folder_of_the_users_own_stays() -> None:
    for name in ("out", "out.old"):
        os.mkdir(name)
        Path(name, "thesis").write_text("mine")
    with pytest.raises(FgvrError, match=r"out: there is a folder that fgvr did not write .*; name another one"):
        train(job(None, to_folder=True))
    os.remove("out/thesis")  # an empty one may be filled
    train(job(None, to_folder=True))
    train(job(None, to_folder=True))
    assert Path("out.old/thesis").read_text() == "mine" and Path("out/deep/weights").exists()
    assert sorted(os.listdir()) == ["out", "out.old", "out.run.json"]


def test_folder_is_whole_or_as_it_was() -> None:
    train(job(None, to_folder=True))
    shutil.rmtree("out/deep")
    Path("out/weights").write_text("old")
    with pytest.raises(Stopped) as stopped:
        train(job(None, to_folder=True), stop=True)
    assert "out.partial keeps what is done" in stopped.value.note
    assert os.listdir("out") == ["weights"]
    assert train(job(None, to_folder=True, resume=True)) == (True, ["checkpoints"])
    assert sorted(str(p) for p in Path("out").rglob("*")) == ["out/deep", "out/deep/weights"]
    assert sorted(os.listdir()) == ["out", "out.run.json"]
    recorded = json.loads(Path("out.run.json").read_text())["output"]
    assert recorded == {"name": "out", "sha256": provenance.sha256_folder("out"), "records": None}
    assert train(job(None, to_folder=True, resume=True)) == (True, [])  # nothing to do
    with pytest.raises(Stopped):
        train(job(None, to_folder=True), stop=True)
    Path("out.partial/deep").mkdir()
    assert train(job(None, to_folder=True)) == (False, [])  # begun anew


def test_folder_after_a_crash_between_its_renames() -> None:
    train(job(None, to_folder=True))
    os.rename("out", ".out.old")
    with pytest.raises(Stopped):
        train(job(None, to_folder=True), stop=True)
    assert Path("out/deep/weights").read_text() == "whole"


def test_folder_digest_sees_names_and_content() -> None:
    digests = set()
    for files in ({"a": "1"}, {"b": "1"}, {"a": "2"}, {"a": "1", "b": ""}, {"d/a": "1"}):
        root = Path(f"f{len(digests)}")
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        digests.add(provenance.sha256_folder(root))
    assert len(digests) == 5
