"""How models that answer are reached, as fgvr.settings has what is asked of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fgvr.settings import between, option


@dataclass(frozen=True)
class Loading:
    """How transformers loads a model; other models have nothing to choose."""

    dtype: str = option(
        "auto", "Precision of the model's weights; auto suits the device.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )  # fmt: skip
    quantise: str = option(
        "none", "Keep the language model's weights in 4 bits (QLoRA, double quantised).", choices=("none", "nf4")
    )


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server; none of this decides an answer."""

    base_url: str | None = option(
        None, "Address of an OpenAI-compatible server, up to /v1. [default: OPENAI_BASE_URL, else OpenAI's]", how=True
    )
    concurrency: int = option(8, "Requests to a server at once.", how=True)
    timeout_s: float = option(120.0, "Seconds to wait for a server's answer.", how=True)
    retries: int = option(5, "Further attempts at a request that fails for now, each after a longer pause.", how=True)
    price: str | None = option(
        None, "Price of a million tokens that are sent and of a million that come back, such as 0.15,0.6.", how=True
    )

    def __post_init__(self) -> None:
        between("concurrency", self.concurrency, 1)
        between("retries", self.retries, 0)
        if not self.timeout_s > 0:
            raise ValueError(f"--timeout-s must be positive, got {self.timeout_s}")
        if self.price is not None and not re.fullmatch(r"\d+(\.\d+)?,\d+(\.\d+)?", self.price):
            raise ValueError(f"--price must be two numbers with a comma between, got {self.price!r}")
