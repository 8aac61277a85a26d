"""The options of a question: which wrong categories stand beside the right one.

A policy gives wrong categories, the hardest first, none of which reads like the right one or like another. Those that
need similarities take them from mined records, so that a question can say how hard it is. Sorting is stable, and what
is drawn depends on (seed, record id) alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from fgvr import rng
from fgvr.answers import normalise
from fgvr.errors import FgvrError, RecordError
from fgvr.records import Record, check
from fgvr.stream import Bad, Item

Wrong = list[tuple[str, float | None]]  # names with their similarity to the image where it is known
MINED = ("negatives", "topwrong", "foci4")  # policies that read `negatives`


def wrong_options(
    record: Record, categories: Sequence[str], count: int, policy: str, seed: int, siblings: Iterable[str] = ()
) -> Wrong:
    """`count` wrong categories of a record, by policy.

    negatives: the categories of its `negatives`, then random ones.
    topwrong: its `count` most similar wrong categories ("Understanding the Fine-Grained Knowledge Capabilities of
        VLMs", 5 options).
    foci4: FOCI's rule. The 4 categories most similar to the image, the right one put in the place of the weakest when
        it is not among them: either way its 3 most similar wrong ones, weakest first, as in FOCI's files.
    same-coarse: random ones of `siblings`, then of all.
    random: random ones.

    Raises:
        RecordError: there are not so many, or the record lacks what the policy needs.
    """
    if policy in ("topwrong", "foci4"):
        if policy == "foci4":
            check(record, ("category_rank",))
        return _hardest(record, count)[:: -1 if policy == "foci4" else 1]
    chosen: Wrong = []
    taken = {normalise(record["category"])}

    def take(names: Iterable[str]) -> None:
        for name in names:
            if len(chosen) < count and normalise(name) not in taken:
                taken.add(normalise(name))
                chosen.append((name, None))

    if policy == "negatives":
        take(name for name, _ in _negatives(record))
    draw = rng.for_record(seed, record["id"], "distractors")
    if policy == "same-coarse":
        near = sorted(siblings)
        take(draw.sample(near, len(near)))
    if len(chosen) < count:
        take(draw.sample(categories, len(categories)))
    if len(chosen) < count:
        raise RecordError(f"{len(chosen)} wrong categories for {count} wrong options; lower --choices")
    return chosen


def _hardest(record: Record, count: int) -> Wrong:
    """The `count` most similar negatives, hardest first; of equals the one that stands first."""
    own = normalise(record["category"])
    found: dict[str, tuple[str, float]] = {}
    for name, similarity in _negatives(record):
        if similarity is None:
            raise RecordError("a negative has no 'similarity'; run `fgvr mine-negatives` again")
        if normalise(name) != own:
            found.setdefault(normalise(name), (name, similarity))
    best = sorted(found.values(), key=lambda pair: -pair[1])[:count]
    if len(best) < count:
        raise RecordError(f"{len(best)} negatives for {count} wrong options; mine with --per-anchor {count} or more")
    return [*best]


def _negatives(record: Record) -> Iterator[tuple[str, float | None]]:
    """(category, similarity) of the record's negatives, in their order."""
    check(record, ("negatives",))
    for negative in record["negatives"]:
        if not isinstance(negative, dict) or not isinstance(negative.get("category"), str):
            raise RecordError("a negative has no 'category'; run `fgvr mine-negatives` again")
        similarity = negative.get("similarity")
        yield negative["category"], similarity if isinstance(similarity, (int, float)) else None


def alike(options: Sequence[str]) -> tuple[str, str] | None:
    """Two options that `normalise` makes equal, None when there are none."""
    seen: dict[str, str] = {}
    for option in options:
        first = seen.setdefault(normalise(option), option)
        if first is not option:
            return first, option
    return None


# --- option files -----------------------------------------------------------------------------------------------------


@dataclass
class Listed:
    """The options of FOCI's files: {category: [{"image", "options", "groundtruth"}]}, as Finedefics' repository has
    them too.

    Attributes:
        entries: what is usable, by image path, in the file's order.
        items: one record {id, image, category} for each entry, a Bad for each unusable one. The second entry of an
            image has the id IMAGE#2.
        repeated: images with several entries, and how many.
    """

    name: str
    entries: dict[str, list[Record]] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    @classmethod
    def parse(cls, name: str, text: bytes) -> Listed:
        """Raises FgvrError when it is no such file."""
        import orjson

        form = 'an options file is {category: [{"image", "options", "groundtruth"}]}'
        if not text.strip():
            raise FgvrError(f"{name}: the file is empty; {form}")
        try:
            found = orjson.loads(text)
        except ValueError as error:
            raise FgvrError(f"{name}: not valid JSON ({error}); {form}") from error
        if not isinstance(found, dict) or not all(isinstance(rows, list) for rows in found.values()):
            raise FgvrError(f"{name}: not an options file; {form}")
        listed = cls(name)
        for category, rows in found.items():
            for number, row in enumerate(rows, 1):
                listed._add(category, number, row)
        if not listed.items:
            raise FgvrError(f"{name}: no entries; {form}")
        return listed

    def _add(self, category: str, number: int, row: Any) -> None:
        if fault := _fault(category, row):
            record = row if isinstance(row, dict) else None
            self.items.append(Bad(f"{self.name}: entry {number} of {category!r}", fault, record=record))
            return
        same = self.entries.setdefault(row["image"], [])
        same.append(row)
        key = row["image"] if len(same) == 1 else f"{row['image']}#{len(same)}"
        self.items.append({"id": key, "image": row["image"], "category": category})

    @property
    def repeated(self) -> dict[str, int]:
        return {image: len(rows) for image, rows in self.entries.items() if len(rows) > 1}

    def wrong(self, record: Record) -> tuple[str, Wrong]:
        """How the file calls the record's category, and its wrong options in the file's order.

        A record belongs to the entry of the same path; failing that, to the only one with that file name.

        Raises:
            RecordError: there is none, or it is about another category.
        """
        rows = self.entries.get(record["image"]) or self._by_name(record["image"])
        number = record["id"].rpartition("#")[2] if record["id"].startswith(f"{record['image']}#") else "1"
        row = rows[min(int(number), len(rows)) - 1] if number.isdigit() else rows[0]
        names = {normalise(name) for name in (record["category"], *(record.get("aliases") or []))}
        if normalise(row["groundtruth"]) not in names:
            raise RecordError(
                f"the options file says {row['groundtruth']!r}, the record {record['category']!r}; "
                "give the file of this data set, or add an alias"
            )
        return row["groundtruth"], [(name, None) for name in row["options"] if name != row["groundtruth"]]

    def _by_name(self, image: str) -> list[Record]:
        if not hasattr(self, "_names"):
            self._names: dict[str, list[str]] = {}
            for path in self.entries:
                self._names.setdefault(PurePosixPath(path).name, []).append(path)
        paths = self._names.get(PurePosixPath(image).name, [])
        if len(paths) != 1:
            what = f"{len(paths)} entries" if paths else "no entry"
            raise RecordError(f"the options file has {what} for image {image!r}; give the file of this data set")
        return self.entries[paths[0]]


def _fault(category: str, row: Any) -> str:
    """What is wrong with an entry, "" for nothing."""
    if not isinstance(row, dict) or not {"image", "options", "groundtruth"} <= set(row):
        return "not an object with image, options and groundtruth; correct the entry"
    options = row["options"]
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        return "'options' must be texts; correct the entry"
    if not isinstance(row["image"], str) or not row["image"]:
        return "'image' must be a path; correct the entry"
    if not 2 <= len(options) <= 26:
        return f"need 2 to 26 options, got {len(options)}; correct the entry"
    if pair := alike(options):
        return f"options {pair[0]!r} and {pair[1]!r} read alike; correct the entry"
    if row["groundtruth"] not in options:
        return f"groundtruth {row['groundtruth']!r} is none of the options; correct the entry"
    if row["groundtruth"] != category:
        return f"groundtruth {row['groundtruth']!r} stands under {category!r}; correct the entry"
    return ""
