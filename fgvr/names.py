"""Names that mean one category: other spellings, and aliases that the user gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def spelling(name: str) -> str:
    """A name without case, hyphens, underscores, apostrophes and such: "Red_Bell-Pepper" -> "red bell pepper"."""
    return re.sub(r"[\W_]+", " ", name.casefold()).strip() or name


class Aliases:
    """Groups of names, each a category. Names that differ only in `spelling` are always one group.

    Args:
        groups: further names that belong together; groups that share a name are one.
    """

    def __init__(self, groups: Iterable[Sequence[str]] = ()) -> None:
        self._above: dict[str, str] = {}
        for names in groups:
            first, *others = map(spelling, names)
            for other in others:
                low, high = sorted((self._top(first), self._top(other)))
                if low != high:
                    self._above[high] = low

    def _top(self, name: str) -> str:
        while name in self._above:
            name = self._above[name]
        return name

    def group(self, name: str) -> str:
        """What stands for all names of a category: equal for two names that mean the same."""
        return self._top(spelling(name))
