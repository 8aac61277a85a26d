"""Run records: what made a file. Written beside it as `FILE.run.json`, followed from hash to hash by `fgvr provenance`.

Equal runs give equal bytes: no clock, no host, no absolute path, and only the settings that decide *what* is computed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import fgvr
from fgvr.errors import FgvrError

SUFFIX = ".run.json"
# module as imported -> distribution that carries its version
LIBRARIES = {
    "torch": "torch",
    "transformers": "transformers",
    "peft": "peft",
    "open_clip": "open_clip_torch",
    "bitsandbytes": "bitsandbytes",
    "accelerate": "accelerate",
    "numpy": "numpy",
    "PIL": "Pillow",
}
RunRecord = dict[str, Any]


def sidecar(path: str | Path) -> Path:
    """Where the run record of a file or folder stands."""
    return Path(f"{os.path.normpath(path)}{SUFFIX}")


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal. Raises FgvrError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise FgvrError(f"cannot read {path}: {error.strerror}; check the path") from error
    return digest.hexdigest()


def sha256_tree(root: str | Path, paths: Iterable[str]) -> tuple[str, int]:
    """One digest over (path, sha256) of files, sorted by path, and how many there are.

    Args:
        paths: relative to root, `/` separators; repetitions count once.
    """
    digest = hashlib.sha256()
    unique = sorted(set(paths))
    for path in unique:
        digest.update(f"{sha256_file(Path(root, path))}  {path}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest(), len(unique)


def sha256_folder(root: str | Path) -> str:
    """Digest of all files below a folder (sha256_tree)."""
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return sha256_tree(root, (path.relative_to(root).as_posix() for path in files))[0]


def sha256_text(parts: Sequence[str]) -> str:
    """One digest over texts, for the prompts of a run."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def digest_of(path: str | Path) -> str:
    """SHA-256 of a file, or of all files of a folder."""
    return sha256_folder(path) if Path(path).is_dir() else sha256_file(path)


def describe(path: str | Path) -> dict[str, str]:
    """A model or adapter folder (or file) as a run record names it: its last name and its digest, never where it is."""
    return {"name": Path(path).resolve().name, "sha256": digest_of(path)}


def portable(path: str, beside: str | Path | None) -> str:
    """A path as a run record may name it: relative when it is below the folder of `beside`, else only its last name."""
    full = os.path.realpath(path)
    if beside is not None:
        folder = os.path.realpath(os.path.dirname(beside) or ".")
        if full.startswith(folder + os.sep):
            return os.path.relpath(full, folder).replace(os.sep, "/")
    return os.path.basename(full)


def versions() -> dict[str, str]:
    """Python's version, and those of the heavy libraries that are loaded."""
    from importlib import metadata

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for module, distribution in LIBRARIES.items():
        if module in sys.modules:
            try:
                found[module] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                found[module] = str(getattr(sys.modules[module], "__version__", "unknown"))
    return found


def run_record(
    command: str,
    settings: dict[str, Any],
    inputs: Sequence[dict[str, Any]] = (),
    models: Sequence[dict[str, Any]] = (),
    prompts: Sequence[str] = (),
) -> RunRecord:
    """What is known before the first record is written; the output is added when it is whole."""
    record: RunRecord = {"fgvr": fgvr.__version__, "command": command, "settings": settings, "inputs": list(inputs)}
    record["models"] = list(models)
    if prompts:
        record["prompt_sha256"] = sha256_text(prompts)
    record["seed"] = settings.get("seed")
    record["versions"] = versions()
    return record


def save(path: Path, record: RunRecord) -> None:
    """Write a run record so that the file is whole or as it was."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    partial = path.with_name(path.name + ".new")
    try:
        with open(partial, "wb") as file:
            file.write(text.encode("utf-8", "surrogatepass"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def load(path: Path) -> RunRecord | None:
    """A run record, or None when there is none that can be read."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record if _whole(record) else None


def _whole(record: Any) -> bool:
    """Whether it has the shape of a run record, finished or not."""
    kinds = {"fgvr": str, "command": str, "settings": dict, "inputs": list, "models": list, "versions": dict}
    if not isinstance(record, dict) or not all(isinstance(record.get(name), kind) for name, kind in kinds.items()):
        return False
    inputs, output, images = record["inputs"], record.get("output", {}), record.get("images", {})
    if not all(isinstance(entry, dict) for entry in (*inputs, *record["models"], output, images)):
        return False
    digests = [entry.get("sha256") for entry in (*inputs, output, images)]
    if not all(isinstance(entry.get("name"), str) for entry in inputs):
        return False
    if images and not {"root", "files"} <= set(images):
        return False
    return all(isinstance(digest, (str, type(None))) for digest in digests)


def difference(old: RunRecord, new: RunRecord) -> str | None:
    """The first thing in which two runs would compute something else, as words; None when there is none.

    Inputs of which one side has no hash yet (a pipe) are not compared here.
    """
    if old.get("command") != new["command"]:
        return f"the command was {old.get('command')!r} and is now {new['command']!r}"
    before, now = old.get("settings", {}), new["settings"]
    for name in [*now, *(name for name in before if name not in now)]:
        if before.get(name) != now.get(name):
            option = "--" + name.replace("_", "-")
            return f"{option} was {_word(before.get(name))} and is now {_word(now.get(name))}"
    for name in ("models", "prompt_sha256"):
        if old.get(name) != new.get(name):
            return _model_difference(old.get(name), new.get(name)) if name == "models" else "the prompts have changed"
    for was, is_ in zip(old.get("inputs", []), new["inputs"], strict=False):
        if was.get("sha256") and is_.get("sha256") and was["sha256"] != is_["sha256"]:
            return f"input {is_['name']} has changed (sha256 was {was['sha256'][:12]}, is now {is_['sha256'][:12]})"
    if len(old.get("inputs", [])) != len(new["inputs"]):
        return f"there were {len(old.get('inputs', []))} inputs and are now {len(new['inputs'])}"
    return None


def _word(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def _model_difference(old: Any, new: Any) -> str:
    for was, is_ in zip(old or [], new or [], strict=False):
        for name in {**was, **is_}:
            if was.get(name) != is_.get(name):
                return f"the model's {name} was {_word(was.get(name))} and is now {_word(is_.get(name))}"
    return "the models have changed"
