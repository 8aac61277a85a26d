"""Recorded replies: `--record FILE` keeps what a model replies, replay:FILE gives it back byte for byte.

A recording is JSONL, a line a reply: `key` (a hash of prompt, image pixels and generation settings), `prompt`, `image`
(hash of its pixels, or null), `settings`, `reply`, `confidence` where it was asked for, `model` (the hash of what the
run record says of it) and, in a model's first line, `about`. It is also what spares a paid reply from being paid for
twice: a reply that is in the file is not asked for again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fgvr import output, provenance
from fgvr.errors import FgvrError, RecordError, UsageError
from fgvr.models.base import Answerer, Ask, Said
from fgvr.stream import decode

if TYPE_CHECKING:
    from PIL.Image import Image

Settings = dict[str, Any]


def open_answerer(name: str, revision: str | None = None, device: str = "auto", adapter: str | None = None) -> Replay:
    """Open replay:FILE. Raises FgvrError for a file that is no recording, UsageError for an adapter."""
    if adapter is not None:
        raise UsageError(f"model replay:{name}: --adapter has no effect on recorded replies; leave it out")
    return Replay(name if revision is None else f"{name}@{revision}")


@contextlib.contextmanager
def recorded(model: Answerer, path: str | None) -> Iterator[Answerer]:
    """The model, its replies kept in a file where there is one."""
    if path is None:
        yield model
        return
    recorder = Recorder(model, path)
    try:
        yield recorder
    finally:
        recorder.file.close()


def key_of(ask: Ask, settings: Settings, image: str | None) -> str:
    """SHA-256 over the prompt, the image's hash and the settings, by which a reply is found again."""
    parts = {"prompt": ask.prompt, "image": image, "schema": ask.schema, **settings}
    if ask.before:
        parts["before"] = ask.before
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class Keys:
    """The keys of questions; an image that questions share is hashed once."""

    def __init__(self) -> None:
        self.last: tuple[Image | None, str | None] = (None, None)

    def image(self, image: Image | None) -> str | None:
        if self.last[0] is not image:
            digest = None
            if image is not None:
                head = f"{image.mode} {image.size[0]} {image.size[1]} "
                digest = hashlib.sha256(head.encode() + image.tobytes()).hexdigest()
            self.last = (image, digest)
        return self.last[1]

    def key(self, ask: Ask, settings: Settings) -> str:
        return key_of(ask, settings, self.image(ask.image))


HEAD = b'{"key": "'  # of a line


class Recording:
    """The lines of a recording by key: where each stands in the file, so that memory grows with their number only."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.at: dict[tuple[str, str], int] = {}  # (key, model) -> offset
        self.models: dict[str, dict[str, Any]] = {}
        self.end = 0

    def read(self, file: IO[bytes]) -> None:
        """Index the file; a last line that broke off is left out.

        Raises:
            FgvrError: a line that is none of a recording.
        """
        for number, line in enumerate(file, 1):
            entry = _entry(line)
            if entry is None:
                if not line.endswith(b"\n") and (line.startswith(HEAD) or HEAD.startswith(line)):
                    break  # and never what is no recording: the rest of the file goes
                raise FgvrError(f"{self.path}:{number}: no recorded reply; name a file that --record wrote")
            self.at.setdefault((entry["key"], entry["model"]), self.end)
            if "about" in entry:
                self.models[entry["model"]] = entry["about"]
            self.end += len(line)

    def get(self, key: str, model: str) -> Said | None:
        offset = self.at.get((key, model))
        if offset is None:
            return None
        with open(self.path, "rb") as file:
            file.seek(offset)
            entry = decode(file.readline().decode())
        return Said(entry["reply"], entry.get("confidence"))


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = decode(line.decode()) if line.endswith(b"\n") else None
    except ValueError:
        return None
    fits = isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("key", "model", "reply"))
    return value if fits else None


class Replay:
    """Replies from a recording, and no others."""

    def __init__(self, path: str) -> None:
        self.recording = Recording(path)
        try:
            with open(path, "rb") as file:
                self.recording.read(file)
        except OSError as error:
            raise FgvrError(
                f"model replay:{path}: {(error.strerror or '').lower()}; name a file of --record"
            ) from error
        if len(self.recording.models) != 1:
            names = ", ".join(str(about.get("name")) for about in self.recording.models.values()) or "no model"
            raise FgvrError(
                f"model replay:{path}: holds replies of {names}, one is needed; record each in its own file"
            )
        ((self.model, of),) = self.recording.models.items()
        self.about = {"name": f"replay:{os.path.basename(path)}", "sha256": provenance.sha256_file(path), "of": of}
        self.path, self.keys = path, Keys()

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        return [self._get(ask, {"max_new_tokens": max_new_tokens}).text for ask in asks]

    def reply_scored(self, asks: Sequence[Ask], max_new_tokens: int) -> list[Said]:
        return [self._get(ask, {"max_new_tokens": max_new_tokens, "confidence": True}) for ask in asks]

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        return self._get(ask, {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}).text

    def _get(self, ask: Ask, settings: Settings) -> Said:
        found = self.recording.get(self.keys.key(ask, settings), self.model)
        if found is None:
            sure = "confidence" in settings
            other = {"max_new_tokens": settings["max_new_tokens"], **({} if sure else {"confidence": True})}
            if "seed" not in settings and (self.keys.key(ask, other), self.model) in self.recording.at:
                how = "without" if sure else "with"
                raise RecordError(f"{self.path} holds this reply {how} --confidence only; ask for it like that")
            text = " ".join(ask.prompt.split())
            shown = repr(text if len(text) <= 60 else text[:59] + "…")
            given = ", ".join(f"{name} {value}" for name, value in settings.items())
            about = " on this image" if ask.image is not None else ""
            raise RecordError(
                f"{self.path} holds no reply to {shown}{about} with {given}; record it with the model itself"
            )
        return found


class Recorder:
    """A model whose replies are appended to a file as they come; what is there is not asked for again.

    A model with an attribute `heard` calls it with each question and reply as soon as it has them, so that what was
    paid for is kept even if the call then fails.
    """

    def __init__(self, model: Answerer, path: str) -> None:
        self.model, self.about, self.path = model, model.about, path
        if os.path.exists(path) and not os.path.isfile(path):
            raise FgvrError(f"--record {path}: replies are read from it, too; name a plain file")
        try:
            self.file = os.fdopen(output.lock(Path(os.path.realpath(path))), "r+b")
        except OSError as error:
            raise output.unwritable(path, error, resume=False) from error
        self.recording = Recording(path)
        try:
            self.recording.read(self.file)
        except FgvrError:
            self.file.close()
            raise
        self.file.truncate(self.recording.end)
        self.id = hashlib.sha256(json.dumps(model.about, sort_keys=True).encode()).hexdigest()[:16]
        self.keys = Keys()
        for name, method in (("reply_scored", self._reply_scored), ("sample", self._sample)):
            if hasattr(model, name):
                setattr(self, name, method)

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        def ask_for(new: Sequence[Ask]) -> list[Said]:
            return [Said(text, None) for text in self.model.reply(new, max_new_tokens)]

        return [text for text, _ in self._through(asks, {"max_new_tokens": max_new_tokens}, ask_for)]

    def _reply_scored(self, asks: Sequence[Ask], max_new_tokens: int) -> list[Said]:
        settings = {"max_new_tokens": max_new_tokens, "confidence": True}
        return self._through(asks, settings, lambda new: self.model.reply_scored(new, max_new_tokens))  # type: ignore[attr-defined]

    def _sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        def ask_for(new: Sequence[Ask]) -> list[Said]:
            return [Said(self.model.sample(ask, max_new_tokens, temperature, seed), None) for ask in new]  # type: ignore[attr-defined]

        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        return self._through([ask], settings, ask_for)[0].text

    def _through(
        self, asks: Sequence[Ask], settings: Settings, ask_for: Callable[[Sequence[Ask]], Sequence[Said]]
    ) -> list[Said]:
        keys = [self.keys.key(ask, settings) for ask in asks]
        new = {key: ask for key, ask in zip(keys, asks, strict=True) if (key, self.id) not in self.recording.at}
        if new:
            if hasattr(self.model, "heard"):
                self.model.heard = lambda ask, said: self._keep(self.keys.key(ask, settings), ask, settings, said)
            for (key, ask), said in zip(new.items(), ask_for(list(new.values())), strict=True):
                self._keep(key, ask, settings, said)
        found = [self.recording.get(key, self.id) for key in keys]
        return [said for said in found if said is not None]

    def _keep(self, key: str, ask: Ask, settings: Settings, said: Said) -> None:
        if (key, self.id) in self.recording.at:
            return
        entry: dict[str, Any] = {"key": key, "model": self.id}
        if self.id not in self.recording.models:
            entry["about"] = self.recording.models[self.id] = self.about
        entry.update(prompt=ask.prompt, image=self.keys.image(ask.image), settings=settings, reply=said.text)
        if said.confidence is not None:
            entry["confidence"] = said.confidence
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass") + b"\n"
        try:
            self.file.seek(self.recording.end)
            self.file.write(line)
            self.file.flush()
        except OSError as error:
            raise output.unwritable(self.path, error) from error
        self.recording.at[key, self.id] = self.recording.end
        self.recording.end += len(line)
