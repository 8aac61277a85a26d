"""What a training run leaves: checkpoints that are known to be whole, a log without gaps, the adapter's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint

from fgvr.errors import FgvrError
from fgvr.models.vlm import Vlm
from fgvr.provenance import sha256_file

WHOLE = "files.json"  # SHA-256 of a checkpoint's files; written last


def seal(checkpoint: Path) -> None:
    """Note the hashes of a checkpoint's files, as the last thing (random states come from every process; they are
    not looked at)."""
    files = [p for p in sorted(checkpoint.iterdir()) if p.name != WHOLE and not p.name.startswith("rng_state")]
    (checkpoint / WHOLE).write_text(json.dumps({p.name: sha256_file(p) for p in files}))


def last_checkpoint(checkpoints: Path) -> str | None:
    """The newest whole checkpoint; torn or damaged ones, as a kill leaves them, go."""
    while last := get_last_checkpoint(str(checkpoints)):
        try:
            files = json.loads(Path(last, WHOLE).read_text())
            if all(sha256_file(Path(last, name)) == digest for name, digest in files.items()):
                return last
        except (OSError, ValueError, FgvrError):
            pass
        shutil.rmtree(last)
    return None


def cut_log(log: Path, steps: int) -> None:
    """Keep the lines of the first `steps` steps: what came after the checkpoint is trained, and logged, again."""
    if not log.exists():
        return
    kept = []
    for line in log.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or json.loads(line)["step"] > steps:
            break
        kept.append(line)
    log.write_bytes(b"".join(kept))


def save_adapter(
    vlm: Vlm, folder: Path, record: dict[str, Any], whole: dict[str, Tensor] | None = None
) -> None:
    """Write adapter_config.json and adapter_model.safetensors, the run record in the metadata of the latter (one key:
    the library writes several in random order). Without an adapter: the whole model.

    Args:
        whole: weights, as `train` gave them.
    """
    from safetensors.torch import load_file, save

    if vlm.peft is None:
        return vlm.save(folder, whole)
    vlm.peft.save_pretrained(folder, save_embedding_layers=False, state_dict=whole)  # "auto" would ask the hub
    (folder / "README.md").unlink(missing_ok=True)
    weights = folder / "adapter_model.safetensors"
    data = save(load_file(weights), metadata={"fgvr": json.dumps(record, sort_keys=True)})
    weights.unlink()  # the library's files are for their owner alone; a new one follows the umask
    weights.write_bytes(data)
