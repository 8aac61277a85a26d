"""What a plain build installs, and that versions are locked without a trace of the machine that locked them."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
CODE = {".py", ".html", ".css", ".js"}  # the last three: the report's page
SETUP = configparser.ConfigParser()
SETUP.read(TOP / "setup.cfg")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and a source distribution, built from the tracked files alone."""
    root, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    shown = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, shown.stdout.split("\0")):
        if (TOP / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((TOP / name).read_bytes())
    for kind in ("sdist", "wheel"):
        build = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
        subprocess.run([sys.executable, "-c", build, str(out)], cwd=root, check=True, capture_output=True)
    return out


def test_the_wheel_holds_fgvr_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    code = {name for name in names if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in code} == {"fgvr"}
    files = [path for path in (TOP / "fgvr").rglob("*.*") if path.suffix in CODE]
    there = {f"fgvr/{path.relative_to(TOP / 'fgvr').as_posix()}" for path in files}
    assert code == there | {f"fgvr/cli/{path.name}" for path in (TOP / "cli").glob("*.py")}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_distribution_holds_the_licence_and_the_commands(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"LICENSE", "README.md", "setup.cfg", "pyproject.toml", "cli/main.py", "fgvr/__init__.py"} <= names


def test_the_installed_wheel_runs(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[1:] = ['--help']; "
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]; "
        "import fgvr.cli.main as main; assert main.__file__.startswith(sys.path[0]); sys.exit(main.main())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: fgvr" in done.stdout
    entry = next(tmp_path.glob("*.dist-info/entry_points.txt")).read_text()
    assert "fgvr = fgvr.cli.main:main" in entry


def normal(name: str) -> str:
    """A distribution's name as constraints.txt spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    texts = [SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values()]
    return [line for text in texts for line in text.split("\n") if line.strip()]


def locked() -> dict[str, list[str]]:
    """name -> the versions locked for it (one a Python, where they differ)."""
    found: dict[str, list[str]] = {}
    for line in (TOP / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)( ; [a-z_0-9'.=<>!() *A-Z-]+)?", line)
            assert match, f"a lock line is name==version with a marker, no path, no address: {line}"
            found.setdefault(match[1], []).append(match[2])
    return found


def test_every_requirement_has_an_oldest_and_a_locked_version() -> None:
    versions = locked()
    for line in requirements():
        match = re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)(,<[0-9]+)?(; python_version .*)?$", line)
        assert match, f"a requirement states its oldest version: {line}"
        oldest = tuple(map(int, match[2].split(".")))
        assert normal(match[1]) in versions, f"run make lock: {match[1]} is not locked"
        for version in versions[normal(match[1])]:
            if not match[4]:
                assert tuple(map(int, version.split("."))) >= oldest, line


def test_pyproject_holds_the_build_system_and_tools_only() -> None:
    text = (TOP / "pyproject.toml").read_text()
    tables = set(re.findall(r"^\[+([a-z-]+)", text, re.M))
    assert tables == {"build-system", "tool"}


def test_every_python_in_setup_cfg_is_named() -> None:
    classifiers = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert classifiers == ["3.10", "3.11", "3.12", "3.13"]
    assert SETUP["options"]["python_requires"] == f">={classifiers[0]}"


def test_every_package_folder_is_listed() -> None:
    folders = {path.parent.relative_to(TOP) for path in (TOP / "fgvr").rglob("__init__.py")}
    folders = {path.as_posix().replace("/", ".") for path in folders}
    assert set(SETUP["options"]["packages"].split()) == folders | {"fgvr.cli"}
