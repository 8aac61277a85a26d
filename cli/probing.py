"""What `fgvr probe` does with an open model: features, figures, and the files beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgvr import provenance
from fgvr.analysis.probes import alone
from fgvr.errors import FgvrError, UsageError
from fgvr.job import Job
from fgvr.records import Record
from fgvr.run import Run
from fgvr.settings import Probe
from fgvr.stages import knowledge, probe

if TYPE_CHECKING:
    from torch import Tensor

    from fgvr.models.base import Encoder


def open_text_encoder(spec: str | None, settings: Probe, device: str) -> Encoder | None:
    """The model of --text-encoder. Raises UsageError where nothing is there for it to read."""
    from fgvr.models import open_encoder

    if spec is not None and not settings.knowledge:
        raise UsageError("--text-encoder reads the descriptions of --knowledge; add it")
    return open_encoder(spec, device=device) if spec is not None else None


def check(option: str, path: str, job: Job, inputs: Sequence[str | None]) -> None:
    """Refuse a place that cannot be written, or is one of the inputs, before anything is computed."""
    if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
        raise UsageError(f"{option} {path}: there is no such folder; make it first")
    if option == "--map" and path.endswith((".png", ".svg")):  # they are written beside it
        raise UsageError(f"--map {path}: is no name for records; name a FILE.jsonl")
    if os.path.realpath(path) in [os.path.realpath(name) for name in (job.source, *inputs) if name is not None]:
        raise UsageError(f"{option} {path} would overwrite an input; name another file")
    if job.output is not None and os.path.realpath(path) == os.path.realpath(job.output):
        raise UsageError(f"{option} and -o are both {path}; name two files")


class Probing:
    """One run of the command.

    Args:
        places: the open model (fgvr.models.places). clip: also probed on the descriptions of --knowledge.
    """

    def __init__(
        self, places: Any, root: str | None, cache: str | None, adapter: str | None, settings: Probe,
        clip: Encoder | None = None,
    ) -> None:  # fmt: skip
        self.places, self.settings, self.clip = places, settings, clip
        self.features: probe.Features | probe.Stored
        if isinstance(places, probe.Stored):
            self.features = places
        else:
            assert root is not None
            about = {"adapter": provenance.sha256_folder(adapter) if adapter else None}
            self.features = probe.Features(places, root, settings.batch_size, cache, about)
        self.test: list[Record] = []
        self.of_test: dict[str, Tensor] = {}
        self.of_names: dict[str, Tensor] = {}

    def metrics(self, run: Run, train: Sequence[Record], val: Sequence[Record] | None) -> list[Record]:
        """The figures; and in the run's summary how the choosing images were found, and categories of one image."""
        settings = self.settings
        items = run.job.progress(run.read(required=("image", "category")))
        kept, self.of_test = self.features(items)
        self.test = list(run.checked(kept))
        of_train = self.features.whole(train, "--train")
        for records, found in ((self.test, self.of_test), (train, of_train)):
            for place in probe.constant(found, records):
                run.job.say(f"features at {place} are equal for all {len(records)} images: a probe can only guess")
        chosen = None if val is None else (val, self.features.whole(val, "--val"))
        names = sorted({record["category"] for record in self.test})
        self.of_names = probe.texts(self.places, names)
        which = probe.Which(settings.which, settings.shot_counts, settings.seeds, settings.seed)
        made = list(probe.probe(train, of_train, self.test, self.of_test, self.of_names, which, chosen))
        run.summary["validation"] = (
            "--val" if val is not None else "a fifth of each category's training images, by hash of seed and id"
        )
        if single := alone([record["category"] for record in train]):
            run.summary["categories_of_one_image"] = single
            run.job.say(f"{len(single)} categories have one training image, which trains only (the first: {single[0]})")
        if settings.knowledge:
            made += self._knowledge(names)
        return made

    def _knowledge(self, names: Sequence[str]) -> list[Record]:
        import torch

        from fgvr.models.answering import VlmAnswerer

        if self.places.vlm is None:
            raise UsageError("--knowledge needs a model that writes; this is a CLIP")
        broad = {record["category"]: record.get("superclass") for record in self.test}
        asked = [{"category": name, "superclass": broad[name]} for name in names]
        settings = self.settings
        answerer = VlmAnswerer(self.places.vlm)
        told = list(knowledge.describe(asked, answerer, settings.knowledge, settings.max_new_tokens, settings.seed))
        texts = [record["description"] or "." for record in told]
        of_texts = probe.texts(self.places, texts)
        if not of_texts:
            raise UsageError("--knowledge needs a place that texts have; add output or a layer to --at")
        if self.clip is not None:
            rows = [self.clip.texts(texts[i : i + probe.TEXTS]) for i in range(0, len(texts), probe.TEXTS)]
            of_texts["text encoder/projected"] = torch.cat(rows)
        return list(knowledge.figures(told, of_texts, settings.seed))

    def keep(self, run: Run, features: str | None, drawing: str | None) -> None:
        """Write --features and --map."""
        if features is not None:
            from fgvr import tensors

            named = {name.removeprefix("output/"): rows for name, rows in self.of_test.items()}
            tensors.save(features, named, [record["id"] for record in self.test], run.record())
        if drawing is not None:
            self._map(Path(drawing))

    def _map(self, path: Path) -> None:
        from fgvr import stream
        from fgvr.analysis import layout

        place = next((name for name in reversed(self.of_test) if name in self.of_names), next(iter(self.of_test)))
        kinds: dict[str, tuple[Sequence[Record], Tensor]] = {"objects": (self.test, self.of_test[place])}
        told = [r for r in self.test if isinstance(r.get("description"), str)]
        if place in self.of_names:
            names = sorted({record["category"] for record in self.test})
            kinds["names"] = ([{"id": name, "category": name} for name in names], self.of_names[place])
            if told:
                kinds["descriptions"] = (told, probe.texts(self.places, [r["description"] for r in told])[place])
        made = layout.places(kinds, self.settings.map_method, self.settings.seed)
        try:
            path.write_bytes(b"".join(stream.encode(record) + b"\n" for record in made))
            layout.draw(made, [path.with_suffix(".png"), path.with_suffix(".svg")])
        except OSError as error:
            raise FgvrError(f"cannot write --map {path}: {error.strerror}; name another place") from error
