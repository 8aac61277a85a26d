"""What a stage may ask of a model. No model library is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Ask:
    """One question, with or without an image (RGB)."""

    prompt: str
    image: Image | None = None


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
