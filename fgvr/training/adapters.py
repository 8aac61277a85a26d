"""What is trained: LoRA or DoRA adapters on the connector and the language model, or these themselves; the vision tower
stays as it is (Finedefics, 4.1)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from fgvr.errors import UsageError
from fgvr.models.vlm import Vlm
from fgvr.training.settings import Training

# --train -> the parts that get adapters
TRAINED = {
    "adapter": ("connector", "decoder"),
    "connector": ("connector",),
    "language-model": ("decoder",),
    "full": ("connector", "decoder"),
}


def roots(vlm: Vlm, train: str = "adapter") -> list[str]:
    """Dotted names of the modules that `train` is about."""
    return [path for part in TRAINED[train] for path in getattr(vlm.parts, part).split()]


def targets(vlm: Vlm, train: str = "adapter") -> str:
    """A regular expression that matches every linear layer of connector and language model (or of one of them), and
    nothing of the tower.

    peft tests it against whole module names, so "all-linear" or bare suffixes, which would also hit the tower, are
    not needed.
    """
    found = []
    for root in roots(vlm, train):
        paths = [name for name, layer in vlm.model.get_submodule(root).named_modules() if isinstance(layer, nn.Linear)]
        # layers are alike: model.layers.7.mlp.up_proj -> model.layers.<number>.mlp.up_proj
        alike = {re.sub(r"(^|(?<=\\\.))\d+(?=\\\.)", r"\\d+", re.escape(path)) for path in paths}
        found.append(rf"{re.escape(root)}\.({'|'.join(sorted(alike))})")
    return "|".join(found)


def prepare(vlm: Vlm, settings: Training) -> None:
    """Make trainable what `settings.train` names: in a new adapter, or in the one that the model came with."""
    from transformers import set_seed

    if vlm.peft is None:
        set_seed(settings.seed)  # the adapter's first weights
        add_adapter(vlm, settings.rank, settings.alpha, settings.dropout, settings.train, settings.dora)
    else:
        go_on_training(vlm, settings.train)
    if settings.gradient_checkpointing:
        checkpoint_layers(vlm)


def add_adapter(
    vlm: Vlm, rank: int, alpha: int, dropout: float, train: str = "adapter", dora: bool = False
) -> None:
    """Put a new LoRA adapter into the model (Gaussian A, zero B: the model's replies do not change yet).

    Args:
        rank: width of the low-rank update (Finedefics: 8).
        alpha: the update is scaled by alpha / rank (Finedefics: 8).
        dropout: share of inputs dropped before A, in [0, 1).
        train: a key of TRAINED; "full" puts no adapter in and makes all weights but the tower's trainable.
        dora: also learn the length of each row of a weight, of (out, in) (DoRA, arXiv:2402.09353, Eq 5).
    Raises:
        UsageError: "full" on weights in 4 bits; DoRA on a weight with a row of zeros.
    """
    from peft import LoraConfig, get_peft_model

    if train == "full":
        if "quantised" in vlm.about:
            raise UsageError("--train full cannot train weights in 4 bits; leave out --quantise")
        vlm.model.requires_grad_(True)
        vlm.part("tower").requires_grad_(False)
        return
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        init_lora_weights="gaussian",
        target_modules=targets(vlm, train),
        use_dora=dora,
    )
    vlm.peft = get_peft_model(vlm.model, config)
    zero = [name for name, scale in trained(vlm).items() if "lora_magnitude" in name and (scale == 0).any()]
    if zero:
        layer = zero[0].partition(".lora_magnitude")[0]
        raise UsageError(f"--dora cannot scale the rows of zeros that {layer} has; leave it out")
    # no path of this machine in the adapter
    vlm.peft.peft_config["default"].base_model_name_or_path = vlm.about["name"]


def go_on_training(vlm: Vlm, train: str) -> None:
    """Have an adapter that the model came with trained on in the parts that `train` names, and kept in the others.

    Raises:
        UsageError: "full", or the adapter has nothing there.
    """
    if train == "full":
        raise UsageError("--train full takes no --adapter; merge it into the model first (fgvr merge)")
    inside = tuple(f"{root}." for root in roots(vlm, train))
    for name, parameter in vlm.model.named_parameters():
        if parameter.requires_grad and not name.startswith(inside):
            parameter.requires_grad = False
    if not trained(vlm):
        raise UsageError(f"--train {train}: the adapter has no layer there; leave out --train")


def checkpoint_layers(vlm: Vlm) -> None:
    """Keep only the inputs of the language model's layers for the backward pass and compute the rest again: gradient
    checkpointing of the language model alone. The library's own switch would also hook the tower's embeddings, and
    back-propagate through the frozen tower."""
    decoder: Any = vlm.part("decoder")
    # the name up to transformers 5.20 comes second
    enable = getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def trained(vlm: Vlm) -> dict[str, Any]:
    """Names and parameters that training changes."""
    return {name: parameter for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}
