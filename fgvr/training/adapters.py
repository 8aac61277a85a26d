"""LoRA adapters on the connector and the language model; the vision tower stays as it is (Finedefics, 4.1)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from fgvr.models.vlm import Vlm


def targets(vlm: Vlm) -> str:
    """A regular expression that matches every linear layer of connector and language model, and nothing of the tower.

    peft tests it against whole module names, so "all-linear" or bare suffixes, which would also hit the tower, are
    not needed.
    """
    assert vlm.parts is not None
    roots = (vlm.parts.connector, vlm.parts.decoder)
    leaves = {
        name.rpartition(".")[2]
        for root in roots
        for name, module in vlm.model.get_submodule(root).named_modules()
        if isinstance(module, nn.Linear)
    }
    return rf"({'|'.join(re.escape(root) for root in roots)})\.(.*\.)?({'|'.join(sorted(leaves))})"


def add_adapter(vlm: Vlm, rank: int, alpha: int, dropout: float) -> None:
    """Put a new LoRA adapter into the model (Gaussian A, zero B: the model's replies do not change yet).

    Args:
        rank: width of the low-rank update (Finedefics: 8).
        alpha: the update is scaled by alpha / rank (Finedefics: 8).
        dropout: share of inputs dropped before A, in [0, 1).
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, init_lora_weights="gaussian", target_modules=targets(vlm)
    )
    vlm.peft = get_peft_model(vlm.model, config)
    # no path of this machine in the adapter
    vlm.peft.peft_config["default"].base_model_name_or_path = vlm.about["name"]


def trained(vlm: Vlm) -> dict[str, Any]:
    """Names and parameters that training changes."""
    return {name: parameter for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}
