"""The Makefile, driven with a stub for fgvr: what runs when, what a change makes again, what a kill costs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import click
import pytest

from fgvr.datasets import DATASETS, open_dataset
from tests.procs import FGVR, read_jsonl

TOP = Path(__file__).parent.parent
STUB = """\
#!/usr/bin/env bash
# notes its words, then writes -o by way of a partial, like fgvr; stops half-way where it is told to
set -euo pipefail
printf '%s\\n' "$*" >> calls
name=$1
for ((i = 1; i < $#; i++)); do [ "${!i}" != -o ] || { j=$((i + 1)); out=${!j}; }; done
if [ -z "${out:-}" ]; then echo "$name of ${!#}"; exit; fi
case $name in
  align | tune) mkdir -p "$out.partial" ;;
  *) echo "$*" > "$out.partial" ;;
esac
# a table as score writes one, of three rows
case $* in *--table*) printf '%s\n' '         before' 'mcq  accuracy  0.5' 'mcq  macro F1  0.5' > "$out.partial" ;; esac
[ "${STOP:-}" != "$name" ] || exit 143
rm -rf "$out"
mv "$out.partial" "$out"
"""
ALL = [
    "dataset", "dataset", "dataset", "dataset", "discover-attrs", "extract-attrs", "summarise", "mine-negatives",
    "mine-negatives",
    "align", "questions", "questions", "tune", "eval", "eval", "probe", "probe", "score", "score",
]  # fmt: skip
FRAGMENTS = sorted((path.stem for path in (TOP / "examples").glob("*.mk")), key=os.fsencode)
AFTER_MINING = ["mine-negatives", "mine-negatives", "align", "questions", "questions", "tune", "eval", "eval", "probe"]


class World:
    """A folder with the Makefile, its fragments, two model folders and a stub fgvr."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        shutil.copy(TOP / "Makefile", root)
        for path in ("setup.cfg", "constraints.txt"):
            shutil.copy(TOP / path, root)
        for fragment in (TOP / "examples").glob("*.mk"):
            (root / "examples").mkdir(exist_ok=True)
            shutil.copy(fragment, root / "examples")
        shutil.copytree(TOP / "examples" / "papers", root / "examples" / "papers")
        for model in ("vlm", "clip"):
            (root / "examples" / "toy" / model).mkdir(parents=True)
            (root / "examples" / "toy" / model / "model.safetensors").touch()
        self.write("stub", STUB).chmod(0o755)

    def write(self, path: str, text: str) -> Path:
        (self.root / path).write_text(text)
        return self.root / path

    def make(self, *words: str, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        command = ["make", "FGVR=./stub", *words]
        done = subprocess.run(
            command, cwd=self.root, env={**clean, **env}, text=True, capture_output=True, timeout=300
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "undefined variable" not in done.stderr
        return done

    def calls(self) -> list[str]:
        """The stub's calls since the last look."""
        file = self.root / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def ran(self, *words: str, **env: str) -> list[str]:
        """The stages that `make all` with these words runs, in alphabetical order."""
        self.make("all", *words, **env)
        return sorted(call.split()[0] for call in self.calls())


GIVEN = ("DATA=/x", "SUPERCLASS=product", "TABLE=rows.csv")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "a world")  # the clone's own path may hold a space


def test_the_chain_runs_once_and_then_nothing(world: World) -> None:
    assert world.ran() == sorted(ALL)
    assert (world.root / "runs/toy/predictions.jsonl").exists()
    start = time.perf_counter()
    done = world.make("all")
    assert time.perf_counter() - start < 3
    assert world.calls() == []
    shown = "         before\nmcq  accuracy  0.5\n"  # the rows that matter most
    assert done.stdout == shown + "all figures: runs/toy/table.txt; files: runs/toy\n"


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("NEGATIVES=5", AFTER_MINING),
        ("SEED=1", [name for name in ALL if name not in ("discover-attrs", "score")]),
        ("ALIGN_OPTIONS=--epochs 2", ["align", "tune", "eval", "probe"]),
        ("TUNE_OPTIONS=--epochs 2", ["tune", "eval", "probe"]),
        ("EVAL_OPTIONS=--max-new-tokens 8", ["eval", "eval"]),
        ("PROBE_OPTIONS=--epochs 2", ["probe", "probe"]),
        ("QUESTIONS_OPTIONS=--options 5", ["questions", "questions", "tune", "eval", "eval", "probe"]),
        ("SUMMARISE_OPTIONS=--max-new-tokens 8", ["summarise", *AFTER_MINING]),
        ("EXTRACT_OPTIONS=--max-new-tokens 8", ["extract-attrs", "summarise", *AFTER_MINING]),
        ("ENCODER=clip:other", AFTER_MINING),
        ("DATASET_OPTIONS=--size 64", [name for name in ALL if name not in ("discover-attrs", "score")]),
        ("SUPERCLASS=beast", ["discover-attrs", "extract-attrs", "summarise", *AFTER_MINING]),
        ("DEVICE=cpu", []),
        ("BATCH=3", []),
    ],
)  # fmt: skip
def test_a_changed_variable_makes_again_what_depends_on_it(world: World, change: str, again: list[str]) -> None:
    world.make("all")
    world.calls()
    ran = [name for name in world.ran(change) if name != "score"]
    assert ran == sorted(again)
    assert world.ran(change) == []
    assert [name for name in world.ran() if name != "score"] == sorted(again), "back to the old value"


def test_a_changed_model_makes_its_stages_again(world: World) -> None:
    world.make("all")
    world.calls()
    (world.root / "examples/toy/clip/model.safetensors").touch()
    assert [name for name in world.ran() if name != "score"] == sorted(AFTER_MINING)
    (world.root / "examples/toy/vlm/model.safetensors").touch()
    again = [name for name in ALL if name not in ("dataset", "score")]
    assert [name for name in world.ran() if name != "score"] == sorted(again)


def test_a_model_brings_its_settings(world: World) -> None:
    world.write("examples/toy/vlm.mk", "ALIGN_OPTIONS ?= --lr 0.1\n")
    assert "align --model examples/toy/vlm --lr 0.1 " in " ".join(world.make("-n", "all").stdout.split())
    assert "--lr" not in world.make("-n", "all", "MODEL=hf:org/model", "LLM=examples/toy/vlm").stdout
    assert "--lr 0.5" in world.make("-n", "all", "ALIGN_OPTIONS=--lr 0.5").stdout


def test_a_removed_file_is_made_again(world: World) -> None:
    world.make("all")
    world.calls()
    (world.root / "runs/toy/triples.jsonl").unlink()
    assert "summarise" in world.ran()


def test_looking_makes_nothing(world: World) -> None:
    world.make("-n", "all")
    world.make("help")
    world.make("-q", "all", status=1)
    assert not (world.root / "runs").exists() and not world.calls()


def test_several_jobs(world: World) -> None:
    assert world.ran("-j2") == sorted(ALL)


@pytest.mark.parametrize("stage", ["extract-attrs", "align", "tune", "eval"])
def test_a_killed_stage_is_resumed(world: World, stage: str) -> None:
    world.make("all", status=2, STOP=stage)
    assert " --resume " in [call for call in world.calls() if call.startswith(stage)][-1]
    world.make("all")
    first = world.calls()[0]
    assert first.startswith(stage) and " --resume " in first


@pytest.mark.parametrize(
    "change", ["EXTRACT_OPTIONS=--max-new-tokens 8", "SUPERCLASS=beast", "DATASET_OPTIONS=--size 64"]
)
def test_a_partial_result_of_other_settings_is_not_resumed(world: World, change: str) -> None:
    """Its own settings, a side input and the input: --resume would mix two runs, or be refused."""
    world.make("all", status=2, STOP="extract-attrs")
    world.calls()
    world.make("all", change, status=2, STOP="extract-attrs")
    assert " --resume " not in [call for call in world.calls() if call.startswith("extract-attrs")][-1]
    world.make("all", change)
    assert " --resume " in world.calls()[0], "but the new one is"


def test_a_stale_folder_is_not_resumed(world: World) -> None:
    world.make("all", status=2, STOP="align")
    world.calls()
    world.make("all", "ALIGN_OPTIONS=--epochs 2")
    (call,) = [call for call in world.calls() if call.startswith("align")]
    assert " --resume " not in call


def test_a_data_set_in_folders(world: World) -> None:
    words = ("DATASET=folder", "DATA=/some photos/it's", "SUPERCLASS=grocery product", "CLASSUNIT=kinds", "RUN=runs/x/")
    world.make("all", *words)
    calls = world.calls()
    assert calls[0].startswith("dataset folder --root /some photos/it's --superclass grocery product --split ")
    assert all("/some photos/it's" in call for call in calls if call.startswith(("extract", "align", "tune", "probe")))
    assert "--split val " in calls[-1], "for your own use: no stage reads it"
    assert world.ran(*words) == []
    assert world.ran(*words, "VAL_SPLIT=", "RUN=runs/y").count("dataset") == 3
    assert "dataset" in world.ran(*words[:1], "DATA=/other", *words[2:])


@pytest.mark.parametrize("name", DATASETS)
def test_a_published_data_set(world: World, name: str) -> None:
    """Its fragment says what its module says, and names splits that there are."""
    spec = open_dataset(name)
    world.make("all", f"DATASET={name}", "DATA=/some data")
    calls = world.calls()
    reads = [call for call in calls if call.startswith("dataset ") and "--check" not in call]
    for call in reads:
        words = call.split(" --root /some data --split ")
        own = open_dataset(words[0].removeprefix("dataset "))
        assert words[1].split()[0] in own.splits and own.title in (spec.title, "ImageNet-1k")
    assert any(f"dataset {name} " in call for call in reads)
    (check,) = (call for call in calls if call.startswith("dataset --check"))
    assert check.endswith(f"runs/{name}/train.jsonl runs/{name}/test.jsonl") and "--image-root /some data " in check
    assert calls.index(check) < next(n for n, call in enumerate(calls) if call.startswith("extract-attrs"))
    asked = next(call for call in calls if call.startswith("discover-attrs"))
    assert f"--superclass {spec.superclass} --class-unit {spec.class_unit} " in asked
    question = next(call for call in calls if call.startswith("questions"))
    assert spec.question in question.replace("{superclass}", spec.superclass)


def test_a_leak_stops_the_chain_before_anything_costly(world: World) -> None:
    stub = (world.root / "stub").read_text()
    world.write("stub", stub.replace("\ncase", "\ncase $* in *--check*) exit 1;; esac\ncase")).chmod(0o755)
    done = world.make("all", status=2)
    ran = [call.split()[0] for call in world.calls()]
    assert "extract-attrs" not in ran and "leaks.jsonl" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["DATASET=folder"], "DATA is not set"),
        (["DATASET=folder", "DATA=/x"], "SUPERCLASS is not set"),
        (["DATASET=cub"], "DATA is not set: make all DATASET=cub DATA=/folder"),
        (["DATASET=table", "DATA=/x", "SUPERCLASS=bird"], "TABLE is not set"),
        (["DATASET=hf", "DATA=/x"], "SUPERCLASS is not set"),
        (["DATASET=nope"], f"unknown DATASET 'nope'; there are: {' '.join(FRAGMENTS)}"),
        (["MODEL=my models/vlm"], "MODEL may not contain spaces: 'my models/vlm'"),
        (["RUN="], "RUN is empty or /; name a folder for the results"),
        (["RUN=my runs"], "RUN may not contain spaces: 'my runs'"),
    ],
)
def test_a_wrong_variable_is_one_clear_line(world: World, words: list[str], message: str) -> None:
    done = world.make("all", *words, status=2)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout
    assert not (world.root / "runs").exists()


def test_an_old_python_is_one_clear_line(world: World) -> None:
    world.write("python", "#!/bin/sh\nexit 1\n").chmod(0o755)
    done = world.make("setup", "PYTHON=./python", status=2)
    assert done.stderr.splitlines()[0].startswith("fgvr needs Python 3.10 or newer")
    assert not (world.root / ".venv").exists()


def test_help_names_every_target_and_variable(world: World) -> None:
    text = world.make("help").stdout
    makefile = (TOP / "Makefile").read_text() + (TOP / "examples/toy.mk").read_text()
    targets = set(re.findall(r"^\.PHONY: (.*)", makefile, re.M)[0].split()) - {"FORCE"}
    papers = "".join(path.read_text() for path in sorted((TOP / "examples/papers").glob("*.mk")))
    makefile, targets = makefile + papers, targets | set(re.findall(r"^## .*\n([a-z0-9-]+):", papers, re.M))
    variables = set(re.findall(r"^([A-Z_]+) *\?=", makefile, re.M))
    shown = set(re.findall(r"^  (\S+) ", text, re.M))
    assert shown == targets | variables
    assert "[bird]" in text and f"Data sets: {' '.join(FRAGMENTS)}" in text
    assert "DATA is not set" not in world.make("help", "DATASET=folder").stdout


def test_clean_leaves_no_trace(tmp_path: Path) -> None:
    """Everything that .gitignore names goes."""
    world = World(tmp_path / "clone")
    shutil.copy(TOP / ".gitignore", world.root)
    git = ["git", "-C", str(world.root), "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    world.make("all")
    world.calls()
    for line in (TOP / ".gitignore").read_text().split():
        folder = world.root / "examples" / line if line.startswith("__") else world.root / line
        folder.mkdir(exist_ok=True)
        (folder / "file").touch()
    world.make("clean")
    status = [*git, "status", "--ignored", "--porcelain"]
    assert subprocess.run(status, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.parametrize(
    "words",
    [(), *([f"DATASET={name}", *GIVEN, "SEED=1", "DEVICE=cpu", "BATCH=2"] for name in FRAGMENTS if name != "toy")],
)
def test_every_command_and_option_of_the_chain_exists(world: World, words: tuple[str, ...]) -> None:
    from fgvr.cli.group import cli

    lines = world.make("-n", "all", "NEGATIVES=5", *words).stdout.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("./stub ")]
    skipped = 0 if not words or words[0] in ("DATASET=folder", "DATASET=grocery") else 1  # no validation split
    assert len(commands) == len(ALL) - skipped
    for command in commands:
        command[1:2] = [command[1].removeprefix("--")] if command[1] == "--check" else command[1:2]
        group: click.Command = cli
        while isinstance(group, click.Group):
            group = group.get_command(click.Context(group), command.pop(0)) or pytest.fail(f"no such: {command}")
        known = {name for param in group.params for name in (*param.opts, *param.secondary_opts)}
        assert {word for word in command if word.startswith("-")} <= known, command


# --- experiments ---

ABLATIONS = ("ablations", "SEEDS=0 1", "VARIANTS=tune align one-stage")
CELL = {"tune": ["eval", "probe", "questions", "tune"], "align": ["align", "eval", "probe", "questions", "tune"],
        "one-stage": ["align", "eval", "probe", "questions"]}  # fmt: skip


def test_ablations_share_the_data_and_run_each_cell_once(world: World) -> None:
    world.make(*ABLATIONS)
    calls = world.calls()
    ordinary = [call.split()[0] for call in calls if "toy-ablations" not in call]
    assert sorted(ordinary) == sorted(["dataset"] * 3 + ALL[4:9] + ["questions", "eval", "probe"])
    calls = [call for call in calls if not call.startswith("score")]
    for variant, stages in CELL.items():
        for seed in "01":
            own = [call for call in calls if f"toy-ablations/{variant}@{seed}/" in call]
            assert sorted(call.split()[0] for call in own) == stages
            for call in own:
                assert f"--seed {seed}" in call or call.startswith(("eval", "probe"))
                assert "--vision-cache runs/toy-ablations/vision " in call or not call.startswith(("align", "tune"))
            adapter = f"--adapter runs/toy-ablations/{variant}@{seed}/"
            assert all((adapter in call) == (variant == "align") for call in own if call.startswith("tune"))
            last = "align" if variant == "one-stage" else "tune"
            assert all(f"{adapter}{last} " in call for call in own if call.startswith(("eval", "probe")))
            asked = [f"--questions runs/toy-ablations/{variant}@{seed}/questions.jsonl" in call
                     for call in own if call.startswith("align")]  # fmt: skip
            assert asked == [variant == "one-stage"] * ("align" in stages)
    world.make(*ABLATIONS)
    assert {call.split()[0] for call in world.calls()} == {"score"}
    world.make(*ABLATIONS, "SEEDS=0", "MINE_OPTIONS=--margin 0.1")
    again = [call.split()[0] for call in world.calls()]
    assert again.count("mine-negatives") == 2 and again.count("align") == 2 and again.count("tune") == 2
    assert "dataset" not in again


def test_looking_at_ablations_makes_nothing_and_shows_the_cells_alone(world: World) -> None:
    shown = [line.split()[1] for line in world.make("-n", *ABLATIONS).stdout.splitlines() if line.startswith("./stub ")]
    assert [shown.count(name) for name in ("dataset", "mine-negatives", "align", "tune")] == [3, 2, 4, 4]
    assert not (world.root / "runs").exists()
    assert "unknown variant 'nope'; there are: align " in world.make("ablations", "VARIANTS=nope", status=2).stderr


def test_a_killed_cell_goes_on(world: World) -> None:
    def resumed(*words: str, **more: object) -> list[bool]:
        world.make(*ABLATIONS, *words, **more)
        return [" --resume " in call for call in world.calls() if call.startswith("align")]

    assert resumed(status=2, STOP="align") == [True]
    assert resumed() == [True] * 4
    resumed("ALIGN_OPTIONS=--epochs 9", status=2, STOP="align")
    changed = resumed("ALIGN_OPTIONS=--epochs 9", "MINE_OPTIONS=--margin 0.1", status=2, STOP="align")
    assert changed == [False], "the linked file is another one"


@pytest.mark.slow
def test_ablations_of_a_tiny_world(tmp_path: Path) -> None:
    """The real commands: two cells of a few steps, and the table."""
    words = [f"RUN={tmp_path}/run", "SEEDS=1", "VARIANTS=tune one-stage", "DATASET_OPTIONS=--train 2 --test 1",
             "ONE_STAGE_OPTIONS=--choice-reply text", "TUNE_OPTIONS=--batch-size 32",
             "ALIGN_OPTIONS=--batch-size 24 --warmup-steps 1", f"FGVR={shlex.join(FGVR)}"]  # fmt: skip
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "ablations", *words], cwd=TOP, env=clean, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run-ablations" / "table.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["run", "untuned", "tune", "one-stage"]
    assert "76.13" in lines[2] and "[" in lines[1] and "[" not in lines[2], "intervals are of one run"
    log = read_jsonl(tmp_path / "run-ablations" / "one-stage@1" / "align" / "log.jsonl")
    assert [entry["answers"] > 0 for entry in log] == [True] * 3
    assert (tmp_path / "run-ablations" / "table.md").read_text().startswith("| run | mcq accuracy |")
    assert len(list((tmp_path / "run-ablations" / "vision").rglob("*.safetensors"))) == 60


@pytest.mark.parametrize("length", [20, 200, 1200])
def test_settings_of_any_length_are_known_again(world: World, length: int) -> None:
    """GNU make 4.3 leaves a line end on some texts that it reads from a file, by their length."""
    options = "ALIGN_OPTIONS=" + "x" * length
    stamp = "runs/toy/.settings/align"
    world.make("all")
    assert "printf" in world.make("-n", stamp, options).stdout
    world.make(stamp, options)
    assert "printf" not in world.make("-n", stamp, options).stdout
