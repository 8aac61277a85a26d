"""Concept attributes against a reference: overlap of attributes, ROUGE, BLEU, similarity of embeddings.

Texts are the attributes joined by ", " (FINER's linearisation). ROUGE-1, ROUGE-2 and BLEU are those of `rouge`
(FINER's) and `sacrebleu`, where they are installed (fgvr[text]). Intervals are bootstraps over categories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fgvr import metrics
from fgvr.analysis import intervals
from fgvr.answers import normalise
from fgvr.concepts import KINDS
from fgvr.errors import FgvrError
from fgvr.models.base import Encoder
from fgvr.records import Record

Reference = Mapping[str, Mapping[str, list[str]]]
SAME = 0.5  # token F1 from which on two attributes are the same


def compared(records: Sequence[Record], reference: Reference, encoder: Encoder | None = None) -> Iterator[Record]:
    """Metrics records of kind "concept", `part` "required" or "likely", over the categories that both sides list
    attributes of (an empty list against a filled one counts as 0).

    Args:
        records: with `category`, `required`, `likely`. encoder: adds the figures of embeddings.
    Raises:
        FgvrError: the reference has none of the categories.
    """
    import numpy as np

    wanted = {normalise(name): held for name, held in reference.items()}
    both = [(record, wanted[normalise(record["category"])]) for record in records if normalise(record["category"])
            in wanted]  # fmt: skip
    if not both:
        raise FgvrError("no category is one of --reference; give concept records of the same categories")
    known = [normalise(record["category"]) in wanted for record in records]
    yield intervals.figure("concept", "in the reference", intervals.share(np.array(known), None))
    for part in KINDS:
        pairs = [(record.get(part) or [], held[part]) for record, held in both if record.get(part) or held[part]]
        if not pairs:
            continue
        columns = _overlap(pairs) | _texts(pairs) | (_embedded(pairs, encoder) if encoder is not None else {})
        for name, values in columns.items():
            yield {**intervals.figure("concept", name, intervals.mean(np.array(values), None)), "part": part}


Pairs = Sequence[tuple[list[str], list[str]]]


def matched(said: Sequence[str], wanted: Sequence[str]) -> int:
    """How many attributes are the same, in the one-to-one assignment of the greatest token F1 (SAME or more)."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    if not said or not wanted:
        return 0
    alike = np.array([[metrics.token_f1(one, other) for other in wanted] for one in said])
    rows, columns = linear_sum_assignment(np.where(alike >= SAME, alike, 0), maximize=True)
    return int((alike[rows, columns] >= SAME).sum())


def _overlap(pairs: Pairs) -> dict[str, list[float]]:
    found = [(matched(said, wanted), len(said), len(wanted)) for said, wanted in pairs]
    return {
        "attribute precision": [hits / said if said else 0.0 for hits, said, _ in found],
        "attribute recall": [hits / wanted if wanted else 0.0 for hits, _, wanted in found],
        "attribute F1": [2 * hits / (said + wanted) for hits, said, wanted in found],
    }


def _texts(pairs: Pairs) -> dict[str, list[float]]:
    texts = [(", ".join(said), ", ".join(wanted)) for said, wanted in pairs]
    return {name: [of(*both) for both in texts] for name, of in _measures().items()}


def _measures() -> dict[str, Callable[[str, str], float]]:
    """name -> (said, wanted) -> value in [0, 1]."""
    found: dict[str, Callable[[str, str], float]] = {"ROUGE-L": metrics.rouge_l}
    try:
        from rouge import Rouge
        from sacrebleu import sentence_bleu
    except ImportError:
        return found

    def rouge(kind: str) -> Callable[[str, str], float]:
        scorer = Rouge(metrics=[kind], stats=["f"])

        def of(said: str, wanted: str) -> float:
            both = normalise(said), normalise(wanted)
            return float(scorer.get_scores(*both)[0][kind]["f"]) if all(both) else 0.0

        return of

    def bleu(said: str, wanted: str) -> float:
        return float(sentence_bleu(said, [wanted], lowercase=True).score) / 100 if said and wanted else 0.0

    return {"ROUGE-1": rouge("rouge-1"), "ROUGE-2": rouge("rouge-2"), **found, "BLEU": bleu}


def _embedded(pairs: Pairs, encoder: Encoder) -> dict[str, list[float]]:
    """Cosine of the joined texts; and, attribute by attribute, F1 of each one's greatest cosine with the other side
    (BERTScore's matching, Zhang et al. 2020, over attributes instead of tokens)."""
    texts = list(dict.fromkeys(text for pair in pairs for side in pair for text in (*side, ", ".join(side))))
    rows: dict[str, Any] = {}
    for start in range(0, len(texts), 256):
        part = texts[start : start + 256]
        rows.update(zip(part, encoder.texts(part).numpy(), strict=True))

    def cosine_of(one: str, other: str) -> float:
        return round(float(rows[one] @ rows[other]), 6)

    whole, each = [], []
    for said, wanted in pairs:
        if not said or not wanted:
            whole.append(0.0)
            each.append(0.0)
            continue
        whole.append(cosine_of(", ".join(said), ", ".join(wanted)))
        cosine = [[cosine_of(one, other) for other in wanted] for one in said]
        precision = sum(map(max, cosine)) / len(said)
        recall = sum(max(row[i] for row in cosine) for i in range(len(wanted))) / len(wanted)
        each.append(2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0)
    return {"embedding similarity": whole, "embedding F1": each}
