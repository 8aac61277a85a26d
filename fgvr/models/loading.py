"""Opening transformers models safely and quietly: weights are safetensors, complete, and never code."""

from __future__ import annotations

import json
import logging
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError

from fgvr import provenance
from fgvr.errors import FgvrError, UsageError
from fgvr.models import split_spec

# `import peft` imports bitsandbytes, which warns about optional kernels on every CPU
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
LOADED = (".json", ".safetensors", ".jinja", ".model", ".txt")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def quiet() -> None:
    """Keep transformers' bars and advice off stderr, which is for this program's own lines."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@cache
def no_network() -> bool:
    """Whether the hub's name has no address, as on many a compute node; then its library looks into its cache alone.

    It would otherwise try each file of a model six times, for half a minute a file. Where there is a proxy, that knows.
    """
    from huggingface_hub import constants

    if getproxies():
        return False
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    return constants.HF_HUB_OFFLINE


def unopened(name: str, error: BaseException, scheme: str = "") -> FgvrError:
    """One line for a model that a library could not open: what it says, and what is likely to help."""
    offline = not os.path.isdir(name) and no_network()
    remedy = "copy it here and name its folder, or fill HF_HOME" if offline else "check the folder or the name"
    said = first_line(error).partition(" Last error:")[0].rstrip(".")  # open_clip repeats the hub's three sentences
    return FgvrError(f"model {scheme}{name}: {said}; {remedy}")


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
        kind, wanted = ("adapter", "a folder of align or tune") if "adapter" in config else ("model", "a model folder")
        raise FgvrError(f"{kind} {folder}: has no {config}; name {wanted}")
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
    if not os.path.isdir(name):
        no_network()
    elif closed := [file for file in sorted(os.listdir(name)) if file.endswith(LOADED)
                    and not os.access(os.path.join(name, file), os.R_OK)]:  # fmt: skip
        raise FgvrError(f"model {name}: {closed[0]} cannot be read; check its permissions")
    try:
        return auto.from_pretrained(name, revision=revision, **options)
    except ImportError as error:
        raise FgvrError(f"model {name}: {first_line(error)}; install what it asks for") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise unopened(name, error) from error


def own_dtype(spec: str) -> torch.dtype:
    """The precision in which a vision-language model's weights are stored, as its config says; float32 if it does
    not."""
    from transformers import AutoConfig

    _, name, revision = split_spec(spec, {"hf": ""}, "hf")
    config = from_pretrained(AutoConfig, name, revision)
    stored = config.dtype or config.get_text_config().dtype or torch.float32
    return getattr(torch, str(stored).removeprefix("torch."))


def load_model(
    auto: Any, name: str, revision: str | None, device: torch.device, dtype: torch.dtype | str | None = None,
    **more: Any,
) -> torch.nn.Module:
    """The model of an Auto class in evaluation mode on `device`; `more` goes to from_pretrained.

    Args:
        dtype: "auto" for that of the weights; None for what suits the device.
    Raises:
        FgvrError: a pickle, missing or misfitting weights, an unknown architecture, no such model.
    """
    if os.path.isdir(name):
        check_folder(name)
    quiet()
    model, report = from_pretrained(
        auto, name, revision, dtype=dtype or pick_dtype(device), use_safetensors=True, output_loading_info=True, **more
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
    return model.eval() if "device_map" in more else model.to(device).eval()


def opened(
    auto: Any, name: str, revision: str | None, device: str, dtype: str = "auto", quantise: str = "none",
    decoder: str | None = None,
) -> torch.nn.Module:
    """The model as the user wants it.

    Args:
        device: "all" spreads the layers over all GPUs (accelerate's device map).
        dtype: "auto" for what suits the device.
        quantise, decoder: as load_nf4.
    """
    spread: dict[str, Any] = {"device_map": "auto"} if device == "all" else {}
    place = pick_device("auto" if spread else device)
    exact = getattr(torch, dtype) if dtype != "auto" else pick_dtype(place)
    if quantise == "none":
        return load_model(auto, name, revision, place, exact, **spread)
    return load_nf4(auto, name, revision, place, exact, decoder, **spread)


def load_nf4(
    auto: Any, name: str, revision: str | None, device: torch.device, dtype: torch.dtype, decoder: str | None,
    **more: Any,
) -> torch.nn.Module:
    """The same with the linear layers of the language model in NF4, double quantised (QLoRA, arXiv:2305.14314, section
    3), and everything else, vision tower, connector and output layer, in `dtype`.

    Args:
        decoder: dotted name of the language model; None: of a causal language model, all but its output layer.
    Raises:
        FgvrError: as load_model does; or bitsandbytes did not quantise exactly those layers.
    """
    from transformers import AutoConfig, BitsAndBytesConfig

    with torch.device("meta"):
        plain = auto.from_config(from_pretrained(AutoConfig, name, revision))
    decoder = decoder or plain.base_model_prefix
    linear = [path for path, layer in plain.named_modules() if isinstance(layer, torch.nn.Linear)]
    wanted = {path for path in linear if path.startswith(f"{decoder}.")}
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=sorted({*linear} - wanted),  # whole names: short ones are ignored in nested models
    )
    more = {"quantization_config": four_bits, "device_map": {"": device}, **more}
    model = load_model(auto, name, revision, device, dtype, **more)
    found = {path for path, layer in model.named_modules() if type(layer).__name__ == "Linear4bit"}
    others_as_they_are = all(
        parameter.dtype == dtype for path, parameter in model.named_parameters() if path.rpartition(".")[0] not in found
    )
    if found != wanted or not others_as_they_are:
        raise FgvrError(f"model {name}: bitsandbytes quantised {len(found)} layers, not the {len(wanted)} of {decoder}")
    for path in found:
        # on CPUs with AVX512-BF16 the first forward in evaluation mode would repack the weights for a kernel without
        # backward: wrong gradients from then on, a wrong merge, a crash where a width is no multiple of 32
        layer: Any = model.get_submodule(path)
        layer.support_avx512bf16_for_cpu = False
    return model


@torch.no_grad()
def through_nf4(decoder: torch.nn.Module) -> None:
    """Replace the weights of a language model's linear layers by what NF4 makes of them: the base that an adapter
    trained with --quantise nf4 has learnt on."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for path, layer in decoder.named_modules():
        if isinstance(layer, torch.nn.Linear) and "lora_" not in path:
            packed, state = quantize_4bit(layer.weight.data, quant_type="nf4", compress_statistics=True)
            layer.weight.copy_(dequantize_4bit(packed, state).to(layer.weight))


def about(name: str, revision: str | None, model: Any, quantise: str = "none") -> dict[str, Any]:
    """What a run record needs to name the model again: folder name and content hash, or hub id and commit."""
    found: dict[str, Any] = (
        dict(provenance.describe(name))
        if os.path.isdir(name)
        else {"name": name, "revision": commit(name, revision)}
    )
    quantised = {} if quantise == "none" else {"quantised": quantise}
    return {**found, "dtype": str(model.dtype).removeprefix("torch."), **quantised}


def commit(name: str, revision: str | None) -> str | None:
    """The commit that a branch or tag of a hub id stands for in the cache, which a model was just loaded from."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision


def attach_adapter(model: Any, adapter: str, trainable: bool, about: dict[str, Any]) -> Any:
    """`model` as a PeftModel with the LoRA weights of an align or tune folder.

    Args:
        about: of the model.
    Raises:
        FgvrError: no adapter there, a pickle, an adapter of another model, or weights that are no numbers.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    check_base(adapter, about)
    try:
        wrapped = PeftModel.from_pretrained(model, adapter, is_trainable=trainable, use_safetensors=True)
        with safe_open(Path(adapter) / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
        raise FgvrError(f"adapter {adapter}: {_unfitting(error)}; copy it anew, or name its own model") from error
    weights = get_peft_model_state_dict(wrapped, save_embedding_layers=False)  # "auto" would ask the hub
    if stored != set(weights):
        raise FgvrError(f"adapter {adapter}: its layers are not those of this model; it was trained on another model")
    if broken := [layer for layer, weight in weights.items() if not weight.isfinite().all()]:
        raise FgvrError(f"adapter {adapter}: {broken[0]} holds NaN or infinity; copy it anew, or train it anew")
    return wrapped


def _unfitting(error: Exception) -> str:
    """The first weight that does not fit, where torch lists them below a title; else what an exception says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line.rstrip(".") for line in lines if line.startswith("size mismatch")), first_line(error))


def trained_on(adapter: str) -> dict[str, Any]:
    """What an adapter folder says of its base: name, and sha256 or revision, dtype and quantised where fgvr made it.

    Raises:
        FgvrError: it is none, or damaged.
    """
    from safetensors import safe_open

    if not Path(adapter, "adapter_config.json").exists():
        raise FgvrError(f"adapter {adapter}: has no adapter_config.json; name a folder that align or tune wrote")
    check_folder(adapter, "adapter_config.json")
    try:
        name = json.loads(Path(adapter, "adapter_config.json").read_text())["base_model_name_or_path"]
        with safe_open(Path(adapter, "adapter_model.safetensors"), "pt") as file:
            record = json.loads((file.metadata() or {}).get("fgvr", "{}"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise FgvrError(f"adapter {adapter}: cannot be read ({first_line(error)}); copy it anew") from error
    return next(iter(record.get("models", [])), {"name": name or ""})


def check_base(adapter: str, about: dict[str, Any]) -> None:
    """Raise FgvrError unless the adapter was trained on this model: equal weights where both are known, else equal
    names (of a folder and a hub id, their last part)."""
    theirs = trained_on(adapter)
    digests = [of.get("sha256") for of in (theirs, about)]
    if all(digests):
        same = digests[0] == digests[1]
    else:
        same = not theirs["name"] or Path(theirs["name"]).name == Path(about["name"]).name
    if not same:
        shown = [f"{of['name']!r}" + (f" ({of['sha256'][:8]})" if all(digests) else "") for of in (theirs, about)]
        raise FgvrError(
            f"adapter {adapter}: was trained on another model, {shown[0]}, not on {shown[1]}; name that one as --model"
        )
