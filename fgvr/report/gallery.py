"""The errors that a report shows: image, question, reply, the category it was taken for, and what differs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fgvr.records import Record
from fgvr.report.gather import Material
from fgvr.report.pictures import Pictures
from fgvr.report.sections import Categories, key_of, kinds, of_kind, own
from fgvr.report.tables import word

EXAMPLES = 3  # images of the category that one was taken for


def gallery(material: Material, known: Categories, most: int, pictures: Pictures) -> dict[str, Any]:
    """Errors, at most `most` of each run and kind, taken from the confused pairs in turn, the most frequent first; with
    example images and the attributes of the categories that occur in them."""
    examples, profiles = _examples(material), _profiles(material)
    replies: dict[tuple[str, str], dict[str, Any]] = {}
    for run in material.runs.values():
        for record in run.predictions:
            question = record["id"], key_of(record.get("answer"))
            replies.setdefault(question, {})[run.name] = record.get("raw") or record.get("prediction")
    items, used, total = [], set(), 0
    for run in reversed(material.runs.values()):
        for kind in kinds(material):
            wrong = [record for record in of_kind(run, kind) if not record["correct"]]
            total += len(wrong)
            for record in _in_turn(wrong, most):
                gold, said = key_of(own(record)), key_of(record.get("prediction"))
                used |= {gold, said}
                question = record["id"], key_of(record.get("answer"))
                others = [[n, r] for n, r in replies[question].items() if n != run.name]
                items.append({
                    "run": run.name, "kind": kind, "id": record["id"], "image": pictures(run.root, record.get("image")),
                    "path": record.get("image"), "question": record.get("question"), "options": record.get("options"),
                    "reply": record.get("raw"), "given": record.get("prediction") and word(record["prediction"]),
                    "right": word(own(record)), "from": gold, "to": said, "others": others,
                })  # fmt: skip
    shown = {key: [n for n in (pictures(*place) for place in examples.get(key, [])) if n is not None] for key in used}
    names = {key: known.names.get(key, key) for key in used}
    return {"items": items, "total": total, "examples": shown, "names": names,
            "attributes": {key: profiles[key] for key in used if key in profiles}}  # fmt: skip


def _in_turn(wrong: list[Record], most: int) -> list[Record]:
    """One error of each confused pair, the most frequent pair first, then another of each, and so on."""
    pairs: dict[tuple[str, str], deque[Record]] = {}
    for record in wrong:
        pairs.setdefault((key_of(own(record)), key_of(record.get("prediction"))), deque()).append(record)
    waiting = sorted(pairs.values(), key=len, reverse=True)
    found: list[Record] = []
    while waiting and len(found) < most:
        found += [queue.popleft() for queue in waiting][: most - len(found)]
        waiting = [queue for queue in waiting if queue]
    return found


def _sources(material: Material) -> Iterable[tuple[Record, Path | None]]:
    yield from material.known
    for run in material.runs.values():
        for record in run.predictions:
            yield record, run.root


def _examples(material: Material) -> dict[str, list[tuple[Path | None, str]]]:
    """category -> images of it, of the training images before those asked about."""
    found: dict[str, list[tuple[Path | None, str]]] = {}
    for record, root in _sources(material):
        name, image = own(record), record.get("image")
        if name is not None and isinstance(image, str) and root is not None:
            places = found.setdefault(key_of(name), [])
            if len(places) < EXAMPLES and (root, image) not in places:
                places.append((root, image))
    return found


def _profiles(material: Material) -> dict[str, dict[str, str]]:
    """category -> {attribute: its most frequent value}, true values where they are known, else extracted ones."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for record, _ in _sources(material):
        told, name = record.get("attributes_true") or record.get("attributes"), own(record)
        if isinstance(told, dict) and name is not None:
            mine = counts.setdefault(key_of(name), {})
            for attribute, value in told.items():
                if len(str(value)) <= 60:  # a general description is no attribute
                    mine.setdefault(attribute, Counter())[str(value)] += 1
    return {key: {a: values.most_common(1)[0][0] for a, values in found.items()} for key, found in counts.items()}
