"""What `fgvr eval` finds out before it opens a model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fgvr.cli.options import opening
from fgvr.errors import UsageError
from fgvr.job import Job
from fgvr.models.settings import Loading, Server

if TYPE_CHECKING:
    from fgvr.models.base import Answerer


def answering(
    model: str, device: str, adapter: str | None, loading: Loading, server: Server, template: str
) -> Answerer:
    """The model, opened with the options that its kind takes. Raises as fgvr.models.open_answerer and opening do."""
    from fgvr.models import open_answerer

    clip = {"template": template} if model.startswith(("clip:", "clip-of:")) and not os.path.isdir(model) else {}
    return open_answerer(model, device=device, adapter=adapter, **opening(model, loading, server), **clip)


def ranked(job: Job, scoring: str, categories: str | None) -> list[str]:
    """The categories that --scoring label ranks: those of --categories, else the answers of the input; else none.

    Raises:
        UsageError: they cannot be known beforehand, or are not wanted.
    """
    from fgvr import stream
    from fgvr.stages.evaluate import names_of

    if scoring != "label":
        if categories is not None:
            raise UsageError(f"--categories is for --scoring label, not {scoring}; leave it out")
        return []
    if categories is not None:
        return names_of(job.load(categories, required=("category",)))
    if not os.path.isfile(job.source or ""):  # a pipe can be read once only
        raise UsageError("--scoring label needs the categories beforehand; give --categories FILE or an input FILE")
    read = (item for item in stream.read(job.source or "") if isinstance(item, dict))
    return names_of((r for r in read if r.get("kind") in ("open", "mcq")), ("answer", "category"))


def recordable(record: str | None, scoring: str, prompting: str) -> None:
    """Raise UsageError for a --record of what is no single reply to a single question."""
    if record is not None and (scoring != "generate" or prompting != "direct"):
        raise UsageError("--record keeps replies to single questions; use --scoring generate and --prompting direct")
