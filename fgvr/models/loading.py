"""Opening transformers models safely and quietly: weights are safetensors, complete, and never code."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fgvr import provenance
from fgvr.errors import FgvrError, UsageError

# `import peft` imports bitsandbytes, which warns about optional kernels on every CPU
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def quiet() -> None:
    """Keep transformers' bars and advice off stderr, which is for this program's own lines."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def pick_device(device: str) -> torch.device:
    """ "auto" is the first GPU, else the CPU. Raises UsageError for a device that torch does not have."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device {device} is not there: {str(error).splitlines()[0]}; use cpu, cuda or auto"
        ) from error
    return picked


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU; float32 on a CPU, where half precision is slow or inexact."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def check_folder(folder: str, config: str = "config.json") -> None:
    """Raise FgvrError unless `folder` holds a config and safetensors weights."""
    found = sorted(os.listdir(folder))
    if config not in found:
        raise FgvrError(f"model {folder}: has no {config}; name a model folder")
    if any(name.endswith(".safetensors") for name in found):
        return
    pickles = [name for name in found if name.endswith(PICKLES)]
    if pickles:
        raise FgvrError(f"model {folder}: {pickles[0]} is a pickle, which can run code; convert it to safetensors")
    raise FgvrError(f"model {folder}: has a config but no weights (*.safetensors); copy them there")


def first_line(error: BaseException) -> str:
    """What an exception says, in one line, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def from_pretrained(auto: Any, name: str, revision: str | None, **options: Any) -> Any:
    """`auto.from_pretrained` of a processor, config or tokenizer; any failure is one line."""
    try:
        return auto.from_pretrained(name, revision=revision, **options)
    except ImportError as error:
        raise FgvrError(f"model {name}: {first_line(error)}; install what it asks for") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise FgvrError(f"model {name}: {first_line(error)}; check the folder or the name") from error


def load_model(
    auto: Any, name: str, revision: str | None, device: torch.device, dtype: str | None = None
) -> torch.nn.Module:
    """The model of an Auto class in evaluation mode on `device`.

    Args:
        dtype: "auto" for that of the weights; None for what suits the device.
    Raises:
        FgvrError: a pickle, missing or misfitting weights, an unknown architecture, no such model.
    """
    if os.path.isdir(name):
        check_folder(name)
    quiet()
    model, report = from_pretrained(
        auto, name, revision, dtype=dtype or pick_dtype(device), use_safetensors=True, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    misfit = [str(key) for key in report.get("mismatched_keys") or []]
    if missing or misfit:
        what = (
            f"{len(missing)} weights are missing ({missing[0]})"
            if missing
            else f"{len(misfit)} weights have another shape"
        )
        raise FgvrError(f"model {name}: {what}; the weights do not belong to this config")
    return model.to(device).eval()


def about(name: str, revision: str | None, model: Any) -> dict[str, Any]:
    """What a run record needs to name the model again: folder name and content hash, or hub id and commit."""
    found: dict[str, Any] = (
        dict(provenance.describe(name))
        if os.path.isdir(name)
        else {"name": name, "revision": getattr(model.config, "_commit_hash", None) or revision}
    )
    return {**found, "dtype": str(model.dtype).removeprefix("torch.")}


def attach_adapter(model: Any, adapter: str, trainable: bool) -> Any:
    """`model` as a PeftModel with the LoRA weights of an align or tune folder.

    Raises:
        FgvrError: no adapter there, a pickle, or an adapter of another model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    check_folder(adapter, "adapter_config.json")
    try:
        wrapped = PeftModel.from_pretrained(model, adapter, is_trainable=trainable, use_safetensors=True)
        with safe_open(Path(adapter) / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
        raise FgvrError(f"adapter {adapter}: {first_line(error)}; it was trained on another model") from error
    if stored != set(get_peft_model_state_dict(wrapped)):
        raise FgvrError(f"adapter {adapter}: its layers are not those of this model; it was trained on another model")
    return wrapped
