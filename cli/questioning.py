"""What `fgvr questions` does with files, and what it says at the end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fgvr.errors import UsageError
from fgvr.job import Job

if TYPE_CHECKING:
    from fgvr.stages.granularity import Finer
    from fgvr.stages.options import Listed

SAID = {"coarse": "records without a coarse label, of which none is asked; `fgvr dataset --labels` adds some",
        "leaks": "attributes that name their category, left out"}  # fmt: skip


def alone(fn: Callable[..., Any]) -> Callable[..., Any]:
    """With --options and no FILE operand there are no records to read, not even from stdin."""

    @functools.wraps(fn)
    def command(**given: Any) -> Any:
        ctx = click.get_current_context()
        if given["options"] is not None and ctx.get_parameter_source("operand") == ParameterSource.DEFAULT:
            given["operand"] = None
        return fn(**given)

    return command


def listed(job: Job, options: str | None) -> Listed | None:
    """The options of a file; images that it lists twice are said."""
    from fgvr.stages.options import Listed

    if options is None:
        return None
    file = job.attach(options)
    file.known_digest()
    found = Listed.parse(options, b"".join(file.lines()))
    for image, count in found.repeated.items():
        job.say(f"{options}: image {image!r} is listed {count} times")
    return found


def known_attributes(
    job: Job, path: str | None, kinds: Sequence[str], variant: str
) -> Mapping[str, Mapping[str, list[str]]]:
    """The concept attributes that FINER's kinds are made of. Raises UsageError where the file is missing or idle."""
    from fgvr.stages.granularity import concept_attributes

    needs = {"knowledge"} | ({"dialogue"} if variant != "direct" else set())
    if path is None and needs & set(kinds):
        raise UsageError(f"--kinds {','.join(kinds)} needs --from-attributes FILE; `fgvr concept-attrs` makes it")
    if path is not None and not needs & set(kinds):
        raise UsageError("--from-attributes is for --kinds knowledge and dialogue; leave it out")
    return concept_attributes(job.load(path), path) if path is not None else {}


def say(job: Job, ours: Finer | None) -> None:
    """Tell what FINER's questions had to do without."""
    for what, count in ours.notes.items() if ours is not None else ():
        if count:
            job.say(f"{count} {SAID[what]}")
