"""Object tokens of images, with the frozen vision tower run once: for both passes of a step, or, with a folder, once
for all epochs, stages and ablations.

What the tower gave is handed to the model in the tower's place; all that comes after it (choice of layer, connector,
splitting) is the model's own. Folder: DIR/<key>/about.json names the tower's weights and settings and the preprocessing
(the key is its hash), DIR/<key>/<xx>/<SHA-256 of the image file>.safetensors holds the tower's output for one image, in
the dtype in which it came, and is written whole or not at all: any number of processes may share a folder, and models
that have nothing in common but the tower (tokens that stand for an image are kept by name).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fgvr import provenance
from fgvr.errors import FgvrError
from fgvr.images import locate, open_image
from fgvr.models.vlm import Vlm
from fgvr.models.writing import Sight

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS = "pixel_values"
THREADS = 2  # that decode images
FIELDS = ("last_hidden_state", "pooler_output", "hidden_states")
UNSEEN = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")  # change no output


@dataclass
class Seen:
    """What is left of some images once the tower has seen them: the model's inputs, the pixels without content, and
    the tower's output (a tensor, or named ones)."""

    inputs: dict[str, Tensor]
    output: Any


class Vision:
    """Opens images and gives their object tokens.

    Args:
        root: folder that image paths start from.
        folder: where the tower's outputs are kept; None: nowhere.
    Raises:
        FgvrError: with a folder: it cannot be written, or the tower does not stand apart from what is trained.
    """

    def __init__(self, vlm: Vlm, root: str | Path, folder: str | Path | None = None) -> None:
        self.vlm, self.root = vlm, root
        assert vlm.parts is not None
        tower = vlm.part("tower")
        modules = vlm.parts.tower.split()  # of several, the connector lies between them
        inside = len(modules) > 1 or f"{vlm.parts.connector}.".startswith(f"{modules[0]}.")
        self.apart = not inside and not any(p.requires_grad for p in tower.parameters())
        self.folder = _opened(vlm, folder) if folder is not None else None
        self._digests: dict[str, str] = {}
        self._sights: dict[str, Sight] = {}
        self._threads = ThreadPoolExecutor(THREADS)
        self._decoded: tuple[dict[str, Future[Image]], ...] = {}, {}  # of this batch, and of the next one
        if folder is not None and not self.apart:
            why = "is trained" if not inside else "holds the connector in this family"
            raise FgvrError(f"--vision-cache keeps the output of a frozen tower, and this one {why}; leave it out")

    def show(self, images: Sequence[str]) -> Shown:
        """Image paths -> their object tokens, on request."""
        return Shown(self, images)

    def features(self, images: Sequence[str | None]) -> list[Tensor | None]:
        """The object tokens of each image; None where there is none."""
        there = [image for image in images if image is not None]
        found = iter(self.show(there).features() if there else ())
        return [None if image is None else next(found) for image in images]

    def sight(self, image: str) -> Sight:
        """How an image stands in a prompt."""
        if image not in self._sights:
            (self._sights[image],) = self.vlm.sights(self.pixels([image]))
        return self._sights[image]

    def ahead(self, images: Sequence[str]) -> None:
        """Decode the next batch's images in threads, while this one's, named in the call before, are worked on."""
        old, this = self._decoded
        for waiting in old.values():
            waiting.cancel()
        wanted = dict.fromkeys(images if self.folder is None else ())
        self._decoded = this, {image: self._threads.submit(open_image, self.root, image) for image in wanted}

    def pixels(self, images: Sequence[str]) -> dict[str, Tensor]:
        return self.vlm.pixels([self._opened(image) for image in images])

    def _opened(self, image: str) -> Image:
        found = next((some[image] for some in self._decoded if image in some), None)
        return open_image(self.root, image) if found is None else found.result()

    def kept(self, image: str) -> Seen:
        """One image from the folder; its tower output is made and kept if it is not there."""
        assert self.folder is not None
        if image not in self._digests:
            self._digests[image] = provenance.sha256_file(locate(self.root, image))
        digest = self._digests[image]
        path = self.folder / digest[:2] / f"{digest}.safetensors"
        if not path.exists():
            own = self.vlm.device
            with torch.random.fork_rng([own] if own.type == "cuda" else []):  # the connector's dropout draws twice else
                seen = look(self.vlm, self.pixels([image]))[1]
            if seen is None:
                raise FgvrError("--vision-cache does not know how this family runs its tower; leave it out")
            _save(path, seen, self.vlm)
        return _load(path, self.vlm)


class Shown:
    """The images of one micro-batch. `features` may be asked for several times; the tower works once."""

    def __init__(self, vision: Vision, images: Sequence[str]) -> None:
        self.vision, self.images = vision, images
        self._seen: list[Seen] = []

    def features(self, again: bool = False) -> list[Tensor]:
        """For each image (m, D), see Vlm.features.

        Args:
            again: it will be asked for again; keep what the tower gave, in the CPU's memory.
        """
        vlm = self.vision.vlm
        if not self._seen and self.vision.folder is not None:
            self._seen = _joined([self.vision.kept(image) for image in self.images])
        if self._seen:
            return [one for seen in self._seen for one in replay(vlm, seen)]
        pixels = self.vision.pixels(self.images)
        if not (again and self.vision.apart):
            return vlm.features(pixels)
        found, seen = look(vlm, pixels)
        self._seen = [seen] if seen is not None else []
        return found


def look(vlm: Vlm, pixels: dict[str, Tensor]) -> tuple[list[Tensor], Seen | None]:
    """Vlm.features, and what the tower gave on the way; None where a family does not run it as one module."""
    found: list[Any] = []
    tower = vlm.part("tower")
    run = tower.forward

    def noted(*args: Any, **options: Any) -> Any:
        output = run(*args, **options)
        found.append(_slim(output, vlm) if isinstance(output, (Tensor, dict)) else None)  # now: models add to it later
        return output

    with _standing_in(tower, noted):
        features = vlm.features(pixels)
    if len(found) != 1 or found[0] is None or PIXELS not in pixels:
        return features, None
    kept = {name: value.detach().cpu() for name, value in pixels.items() if name != PIXELS}
    seen = pixels[PIXELS]  # what is all zero is padding, and must stay so
    blank = seen.flatten(-3).any(-1).to(seen.dtype).cpu()[..., None, None, None].expand(seen.shape)
    return features, Seen({PIXELS: blank, **kept}, found[0])


def replay(vlm: Vlm, seen: Seen) -> list[Tensor]:
    """Vlm.features of images that the tower has seen; differentiable in the connector."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    output = _each(seen.output, lambda x: x.to(vlm.device))
    if isinstance(output, dict):
        output = BaseModelOutputWithPooling(**output)
    with _standing_in(vlm.part("tower"), lambda *args, **options: output):
        return vlm.features({name: value.to(vlm.device) for name, value in seen.inputs.items()})


@contextlib.contextmanager
def _standing_in(module: nn.Module, forward: Any) -> Iterator[None]:
    """Let another function be a module's forward."""
    module.forward = functools.wraps(type(module).forward)(forward)  # an instance attribute; the class keeps its own
    try:
        yield
    finally:
        vars(module).pop("forward", None)  # whoever wrapped it in between may have taken it away


def _slim(output: Any, vlm: Vlm) -> Any:
    """The parts of a tower's output that the model looks at, in the CPU's memory."""
    if isinstance(output, Tensor):
        return output.detach().cpu()
    found = {name: output[name] for name in FIELDS if output.get(name) is not None}
    layers = getattr(vlm.model.config, "vision_feature_layer", None)
    if "hidden_states" in found:
        count = len(found["hidden_states"])
        chosen = range(count) if layers is None else [layers] if isinstance(layers, int) else layers
        wanted = {layer % count for layer in chosen}
        states = enumerate(found["hidden_states"])
        found["hidden_states"] = tuple(state if n in wanted else None for n, state in states)
    return _each(found, lambda x: x.detach().cpu())


def _each(output: Any, change: Any) -> Any:
    """A tower's output with every tensor changed."""
    if isinstance(output, dict):
        return {name: _each(value, change) for name, value in output.items()}
    if isinstance(output, tuple):
        return tuple(_each(value, change) for value in output)
    return None if output is None else change(output)


def _joined(every: list[Seen]) -> list[Seen]:
    """Images of one shape as one batch, as the connector is faster with; others stay alone."""
    shapes = [{name: value.shape for name, value in {**seen.inputs, **_flat(seen.output)}.items()} for seen in every]
    if any(shape != shapes[0] for shape in shapes):
        return every
    inputs = {name: torch.cat([seen.inputs[name] for seen in every]) for name in every[0].inputs if name != PIXELS}
    blank = every[0].inputs[PIXELS]
    pixels = blank[:1].expand(len(every) * len(blank), *blank.shape[1:])
    flat = [_flat(seen.output) for seen in every]
    together = _nested({name: torch.cat([one[name] for one in flat]) for name in flat[0]}, every[0].output)
    return [Seen({PIXELS: pixels, **inputs}, together)]


def _flat(output: Any) -> dict[str, Tensor]:
    """The tensors of a tower's output by name: "output", "last_hidden_state", "hidden_states.3"."""
    if isinstance(output, Tensor):
        return {"output": output}
    found: dict[str, Tensor] = {}
    for name, value in output.items():
        states = enumerate(value) if isinstance(value, tuple) else [(-1, value)]
        found |= {name if n < 0 else f"{name}.{n}": state for n, state in states if state is not None}
    return found


def _nested(flat: dict[str, Tensor], like: Any) -> Any:
    """The inverse of `_flat`; `like` has the wanted form."""
    if isinstance(like, Tensor):
        return flat["output"]
    return {
        name: tuple(flat.get(f"{name}.{n}") for n in range(len(value))) if isinstance(value, tuple) else flat[name]
        for name, value in like.items()
    }


# --- on disk ---


def _opened(vlm: Vlm, folder: str | Path) -> Path:
    """The folder for these weights and this preprocessing."""
    assert vlm.parts is not None
    config = vlm.model.config
    settings = {k: v for k, v in config.vision_config.to_dict().items() if k not in UNSEEN}
    layers = getattr(config, "vision_feature_layer", None)
    about = {"tower": _digest(vlm.part("tower")), "settings": settings, "layers": layers,
             "family": config.model_type, "pixels": vlm.processor.image_processor.to_dict()}  # fmt: skip
    text = json.dumps(about, sort_keys=True, indent=1, default=str)
    made = Path(folder, provenance.sha256_text([text])[:16])
    try:
        made.mkdir(parents=True, exist_ok=True)
        _write(made / "about.json", text.encode())
    except OSError as error:
        raise FgvrError(f"cannot write to --vision-cache {folder}: {error.strerror}; name another folder") from error
    return made


def _digest(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and values of a module's weights."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    os.replace(partial, path)


def _save(path: Path, seen: Seen, vlm: Vlm) -> None:
    from safetensors.torch import save

    # an output may be given under two names, and the library refuses memory that is shared
    tensors = {f"output.{name}": value.clone(memory_format=torch.contiguous_format) for name, value in _flat(
        seen.output).items()}  # fmt: skip
    fills: dict[str, Any] = {}
    for name, value in seen.inputs.items():
        if bool((value == value.flatten()[0]).all()):  # masks without padding, and the blank pixels
            tensors[f"fill.{name}"], fills[name] = value.flatten()[:1].contiguous(), list(value.shape)
        else:
            tensors[f"input.{name}"] = value.contiguous()
    counts = {name: len(value) for name, value in seen.output.items() if isinstance(value, tuple)} if isinstance(
        seen.output, dict) else {}  # fmt: skip
    ids = sorted(set(seen.inputs["sight"].flatten().tolist()) - {-1})
    names = dict(zip(ids, vlm.tokenizer.convert_ids_to_tokens(ids), strict=True))
    tokens = {key: None if key == vlm.image_token_id else name for key, name in names.items()}  # models name it anew
    note = json.dumps({"fills": fills, "counts": counts, "tokens": tokens}, sort_keys=True)
    try:
        path.parent.mkdir(exist_ok=True)
        _write(path, save(tensors, metadata={"fgvr": note}))
    except OSError as error:
        raise FgvrError(f"cannot write {path}: {error.strerror}; make room, or leave --vision-cache out") from error


def _load(path: Path, vlm: Vlm) -> Seen:
    """Raises FgvrError for a damaged file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads(file.metadata()["fgvr"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise FgvrError(f"{path}: damaged ({error}); remove it, it will be made again") from error
    inputs = {name.removeprefix("input."): value for name, value in tensors.items() if name.startswith("input.")}
    inputs |= {name: tensors[f"fill.{name}"].expand(shape) for name, shape in note["fills"].items()}
    known = vlm.tokenizer.convert_tokens_to_ids
    own = {int(k): vlm.image_token_id if name is None else known(name) for k, name in note["tokens"].items()}
    inputs["sight"] = torch.tensor([[own.get(kept, kept) for kept in row] for row in inputs["sight"].tolist()])
    flat = {name.removeprefix("output."): value for name, value in tensors.items() if name.startswith("output.")}
    if "output" in flat:
        return Seen(inputs, flat["output"])
    names = dict.fromkeys(name.partition(".")[0] for name in flat)
    like = {name: (None,) * note["counts"][name] if name in note["counts"] else flat[name] for name in names}
    return Seen(inputs, _nested(flat, like))
