"""A model is a string until it is opened: "scheme:name[@revision]", or a local folder.

The tables hold strings, so that a model library is imported when a model that needs it is opened, and not before.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from fgvr.errors import FgvrError, UsageError
from fgvr.models.base import Answerer, Encoder

ANSWERERS = {
    "hf": "fgvr.models.hf:open_answerer",
    "openai": "fgvr.models.openai:open_answerer",
    "clip": "fgvr.models.clip:open_answerer",
    "clip-of": "fgvr.models.towers:open_answerer",
    "replay": "fgvr.models.replay:open_answerer",
}
ENCODERS = {"clip": "fgvr.models.clip:open_encoder", "hf": "fgvr.models.encoders:open_encoder"}


def split_spec(spec: str, table: dict[str, str], folder_scheme: str) -> tuple[str, str, str | None]:
    """ "hf:org/name@rev" -> ("hf", "org/name", "rev"); a folder gets `folder_scheme` and no revision.

    Raises:
        UsageError: the scheme is not in the table and there is no such folder.
    """
    if os.path.isdir(spec):
        return folder_scheme, spec, None
    scheme, colon, name = spec.partition(":")
    known = ", ".join(f"{known}:NAME" for known in table)
    if not colon:
        raise FgvrError(f"model {spec!r}: no such folder; name a folder, or one of {known}")
    if scheme not in table or not name:
        raise UsageError(f"model {spec!r}: unknown scheme {scheme!r}; name a folder, or one of {known}")
    if os.path.isdir(name):
        return scheme, name, None
    if scheme == "openai":
        return scheme, name, None  # the name is the server's affair
    name, _, revision = name.partition("@")
    return scheme, name, revision or None


def open_answerer(spec: str, **options: Any) -> Answerer:
    """Open a model that answers. Raises FgvrError when it cannot be opened, UsageError for an unknown scheme."""
    return _open(spec, ANSWERERS, "hf", options)


def open_encoder(spec: str, **options: Any) -> Encoder:
    """Open a CLIP-like model: a folder of open_clip or of transformers, or a name. Raises as open_answerer does."""
    ours = os.path.isfile(os.path.join(spec, "config.json")) and not os.path.isfile(
        os.path.join(spec, "open_clip_config.json")
    )
    return _open(spec, ENCODERS, "hf" if ours else "clip", options)


def _open(spec: str, table: dict[str, str], folder_scheme: str, options: dict[str, Any]) -> Any:
    scheme, name, revision = split_spec(spec, table, folder_scheme)
    module, _, function = table[scheme].partition(":")
    factory: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return factory(name, revision=revision, **options)
