"""What a stage may ask of a model. No model library is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Ask:
    """One question, with or without an image (RGB).

    schema: the JSON schema of the reply, for servers that can be held to one; the prompt asks for it too.
    before: earlier turns of the conversation, questions and replies; the image stands in the first turn.
    """

    prompt: str
    image: Image | None = None
    schema: Mapping[str, Any] | None = None
    before: tuple[tuple[str, str], ...] = ()


class Answerer(Protocol):
    """Text and images in, text out.

    about: what a run record needs to name the model again: spec, revision or sha256, dtype; no absolute path.
    """

    about: dict[str, Any]

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        """One greedy reply for each question, in their order, without the prompt; stops after max_new_tokens tokens.

        The replies do not depend on which questions share a call.
        """
        ...


class Scorer(Protocol):
    """What an Answerer may also offer: log-probabilities (natural) of replies that it is given.

    They do not depend on which questions share a call, but for floating point.
    """

    def letters(self, asks: Sequence[Ask], letters: Sequence[Sequence[str]]) -> Sequence[Sequence[float | None]]:
        """For each question the log-probability of each letter as the next thing said; None: below what can be seen.

        One forward pass a call.
        """
        ...

    def likelihood(self, asks: Sequence[Ask], replies: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        """For each question and each of its replies: the sum of its tokens' log-probabilities, and their number.

        The end of the reply counts as the model's chat template writes it, so that "kite" gains nothing by being the
        start of "kite fish".
        """
        ...


class Encoder(Protocol):
    """Images and texts into one space."""

    about: dict[str, Any]

    def images(self, images: Sequence[Image]) -> Tensor:
        """(N, D) float32 on the CPU, rows of length 1."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 on the CPU, rows of length 1."""
        ...


class Said(NamedTuple):
    """A reply and how sure the model was of it: the mean log-probability (natural) of its tokens, its end included."""

    text: str
    confidence: float | None


class Confident(Protocol):
    """What an Answerer may also offer: its greedy replies with their confidence."""

    def reply_scored(self, asks: Sequence[Ask], max_new_tokens: int) -> list[Said]:
        """As `reply`; a confidence is None where the model gives none."""
        ...


class Sampler(Protocol):
    """What an Answerer may also offer: replies that are drawn, not greedy."""

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        """One drawn reply; equal arguments give equal replies where the model is deterministic."""
        ...


class Conversant(Protocol):
    """What an Answerer may also offer: two turns at once, so that what the first computed is kept for the second."""

    def converse(
        self, asks: Sequence[Ask], openings: Sequence[str], opening_tokens: int, max_new_tokens: int
    ) -> list[tuple[str, str]]:
        """For each question, the replies to its opening and then, in the same conversation, to itself; those that
        `reply` gives when it is asked for one after the other."""
        ...
