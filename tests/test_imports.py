"""The level rule of docs/architecture.md, and that no help text costs a model library."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import json
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fgvr.cli.group import COMMANDS
from tests.procs import FGVR, ROOT

# Level of each module; "H" may import HEAVY at its top. The first pattern that fits counts.
LEVELS = [
    ("fgvr", "0"), ("fgvr.errors", "0"), ("fgvr.settings", "0"), ("fgvr.rng", "0"), ("fgvr.signals", "0"),
    ("fgvr.prompts", "0"), ("fgvr.answers", "0"), ("fgvr.metrics", "0"),
    ("fgvr.records", "1"), ("fgvr.provenance", "1"), ("fgvr.lineage", "1"), ("fgvr.source", "1"), ("fgvr.stream", "1"),
    ("fgvr.output", "1"), ("fgvr.faults", "1"), ("fgvr.job", "1"), ("fgvr.run", "1"), ("fgvr.images", "1"),
    ("fgvr.datasets*", "1"),
    ("fgvr.models", "2"), ("fgvr.models.base", "2"), ("fgvr.models.settings", "0"),
    ("fgvr.tensors", "2H"), ("fgvr.losses", "2H"), ("fgvr.topk", "2H"),
    ("fgvr.rules", "2H"), ("fgvr.negatives", "2H"), ("fgvr.features", "2H"),
    ("fgvr.names", "0"), ("fgvr.groups", "1"),
    ("fgvr.finer", "0"), ("fgvr.dialogue", "0"), ("fgvr.concepts", "0"),
    ("fgvr.models.*", "3H"), ("fgvr.training.settings", "0"), ("fgvr.training*", "3H"),
    ("fgvr.stages.align", "4H"), ("fgvr.stages.tune", "4H"), ("fgvr.stages.merge", "4H"),  # tensor code
    ("fgvr.stages*", "4"), ("fgvr.analysis*", "4"), ("fgvr.report*", "4"),
    ("fgvr.cli", "5"), ("fgvr.cli.boundary", "5"), ("fgvr.cli.options", "5"), ("fgvr.cli.console", "5"),
    ("fgvr.cli.*", "6"),
]  # fmt: skip
HEAVY = {"torch", "torchvision", "transformers", "peft", "bitsandbytes", "open_clip", "accelerate", "sklearn", "scipy"}
# not heavy enough to be banned from a module, but nothing that a help text needs
UNNEEDED = {"numpy", "PIL", "jsonlines", "orjson", "tqdm", "safetensors", "matplotlib", "jinja2", "asyncio"}
UNNEEDED |= {"importlib.metadata"}


def modules() -> dict[str, Path]:
    """Every module by the name it installs under."""
    found = {}
    for folder, package in ((ROOT / "fgvr", "fgvr"), (ROOT / "cli", "fgvr.cli")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


MODULES = modules()


def level(name: str) -> str:
    return next((level for pattern, level in LEVELS if fnmatch.fnmatchcase(name, pattern)), "")


def at_import(tree: ast.AST) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: no function bodies, no `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from at_import(node)


def imported(name: str) -> set[str]:
    """The modules that importing a module imports, as it names them; a package's own modules in full."""
    found = set()
    for node in at_import(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: import by full name"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in MODULES else str(node.module) for full in whole}
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_levels(name: str) -> None:
    """A module imports from its own level or below, and no model library unless it is an H module."""
    assert level(name), f"give {name} a level in LEVELS and in docs/architecture.md"
    for other in imported(name):
        if other in MODULES:
            assert level(other)[0] <= level(name)[0], f"{name} (level {level(name)}) imports {other} ({level(other)})"
        if not level(name).endswith("H"):
            assert other.split(".")[0] not in HEAVY, f"{name} imports {other} at its top; import it in the function"
            assert not level(other).endswith("H"), f"{name} imports {other}, which imports model libraries"


def test_no_circles() -> None:
    """Modules of one level may build on each other, in one direction."""
    edges = {name: {other for other in imported(name) if other in MODULES} - {"fgvr"} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in edges[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_the_walk_sees_what_it_must() -> None:
    """Top-level, nested in a class or an `if`, but not in a function."""
    code = (
        "import a.b\nfrom fgvr import stream\nclass C:\n import c\n def f(self):\n  import no\nif 1:\n import d\n"
        "try:\n import e\nexcept ImportError:\n import g\nif TYPE_CHECKING:\n import no2\n"
    )
    names = {alias.name for n in at_import(ast.parse(code)) if isinstance(n, ast.Import) for alias in n.names}
    assert names == {"a.b", "c", "d", "e", "g"}
    assert "fgvr.stream" in imported("fgvr.run") and "fgvr.job" not in imported("fgvr.run")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_budgets(name: str) -> None:
    """A module at most 400 lines, a command's 80, a function 40, its docstring not counted."""
    text = MODULES[name].read_text()
    command = level(name) == "6" and name.rpartition(".")[2].replace("_", "-") in COMMANDS
    assert text.count("\n") <= (80 if command else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node, clean=False) or ""
            length = (node.end_lineno or 0) - node.lineno + 1 - docstring.count("\n")
            assert length <= 40, f"{name}.{node.name} has {length} lines"


# -- help --

HELPS = [[], ["dataset", "cub"], ["dataset", "hf"], ["dataset", "check"], *([name] for name in COMMANDS)]
PROBE = "import sys, json; from fgvr.cli.main import main; s = main(sys.argv[1:]); print(json.dumps([s, *sys.modules]))"


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_is_light(command: list[str]) -> None:
    """`--help` prints help, status 0, and loads nothing that it does not need; within 1 s of computing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    argv = [FGVR[0], "-c", PROBE, *command, "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.stderr == ""
    help_, _, last = done.stdout.rstrip().rpartition("\n")
    status, *loaded = json.loads(last)
    assert status == 0 and help_.startswith(f"Usage: {' '.join(['fgvr', *command])} ")
    assert not {name.split(".")[0] for name in loaded} & HEAVY
    editable = {"importlib.metadata", "jinja2"}  # an editable install's own finder may load it
    assert not set(loaded) & (UNNEEDED - editable)
    assert took_s < 1


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_what_a_manual_needs(name: str) -> None:
    """The table's line is the docstring's first; an example that runs; whether it streams or buffers."""
    command = importlib.import_module(f"fgvr.cli.{name.replace('-', '_')}").command
    assert (command.help or "").splitlines()[0] == COMMANDS[name]
    for sub in getattr(command, "commands", {"": command}).values():
        text = sub.help or ""
        assert "Example" in text and f"fgvr {name}" in text
        if any(param.name == "operand" for param in sub.params):
            assert "Streams" in text or "Buffers" in text or "whole stream" in text


def test_exit_statuses_are_listed() -> None:
    text = subprocess.run([*FGVR, "--help"], capture_output=True, text=True, timeout=60).stdout
    for status in (0, 1, 2, 75, 130, 141, 143):
        assert f"\n  {status:>5}  " in text
    for name in COMMANDS:
        assert f"\n  {name} " in text


@pytest.mark.parametrize("command", ["align", "tune", "merge"])
def test_a_model_that_is_not_there_is_said_before_torch_is_imported(command: str, tmp_path: Path) -> None:
    words = [command, "--model", f"{tmp_path}/none", "--image-root", str(tmp_path), "-o", f"{tmp_path}/out"]
    words += ["--adapter", str(tmp_path)] if command == "merge" else [str(tmp_path / "in.jsonl")]
    (tmp_path / "in.jsonl").write_text("")
    code = f"import sys; from fgvr.cli.main import main; sys.exit(main({words!r}))"
    ended = subprocess.run([FGVR[0], "-X", "importtime", "-c", code], capture_output=True, text=True, cwd=ROOT)
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time")}
    assert ended.returncode == 1 and "no such folder" in ended.stderr
    assert "click" in imported and "torch" not in imported
