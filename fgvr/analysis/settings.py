"""Settings of what compares runs, as fgvr.settings has those of the other stages."""

from __future__ import annotations

from dataclasses import dataclass

from fgvr.settings import option


@dataclass(frozen=True)
class Study:
    """Models and grids on several data sets."""

    per_class: str = option("imagenet", "Data sets, with commas, whose accuracy is the mean over categories.")
    general_sets: str = option("", "Data sets, with commas, that show general ability; the others are fine-grained.")
    factors: str = option("", "What the parts of the models' names, apart by +, are called, with commas.")
    measure: str = option(
        "correct", "What is right: `correct`, or FINER's EM of open answers.", choices=("correct", "em")
    )
    table: bool = option(False, "Write a table for people, not records.")

    def named(self, name: str) -> list[str]:
        """A setting with commas as a list."""
        return [part.strip() for part in getattr(self, name).split(",") if part.strip()]
