"""What `fgvr eval` finds out before it opens a model."""

from __future__ import annotations

import os

from fgvr.errors import UsageError
from fgvr.job import Job


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
