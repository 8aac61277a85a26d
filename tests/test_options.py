"""Options made from settings, the shared ones, what counts as deciding the result; the error line of wrong usage."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fgvr import settings as all_settings
from fgvr.cli import options
from fgvr.cli.group import COMMANDS, cli
from fgvr.datasets import settings as set_settings
from fgvr.errors import UsageError
from fgvr.job import Job
from fgvr.settings import option
from fgvr.stream import Shard


@dataclasses.dataclass(frozen=True)
class Sample:
    count: int = option(3, "How many.")
    margin: float = option(0.05, "Unitless.")
    name: str | None = option(None, "A name.")
    fast: bool = option(False, "Go fast.", how=True)
    kind: str = option("soft", "Which.", choices=("soft", "hard"))

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise ValueError(f"--margin must be in [0, 1), got {self.margin}")


SEEN: dict[str, object] = {}


@click.command("sample")
@options.stage_io
@options.model
@options.adapter
@options.image_root
@click.option("--side", type=options.InputFile())
@options.settings(Sample)
def sample(job: Job, settings: Sample, **more: object) -> None:
    """Sample."""
    SEEN.update(more, job=job, settings=settings)


def invoke(*args: str) -> tuple[Job, Sample]:
    root = ["--image-root", "."] if "--image-root" not in args else []
    result = CliRunner().invoke(sample, [*args, *root, *([] if "--model" in args else ["--model", "hf:org/m@1"])])
    if result.exception:
        raise result.exception
    return SEEN["job"], SEEN["settings"]  # type: ignore[return-value]


def test_settings_become_options_and_come_back() -> None:
    assert invoke()[1] == Sample()
    given = invoke("--count", "5", "--margin", "0.5", "--name", "é", "--fast", "--kind", "hard")[1]
    assert given == Sample(5, 0.5, "é", True, "hard")
    help_ = CliRunner().invoke(sample, ["--help"]).output
    for words in ("How many.", "[default: 3]", "0.05", "--fast / --no-fast", "[soft|hard]"):
        assert words in help_
    assert help_.index("--count") < help_.index("--margin") < help_.index("--kind")


def test_range_check_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"--margin must be in \[0, 1\), got 1\.0"):
        invoke("--margin", "1")
    assert "'x' is not a valid integer" in CliRunner().invoke(sample, ["--count", "x"]).output


def test_what_decides_the_result() -> None:
    """Speed, places and files to write stay out; a model folder goes by its last name."""
    job, _ = invoke("--fast", "--on-error", "skip", "--errors", "e", "-v")
    assert job.settings == {
        "model": "hf:org/m@1", "image_root": Path.cwd().name, "count": 3, "margin": 0.05, "name": None, "kind": "soft"
    }  # fmt: skip


def test_places_stay_out_of_settings(tmp_path: Path) -> None:
    for folder in ("model", "adapter", "runs/images"):
        (tmp_path / folder).mkdir(parents=True)
    side = tmp_path / "side.jsonl"
    side.write_text("{}")
    job, _ = invoke(
        "--model", f"hf:{tmp_path}/model", "--adapter", f"{tmp_path}/adapter/", "--side", str(side),
        "--image-root", f"{tmp_path}/runs/images", "-o", f"{tmp_path}/runs/x.jsonl", "--shard", "2/3",
    )  # fmt: skip
    assert str(tmp_path) not in json.dumps(job.settings)
    assert job.settings["model"] == "hf:model" and job.settings["image_root"] == "images"
    assert job.settings["shard"] == "2/3" and "adapter" not in job.settings and "side" not in job.settings
    assert job.folders == [f"{tmp_path}/adapter/"] and job.shard == Shard(2, 3)
    assert invoke("--model", f"{tmp_path}/model")[0].settings["model"] == "model"


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5"])
def test_shard_is_checked(shard: str) -> None:
    result = CliRunner().invoke(sample, ["--shard", shard, "--image-root", ".", "--model", "m"])
    assert result.exit_code == 2 and "is not K/N" in result.output


def test_dash_is_stdout_and_stdin() -> None:
    job, _ = invoke("-", "-o", "-")
    assert (job.source, job.output) == ("-", None)


# -- all commands --


def leaves() -> list[tuple[str, click.Command]]:
    found = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for sub, leaf in getattr(command, "commands", {"": command}).items():
            found.append((f"{name} {sub}".strip(), leaf))
    return found


SHARED = ["on_error", "max_errors", "errors", "shard", "adapter", "image_root", "device"]


@pytest.mark.parametrize("name", SHARED)
def test_shared_options_mean_the_same_everywhere(name: str) -> None:
    """Defined once: the same default, type and help in every command that has it."""
    found = {
        (str(param.default), param.type.name, param.help)
        for _, leaf in leaves()
        for param in leaf.params
        if param.name == name and isinstance(param, click.Option)
    }
    assert len(found) == 1


def test_seeds_begin_at_zero() -> None:
    found = [param for _, leaf in leaves() for param in leaf.params if param.name == "seed"]
    assert found and all(param.default == 0 for param in found)


def test_no_option_comes_twice_in_a_command() -> None:
    for name, leaf in leaves():
        names = [opt for param in leaf.params for opt in param.opts]
        assert len(names) == len(set(names)), name


def test_every_option_has_help_and_full_words() -> None:
    for name, leaf in leaves():
        for param in leaf.params:
            if isinstance(param, click.Option):
                assert param.help, f"{name} {param.opts}"
                assert any(opt.startswith("--") and len(opt) > 3 for opt in param.opts), f"{name} {param.opts}"


def test_every_command_speaks_the_contract() -> None:
    for name, leaf in leaves():
        if name in ("provenance", "dataset list"):  # text for people
            continue
        there = {param.name for param in leaf.params}
        assert {"output", "resume", "on_error", "errors", "max_errors"} <= there, name


def test_settings_have_help_and_defaults() -> None:
    of_stages, of_sets = (inspect.getmembers(m, dataclasses.is_dataclass) for m in (all_settings, set_settings))
    for _, cls in (*of_stages, *of_sets):
        made = cls()
        for field in dataclasses.fields(made):
            assert field.metadata.get("help", "").endswith((".", "]")), f"{cls.__name__}.{field.name}"
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.seed = 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_narrow_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = CliRunner().invoke(cli, [name, "--help"], prog_name="fgvr").output.partition("Options:")[2]
    assert text and all(len(line) <= 40 for line in text.splitlines() if not line.startswith("  -"))


@pytest.mark.parametrize(("command", "used"), [
    (["tune", "--model", "there", "--image-root", "pics", "in.jsonl"], "there"),
    (["align", "--model", "hf:there/", "--image-root", "pics", "in.jsonl"], "there/"),
    (["align", "--model", "m", "--image-root", "there/pics", "in.jsonl"], "there/pics"),
    (["tune", "--model", "m", "--adapter", "there", "--image-root", "pics", "in.jsonl"], "there"),
    (["tune", "--model", "m", "--vision-cache", "there", "--image-root", "pics", "in.jsonl"], "there"),
    (["merge", "--model", "m", "--adapter", "there"], "there"),
    (["assemble", "--vision", "v", "--llm", "there"], "there"),
])  # fmt: skip
def test_a_folder_that_is_used_is_not_replaced(
    command: list[str], used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("there/pics", "pics", "adapter"):
        Path(folder).mkdir(parents=True)
    Path("in.jsonl").write_text("")
    Path("there.run.json").write_text("{}")
    done = CliRunner().invoke(cli, [*command, "-o", "./there"])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == f"-o ./there would replace {used}, which is used here; name another folder"
    # a word that is also a folder's name is no folder
    words = ["tune", "--model", "m", "--image-root", "pics", "--train", "adapter", "-o", "adapter", "in.jsonl"]
    assert "'m': no such folder" in str(CliRunner().invoke(cli, words).exception)
