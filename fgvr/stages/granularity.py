"""FINER's questions of an image record: its label at each level, its name by attributes alone, and the conversation
that teaches attributes (fgvr.finer has the wording; docs/finer.md the protocol)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from fgvr import dialogue, finer, prompts, rng
from fgvr.errors import FgvrError, RecordError
from fgvr.records import Record, check
from fgvr.stream import Bad, Item

Own = tuple[str, Record]  # what follows the id of the image record, and the fields of the question
KINDS = ("granularity", "knowledge", "dialogue")


def labels_at(record: Record, level: str) -> list[str]:
    """The labels of a record at a level, [] where there are none or they are no texts."""
    labels = record.get("labels")
    found = labels.get(level) if isinstance(labels, dict) else None
    texts = [found] if isinstance(found, str) else found
    return list(texts) if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else []


def concept_attributes(records: Iterable[Record], where: str) -> dict[str, dict[str, list[str]]]:
    """category -> {required, likely}, of concept records or of FINER's parsed ones (name, attr_binomial, attr_common).

    Raises:
        FgvrError: a record has no name or no list of attributes, or a category comes twice.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for record in records:
        name = record.get("category") or record.get("name")
        held = record.get("attr_binomial") or record.get("attr_common") or record
        lists = {kind: held.get(kind, []) for kind in ("required", "likely")} if isinstance(held, dict) else {}
        if not isinstance(name, str) or not lists or "required" not in held or not all(map(_texts, lists.values())):
            raise FgvrError(f"{where}: a record has no `category`, or no list `required`; run `fgvr concept-attrs`")
        if name in found:
            raise FgvrError(f"{where}: category {name!r} comes twice; remove one")
        found[name] = lists
    return found


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


@dataclass
class Finer:
    """How FINER's questions are asked.

    Args:
        level: granularity questions of this level alone.
        concept: "gold": the label one level up is drawn from the right ones; "predicted": it is what the model itself
            answers to `steps`, which `fgvr eval` asks first.
        answers: "free", "list" (of all labels of the stream at the level), or "finer": a list of FINER's for the
            superordinate level, one for makers of aircraft and bodies of cars, else free-form.
        question: of granularity in place of FINER's wording; {concept} is filled in.
        variant: of dialogues: "full", "no-answer" or "direct".
        attributes: category -> {required, likely}.
        notes: counts records without a coarse label, under "coarse", and attributes left out because they name their
            category, under "leaks".
    """

    level: str | None = None
    concept: str = "gold"
    answers: str = "finer"
    variant: str = "full"
    attributes: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)
    seed: int = 0
    question: str | None = None
    notes: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def seen(self, items: Iterable[Item]) -> Iterable[Item]:
        """The items; the labels to choose from are known afterwards."""
        if self.answers == "free":
            return items
        held = list(items)
        for level in finer.LEVELS:
            every = {label for item in held if not isinstance(item, Bad) for label in labels_at(item, level)}
            self.names[level] = sorted(every)
        return held

    def made(self, record: Record, kinds: Iterable[str]) -> list[Own]:
        """The questions of those kinds that are of KINDS, in their order."""
        found: list[Own] = []
        for kind in [kind for kind in kinds if kind in KINDS]:
            check(record, ("category", "superclass"))
            if kind == "granularity":
                asked = [level for level in finer.LEVELS if self._asked(record, level)]
                found += [(level, self._granular(record, level)) for level in asked]
            else:
                fine = kind == "knowledge"
                found.append(("fine", self._knowledge(record)) if fine else ("dialogue", self._dialogue(record)))
        return found

    # --- labels ---

    def _labels(self, record: Record, level: str) -> list[str]:
        found = labels_at(record, level)
        return found or {"superordinate": [record["superclass"]], "coarse": [], "fine": [record["category"]]}[level]

    def _above(self, record: Record, level: str, draw: Random) -> str:
        """A label one level up; of a record without coarse labels the superordinate one."""
        found = self._labels(record, "coarse") if level == "fine" else []
        return draw.choice(found) if found else self._labels(record, "superordinate")[0]

    # --- granularity ---

    def _asked(self, record: Record, level: str) -> bool:
        if self.level is not None and level != self.level:
            return False
        lacks = not self._labels(record, level)
        if lacks and self.level is not None:
            raise RecordError("'labels' have no 'coarse' label; add it (`fgvr dataset --labels`)")
        self.notes["coarse"] += lacks
        return not lacks

    def _granular(self, record: Record, level: str) -> Record:
        golds = self._labels(record, level)
        aliases = golds[1:] + [name for name in record.get("aliases") or [] if level == "fine" and name not in golds]
        if level == "superordinate" and (names := self._choices(record, level)) is not None:
            spelt = finer.spelt(golds[0], names)
            aliases += [spelt] if spelt is not None and spelt != golds[0] else []
        above = finer.LEVELS[: finer.LEVELS.index(level)]
        told: Record
        if self.concept == "predicted" and above:
            steps = [self._text(record, step, "{concept}") for step in above if self._labels(record, step)]
            text, told = self._text(record, level, "{concept}"), {"concept": None, "steps": steps}
        else:
            label = self._above(record, level, rng.for_record(self.seed, record["id"], "concept"))
            text, told = self._text(record, level, label), {"concept": label}
            if not above:
                told = {}
        own = {"question": text, "options": None, "answer": golds[0], "answer_index": None, "aliases": aliases}
        return {"kind": "open", **own, "level": level, **told}

    def _text(self, record: Record, level: str, concept: str) -> str:
        choices = self._choices(record, level)
        return finer.question(level, record["superclass"], concept, choices, self.question)

    def _choices(self, record: Record, level: str) -> list[str] | None:
        if self.answers == "free" or (
            self.answers == "finer" and not finer.listed_by_finer(level, record["superclass"])
        ):
            return None
        if level == "superordinate":
            return list(finer.superordinates(self._labels(record, level)[0]))
        return self.names[level] or self._labels(record, level)

    # --- attributes ---

    def _known(self, record: Record) -> list[str]:
        """The required attributes of the record's category, without those that name it."""
        held = self.attributes.get(record["category"])
        if held is None:
            raise RecordError(f"there are no attributes of {record['category']!r}; add them to --from-attributes")
        golds = [record["category"], *(record.get("aliases") or ()), *self._labels(record, "fine")]
        kept = [text for text in held["required"] if not any(prompts.leaks(text, name) for name in golds)]
        self.notes["leaks"] += len(held["required"]) - len(kept)
        return kept

    def _knowledge(self, record: Record) -> Record:
        wide, coarse = self._labels(record, "superordinate")[0], self._labels(record, "coarse")
        ranks = {"Supercategory": wide, **({"Coarse-grained Category": ", ".join(coarse)} if coarse else {})}
        more = record.get("taxonomy")
        ranks |= {str(k): str(v) for k, v in more.items()} if isinstance(more, dict) else {}
        golds = self._labels(record, "fine")
        fits = {rank: label for rank, label in ranks.items() if not any(prompts.leaks(label, g) for g in golds)}
        text = finer.knowledge(record["superclass"], self._known(record), fits)
        aliases = golds[1:] + [name for name in record.get("aliases") or [] if name not in golds]
        own: Record = {"question": text, "options": None, "answer": golds[0], "answer_index": None}
        own |= {"aliases": aliases, "level": "fine"}
        return {"kind": "open", **own, "modality": "text", "unit": record["category"]}

    def _dialogue(self, record: Record) -> Record:
        draw = rng.for_record(self.seed, record["id"], "dialogue")
        wide, coarse = self._labels(record, "superordinate")[0], self._labels(record, "coarse")
        middle, fine = draw.choice(coarse or [wide]), draw.choice(self._labels(record, "fine"))
        known = [] if self.variant == "direct" else self._known(record)
        if self.variant != "direct" and not known:
            raise RecordError(f"no attribute of {record['category']!r} is left to teach; add some")
        turns = dialogue.turns(self.variant, wide, middle, fine, known, draw)
        return {"kind": "dialogue", "turns": turns, "answer": turns[-1]["answer"]}
