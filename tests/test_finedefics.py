"""examples/papers/finedefics.mk, driven with a stub for fgvr: what runs for a table, what cells share, what is said."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import pytest

from tests.test_makefile import ALL, World
from tests.test_options import leaves

COMMON = "COMMON=imagenet-a=/a/b grocery=/g"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "a world")
    stub = (made.root / "stub").read_text()  # what stands behind a pipe reads it
    made.write("stub", stub.replace("\ncase", "\ncase $* in *foci4*) cat > /dev/null;; esac\ncase", 1))
    return made


def test_a_table_runs_what_is_missing_and_is_shown(world: World) -> None:
    done = world.make("table8")
    *chain, last = world.calls()
    needed = Counter(ALL) - Counter(["dataset", "score"])  # no validation images, no other table
    assert Counter(call.split()[0] for call in chain) == needed
    assert last == (
        "score --published examples/papers/finedefics.jsonl:8 --data-set toy -o runs/toy/tables/table8.md "
        "runs/toy/metrics.jsonl"
    )
    assert done.stdout.endswith(f"{last}\n\n"), "the stub's table is its words"
    assert world.make("table8").stdout == f"{last}\n\n" and not world.calls()
    assert "--compare toy/" not in world.make("-n", "table4").stdout
    llava = world.make("-n", "table4", "MODEL=hf:llava-hf/llava-1.5-7b-hf", "LLM=examples/toy/vlm").stdout
    assert "--compare toy/before=runs/toy/predictions-before.jsonl" in llava
    assert "--data-set Bird-200 " in world.make("-n", "table2", "DATASET=cub", "DATA=/x").stdout


def test_cells_share_what_comes_before_their_change(world: World) -> None:
    world.make("all")
    attrs = [f'{{"attribute":"{name}","type":"{name}"}}' for name in ("colour", "shape", "other", "colour")]
    world.write("runs/toy/attrs.jsonl", "\n".join(attrs))
    world.make("table5")
    calls = world.calls()
    for name in ("colour", "shape"):
        own = [call.split()[0] for call in calls if f"-o runs/toy/cells/without-{name}/" in call]
        assert sorted(own) == sorted([
            "discover-attrs", "extract-attrs", "summarise", "mine-negatives", "mine-negatives", "align", "questions",
            "questions", "tune", "eval",
        ])  # fmt: skip
        assert any(call.startswith("discover-attrs ") and f" --drop {name} " in call for call in calls)
        cell = world.root / f"runs/toy/cells/without-{name}"
        assert (cell / "train.jsonl").is_symlink() and (cell / ".settings/train").is_symlink()
        assert "--image-root runs/toy/images" in next(c for c in calls if c.startswith("align") and name in c)
    assert not (world.root / "runs/toy/cells/without-size").exists()
    compared = [f"--compare without-{n}=runs/toy/cells/without-{n}/predictions.jsonl" for n in ("colour", "shape")]
    assert f":5 --data-set toy -o runs/toy/tables/table5.md {' '.join(compared)} --name all " in calls[-1]
    world.make("table5")
    assert [call.split()[0] for call in world.calls()] == ["score"], "cells are whole"


def test_descriptions_of_other_kinds(world: World) -> None:
    world.make("all")
    world.calls()
    world.make("table6", "SUMMARISE_OPTIONS=--max-new-tokens 9")
    own = [call for call in world.calls() if call.startswith("summarise") and "/cells/" in call]
    changes = ["--level short", "--noise 0.25", "--source class"]  # nothing true is known of the stub's records
    assert len(own) == len(changes)
    assert all(any(f" --max-new-tokens 9 {change} " in call for call in own) for change in changes)
    assert not any(call.startswith("extract") and "/cells/" in call for call in own)


def test_common_objects(world: World) -> None:
    world.make("table9", COMMON)
    calls = world.calls()
    asked = [call for call in calls if call.startswith("eval ") and "/common/" in call]
    assert len(asked) == 4 and sum("--adapter runs/toy/tune" in call for call in asked) == 2
    assert all("--image-root /a/b " in call for call in asked if "imagenet-a" in call)
    assert "--compare IN-adversarial/before=runs/toy/common/imagenet-a/predictions-before.jsonl" in calls[-1]
    assert "--compare grocery/after=runs/toy/common/grocery/predictions-after.jsonl" in calls[-1]
    world.make("table9", COMMON)
    assert [call.split()[0] for call in world.calls()] == ["score"]
    world.make("table9")
    assert "--compare" not in world.calls()[-1], "the table says what it lacks"


def test_every_command_and_option_exists(world: World) -> None:
    text = world.make("-n", "tables", "figures", COMMON).stdout.replace("\\\n", " ")
    known = {name: {opt for p in leaf.params for opt in (*p.opts, *p.secondary_opts)} for name, leaf in leaves()}
    commands = [shlex.split(part) for line in text.splitlines() for part in line.split("|") if "./stub " in part]
    assert {"report", "probe", "score", "mine-negatives", "questions", "eval"} <= {command[1] for command in commands}
    for _, name, *words in commands:
        if name != "dataset":
            assert {word for word in words if word.startswith("-")} <= known[name], words
    assert not (world.root / "runs").exists() and not world.calls(), "looking makes nothing"


def test_help_has_them(world: World) -> None:
    text = world.make("help").stdout
    assert all(f"\n  {name} " in text for name in ("tables", "figures", "KNOWLEDGE", "COMMON"))
