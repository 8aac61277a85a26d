"""The papers' make targets, driven with a stub for fgvr: what runs, once, in which folder, and that every command and
option there exists."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from tests.test_makefile import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "w")
    (made.root / "examples" / "toy" / "parts.py").touch()
    stub = (made.root / "stub").read_text()  # predictions that a grep finds something in
    line = """case $* in eval*) printf '{"set":"%s",\\n' species attributes > "$out.partial" ;; esac\n"""
    parts = 'case $1 in parts) [ "$2" = - ] || mkdir -p "$2/$3"; exit ;; esac\nname=$1'
    made.write("stub", stub.replace('[ "${STOP', line + '[ "${STOP').replace("name=$1", parts))
    return made


def checked(calls: list[str]) -> list[list[str]]:
    """The calls as words, each a command of fgvr with options that it has."""
    from fgvr.cli.group import cli

    found = [shlex.split(call) for call in calls]
    for words in found:
        group: click.Command = cli
        rest = list(words)
        while isinstance(group, click.Group):
            group = group.get_command(click.Context(group), rest.pop(0)) or pytest.fail(f"no such: {words}")
        known = {name for param in group.params for name in (*param.opts, *param.secondary_opts)}
        assert {word for word in rest if word.startswith("--") or word == "-o"} <= known, words
    return found


def named(calls: list[list[str]]) -> list[str]:
    return sorted(words[0] for words in calls)


MODELS = "MODELS=hf:org/one examples/toy/vlm"


def test_study(world: World) -> None:
    """Choices once a data set; each model and its encoder; made again only where something changed."""
    words = ["study", MODELS, "DATASETS=pets flowers", "DATA_ROOT=/data", "ENCODER=clip:A/b", "GENERAL=s.csv"]
    world.write("s.csv", "model,x\n")
    world.make(*words)
    calls = checked(world.calls())
    assert named(calls) == ["dataset"] * 2 + ["eval"] * 8 + ["mine-negatives"] * 2 + ["questions"] * 2 + ["study"] * 2
    lines = [" ".join(words) for words in calls]
    assert any("dataset pets --root /data/pets --split test" in line for line in lines)
    models = {words[words.index("--model") + 1] for words in calls if words[0] == "eval"}
    assert models == {"hf:org/one", "clip-of:hf:org/one", "examples/toy/vlm", "clip:examples/toy/clip"}
    (table,) = (words for words in calls if "--table" in words)
    assert "pets/one=runs/study/pets/one/answers.jsonl" in table and "vlm=clip-of-vlm" in table
    world.make(*words)
    assert not world.calls()
    world.make(*words, "STUDY_QUESTION=What is this?")
    assert named(checked(world.calls())) == ["eval"] * 8 + ["questions"] * 2 + ["study"] * 2
    world.make(*words, "STUDY_QUESTION=What is this?", "STUDY_OPTIONS=--per-class pets")
    assert named(checked(world.calls())) == ["study"] * 2


def test_grid(world: World) -> None:
    """Sixteen cells on four assembled models and four pretrained ones; a cell that is there is left alone."""
    world.make("grid")
    calls = [call for call in world.calls() if not call.startswith("parts ")]
    counts = {name: named(checked(calls)).count(name) for name in ("assemble", "tune", "eval", "study")}
    assert counts == {"assemble": 4, "tune": 20, "eval": 16, "study": 2}
    trained = [words for words in checked(calls) if words[0] == "tune"]
    assert {words[words.index("--vision-cache") + 1] for words in trained} == {"runs/grid/vision"}
    shares = [words[words.index("--connector-warmup") + 1] for words in trained]
    assert sorted(shares) == ["0.2"] * 8 + ["1"] * 12
    full = next(words for words in trained if words[-2].endswith("large+full+captions+full/model"))
    assert full[full.index("--model") + 1] == "runs/grid/models/large+full+captions"
    (table,) = (words for words in checked(calls) if "--table" in words)
    stairs = [table[n + 1] for n, word in enumerate(table) if word == "--step"]
    assert stairs == ["small+early+none+connector", "small+early+captions+connector", "large+early+captions+connector",
                      "large+full+captions+connector", "large+full+captions+full"]  # fmt: skip
    world.make("grid")
    assert not world.calls()
    world.make("grid", "UPDATING=connector full other")
    again = [call for call in world.calls() if not call.startswith("parts ")]
    assert named(checked(again)) == ["eval"] * 8 + ["study"] * 2 + ["tune"] * 8


def test_finer(world: World) -> None:
    world.make("granularity", "modality-gap", "DATASETS=pets dogs", "DATA_ROOT=/data")
    calls = checked(world.calls())
    assert named(calls).count("eval") == 2 * 4 and named(calls).count("concept-attrs") == 2
    assert {words[words.index("--prompting") + 1] for words in calls if "--prompting" in words} == {"attr-seek"}
    world.make("granularity", "modality-gap", "DATASETS=pets dogs", "DATA_ROOT=/data")
    assert not world.calls()


def test_held_out(world: World) -> None:
    """Five in, one out; image paths from the folder that holds all data sets."""
    (world.root / "more.jsonl").write_text('{"id":"x"}\n')
    words = ["held-out", "TRAIN=cub dogs", "TEST=pets", "DATA_ROOT=/data", "INSTRUCTIONS=more.jsonl", "PER_CLASS=3"]
    world.make(*words)
    calls = checked(world.calls())
    counts = {name: named(calls).count(name) for name in ("concept-attrs", "dataset", "questions", "eval", "tune")}
    assert counts == {"concept-attrs": 2, "dataset": 3, "questions": 3, "eval": 2, "tune": 1}
    (tune,) = (words for words in calls if words[0] == "tune")
    assert tune[tune.index("--image-root") + 1] == "/data" and tune[-1] == "runs/held-out/mixture.jsonl"
    roots = [words[words.index("--image-root") + 1] for words in calls if words[0] == "eval"]
    assert roots == ["/data/pets"] * 2
    assert (world.root / "runs/held-out/mixture.jsonl").read_text().endswith('{"id":"x"}\n')
    world.make(*words)
    assert not world.calls()
    world.make("held-out", "TRAIN=toy@1", "TEST=toy@2")
    seeds = [words[words.index("--seed") + 1] for words in checked(world.calls()) if words[0] == "dataset"]
    assert sorted(seeds) == ["1", "2"]


def test_mixtures_name_their_data_set(world: World) -> None:
    """Ids and image paths of every record begin with it; texts that look like fields stay."""
    folder = world.root / "runs/held-out/sets/toy@1/finer"
    folder.mkdir(parents=True)
    made = '{"id":"a","image":"x/y.png","turns":[{"question":"\\\\"id\\\\":\\\\"","answer":"b"}]}'
    stub = (world.root / "stub").read_text()
    line = f"case $* in *dialogue*) printf '%s\\n' '{made}' > \"$out.partial\" ;; esac\n"
    world.write("stub", stub.replace('[ "${STOP', line + '[ "${STOP'))
    world.make("held-out", "TRAIN=toy@1", "TEST=toy@2")
    found = (world.root / "runs/held-out/mixture.jsonl").read_text()
    want = made.replace('"id":"a"', '"id":"toy@1/a"').replace("x/y.png", "sets/toy@1/images/x/y.png")
    assert found == f"{want}\n"


def test_help_tells_of_them(world: World) -> None:
    text = world.make("help").stdout
    for name in ("study", "grid", "granularity", "modality-gap", "held-out", "MODELS", "LLMS", "TRAIN"):
        assert f"\n  {name} " in text
