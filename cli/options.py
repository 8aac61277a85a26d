"""Options that commands share, each defined once, and the decorators that add them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import click

from fgvr.cli import boundary, console
from fgvr.errors import UsageError
from fgvr.job import Job
from fgvr.provenance import portable
from fgvr.run import Run
from fgvr.stream import Shard

Function = Callable[..., Any]


class How(click.Option):
    """An option that changes speed or memory, never the result: it may differ on --resume."""


class OfFile(click.ParamType):
    """What names a file to read, alone or with words beside it."""

    def file(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path, which can be read, or "-"."""
        if value == "-":
            return value
        if not os.path.exists(value):
            self.fail(f"cannot read {value!r}: no such file", param, ctx)
        if os.path.isdir(value):
            self.fail(f"cannot read {value!r}: it is a folder", param, ctx)
        return value


class InputFile(OfFile):
    """A file to read, or "-" for stdin."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return self.file(value, param, ctx)


class FileWith(OfFile):
    """A file to read with words beside it, in a form such as NAME=FILE.

    Args:
        pattern: of the whole text; its groups are the parts that the command gets, of which the one called FILE is
            the file.
    """

    def __init__(self, form: str, pattern: str) -> None:
        self.name, self.form, self.pattern = form.lower(), form, re.compile(pattern, re.DOTALL)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        found = self.pattern.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is not {self.form}", param, ctx)
        parts = found.groupdict().items()
        return tuple(self.file(part, param, ctx) if name == "FILE" else part for name, part in parts)


class InputFolder(click.ParamType):
    """A folder to read from. With `hashed` its content enters the run record as an input."""

    name = "dir"

    def __init__(self, hashed: bool = False) -> None:
        self.hashed = hashed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not os.path.isdir(value):
            self.fail(f"cannot read {value!r}: no such folder", param, ctx)
        return value


class ShardType(click.ParamType):
    """K/N with 1 <= K <= N."""

    name = "k/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        if isinstance(value, Shard):
            return value
        number, slash, count = str(value).partition("/")
        if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            self.fail(f"{value!r} is not K/N with K from 1 to N", param, ctx)
        return Shard(int(number), int(count))


def _verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        boundary.verbose()


verbose = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, callback=_verbose, is_eager=True, help="Tracebacks and logs."
)
image_root = click.option(
    "--image-root", type=InputFolder(), required=True, metavar="DIR", help="Folder that image paths start from."
)
model = click.option("--model", required=True, metavar="SPEC", help="Model folder, or SCHEME:NAME[@REVISION].")
encoder = click.option("--encoder", required=True, metavar="SPEC", help="CLIP folder, or SCHEME:NAME[@REVISION].")
adapter = click.option(
    "--adapter", type=InputFolder(hashed=True), metavar="DIR", help="Adapter folder from align or tune."
)
prompt = click.option("--prompt", type=InputFile(), metavar="FILE", help="A template instead of the paper's prompt.")
record = click.option(
    "--record", cls=How, type=click.Path(dir_okay=False), metavar="FILE",
    help="Keep each reply in FILE, for replay:FILE; ask for none that is there.",
)  # fmt: skip
device = click.option(
    "--device", cls=How, default="auto", show_default=True,
    help="cpu, cuda, cuda:1, …, or auto; for a model that answers also all: its layers on all GPUs.",
)  # fmt: skip

_FAULTS = [
    click.option("--on-error", type=click.Choice(["fail", "skip"]), default="fail", show_default=True,
                 help="Stop at a bad record, or set it aside."),
    click.option("--errors", metavar="FILE", help="Where skipped records go, with their `error`."),
    click.option("--max-errors", type=click.IntRange(0), metavar="N", help="More skipped records than N are an error."),
]
_SHARD = click.option("--shard", type=ShardType(), metavar="K/N", help="Only every N-th record, by id hash.")
_IO = {"operand", "output", "resume", "on_error", "errors", "max_errors", "shard"}
_MODELS = {"model", "vision", "llm", "vision_cache"}  # texts that may name a folder


def stage_io(fn: Function | None = None, *, source: bool = True, to_folder: bool = False) -> Any:
    """Give a command the Unix contract: FILE, -o, --resume, --on-error, --errors, --max-errors, --shard, -v.

    The command is called with `job` (fgvr.job.Job) in their place and with its own options.

    Args:
        source: False for a stage that reads no records.
        to_folder: -o names a folder and is required (align, tune); there is no --shard.
    """
    if fn is None:
        return lambda fn: stage_io(fn, source=source, to_folder=to_folder)

    @functools.wraps(fn)
    def command(**given: Any) -> Any:
        ctx = click.get_current_context()
        boundary.Shown.command = ctx.command_path
        io = {name: given.pop(name) for name in _IO if name in given}
        job = Job(
            ctx.command_path.partition(" ")[2],
            source=io.pop("operand", None),
            to_folder=to_folder,
            record=given.get("record"),
            say=boundary.say,
            progress=lambda items: console.progress(items, boundary.say),
            **io,
        )
        job.settings, job.folders = _deciding(ctx, job)
        job.check()
        job.spare_folders(_used(ctx))
        if job.source == "-" and sys.stdin is not None and sys.stdin.isatty():
            boundary.say("reading records from the terminal; end with Ctrl-D")
        return fn(job=job, **given)

    out = "DIR" if to_folder else "FILE"
    options = [
        click.option("-o", "--output", required=to_folder, metavar=out, type=_Output(),
                     help=f"Write {out}, whole or not at all" + ("." if to_folder else " (default: stdout).")),
        click.option("--resume", is_flag=True, help=f"Go on with what an interrupted run left in {out}.partial."),
        *_FAULTS,
        *([] if to_folder else [_SHARD]),
        verbose,
    ]
    if source:
        options.insert(0, click.argument("operand", metavar="[FILE]", default="-", type=InputFile()))
    for option in reversed(options):
        command = option(command)
    return command


class _Output(click.ParamType):
    """A path to write; "-" is stdout."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | None:
        return None if value == "-" else value


def _deciding(ctx: click.Context, job: Job) -> tuple[dict[str, Any], list[str]]:
    """The parameters that decide the result, as a run record names them, and the input folders."""
    settings: dict[str, Any] = {}
    folders: list[str] = []
    for param in ctx.command.params:
        name = param.name or ""
        if name in _IO or isinstance(param, How) or not param.expose_value or isinstance(param.type, OfFile):
            continue
        value = ctx.params.get(name)
        if isinstance(param.type, InputFolder) and param.type.hashed:
            folders += [value] if value is not None else []
            continue
        if isinstance(param.type, (InputFolder, click.Path)) and value is not None:
            value = portable(value, job.output)
        elif name in ("model", "encoder"):
            value = _portable_spec(value)
        settings[name] = value
    if job.shard is not None:
        settings["shard"] = str(job.shard)
    return settings, folders


def _used(ctx: click.Context) -> list[str]:
    """The parameters that name folders, or may do so."""
    kept = {p.name for p in ctx.command.params if isinstance(p.type, (InputFolder, click.Path))} | _MODELS
    return [value for name, value in ctx.params.items() if name in kept and isinstance(value, str)]


def _portable_spec(spec: str | None) -> str | None:
    """A model spec without the place on this machine: a folder by its last name."""
    if spec is None or os.path.isdir(spec):
        return spec and os.path.basename(os.path.realpath(spec))
    scheme, colon, name = spec.rpartition(":")
    return f"{scheme}{colon}{os.path.basename(os.path.realpath(name))}" if os.path.isdir(name) else spec


def opening(model: str, loading: Any, server: Any) -> dict[str, Any]:
    """The options of open_answerer that only transformers, or only a server, takes.

    Raises:
        UsageError: how weights are loaded is chosen for a model that has none here.
    """
    scheme = "hf" if os.path.isdir(model) else model.partition(":")[0]
    chosen = {name: value for name, value in vars(loading).items() if value not in ("auto", "none")}
    if chosen and scheme != "hf":
        raise UsageError(f"--{next(iter(chosen))} is for models that transformers loads, not {scheme}:; leave it out")
    return chosen if scheme == "hf" else {"server": server} if scheme == "openai" else {}


@contextlib.contextmanager
def accounted(job: Job, run: Run, model: Any) -> Iterator[None]:
    """What a server was sent and what came back: into the run record, and said, also when the run is stopped."""
    try:
        yield
    finally:
        spent = getattr(getattr(model, "model", model), "spent", {})  # a recorder holds the model
        if spent:
            run.summary["server"] = spent
            if spent["prompt_tokens"]:  # a server need not tell
                job.say("server: " + ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in spent.items()))


def settings(cls: type, name: str = "settings") -> Callable[[Function], Function]:
    """One option for each field of a settings dataclass; the command gets the checked instance as `name`."""
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)

    def add(fn: Function) -> Function:
        @functools.wraps(fn)
        def checked(**given: Any) -> Any:
            values = {field.name: given.pop(field.name) for field in fields}
            try:
                made = cls(**values)
            except ValueError as error:
                raise UsageError(f"{error}; see --help") from error
            return fn(**{name: made}, **given)

        command: Function = checked
        for field in reversed(fields):
            command = _option(field, hints[field.name])(command)
        return command

    return add


def _option(field: dataclasses.Field[Any], hint: Any) -> Callable[[Function], Function]:
    name = "--" + field.name.replace("_", "-")
    kind = _plain(hint)
    choices = field.metadata.get("choices")
    if kind is bool:
        name, kind = f"{name}/--no-{name[2:]}", None
    return click.option(
        name,
        cls=How if field.metadata.get("how") else click.Option,
        type=click.Choice(choices) if choices else kind,
        default=field.default,
        show_default=field.default is not None,
        help=field.metadata.get("help"),
    )


def _plain(hint: Any) -> Any:
    """`int | None` -> int."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint
