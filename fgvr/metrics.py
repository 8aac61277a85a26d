"""Figures about predictions: accuracies, intervals, paired tests, text overlaps. No torch; numpy only inside one
function.

Every share is in [0, 1] (not percent); every figure over nothing raises ValueError rather than returning NaN.
Sources: FINER is Kim & Ji's benchmark (`eval_fgvc.py`), SQuAD is Rajpurkar et al. 2016, the rest is named in place.
"""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Hashable, Sequence

from fgvr.answers import normalise

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


def accuracy(correct: Sequence[bool]) -> float:
    """Share of right answers; an unreadable reply counts as wrong, so pass False for it."""
    return _mean([bool(c) for c in correct])


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927): 95 % by default; stays inside [0, 1] and is right at 0 and n.

    Raises:
        ValueError: n < 1, or successes outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == n else min(1.0, centre + half)


def by_group(groups: Sequence[Hashable], correct: Sequence[bool]) -> dict[Hashable, tuple[int, int]]:
    """(right, all) for each group, in order of first appearance; the group is a category, a gold position, a kind."""
    counts: dict[Hashable, tuple[int, int]] = {}
    for group, right in zip(groups, correct, strict=True):
        before = counts.get(group, (0, 0))
        counts[group] = (before[0] + bool(right), before[1] + 1)
    return counts


def mean_per_class(categories: Sequence[Hashable], correct: Sequence[bool]) -> float:
    """Unweighted mean of the categories' accuracies, over the categories that occur."""
    return _mean([right / n for right, n in by_group(categories, correct).values()])


def failure_rate(predictions: Sequence[object | None]) -> float:
    """Share of replies that name no option, i.e. whose prediction is None."""
    return _mean([p is None for p in predictions])


def position_preference(chosen: Sequence[int | None], options: int) -> list[float]:
    """Share of the readable replies at each of the `options` positions (FOCI); the gold position plays no part.

    Raises:
        ValueError: no readable reply, or a position outside 0 .. options - 1.
    """
    counts = Counter(c for c in chosen if c is not None)
    if not counts or any(not 0 <= c < options for c in counts):
        raise ValueError(f"need at least one position, all in 0 .. {options - 1}")
    return [counts[i] / counts.total() for i in range(options)]


def substring(prediction: str, label: str) -> bool:
    """VLMClassifier's score: the lower-case label stands anywhere in the lower-case prediction, inside words too."""
    return label.lower() in prediction.lower()


def exact(prediction: str, golds: str | Sequence[str]) -> bool:
    """Equal to one of the golds after `fgvr.answers.normalise` (case, punctuation, underscores, hyphens, articles)."""
    return normalise(prediction) in {normalise(gold) for gold in _list(golds)}


def finer_normalise(text: str) -> str:
    """FINER's and SQuAD's form: lower case, no ASCII punctuation ("737-800" -> "737800"), no a, an, the."""
    kept = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def finer_answer(reply: str) -> str:
    """What FINER scores of a reply: everything after the first "Answer:", all of it where there is none."""
    return reply.partition("Answer:")[2].replace("</s>", "").strip() if "Answer:" in reply else reply.strip()


def finer_em(prediction: str, golds: str | Sequence[str], direction: str = "gold-in-prediction") -> float:
    """FINER's "EM", the best over the golds: 1 or 0. A containment of characters, so "tern" is found in "western".

    direction "gold-in-prediction" (its current code): norm(gold) is a substring of the first 20 words of
    norm(prediction), or equals norm(prediction). "prediction-in-gold" (its older code, the one behind its printed
    figures): the other way round, with the gold cut to 20 words. An empty text is inside every text: an empty
    prediction scores 1 in the older direction.
    """
    if direction not in ("gold-in-prediction", "prediction-in-gold"):
        raise ValueError(f"unknown direction {direction!r}")
    said = finer_normalise(prediction)
    for gold in map(finer_normalise, _list(golds)):
        inner, outer = (gold, said) if direction == "gold-in-prediction" else (said, gold)
        if inner in " ".join(outer.split()[:20]) or inner == outer:
            return 1.0
    return 0.0


def token_f1(prediction: str, golds: str | Sequence[str], gold_words: int | None = None) -> float:
    """SQuAD's token F1 after `finer_normalise`, the best over the golds, in [0, 1]; 0 when nothing is shared.

    gold_words: cut each gold to that many words first; FINER cuts it to 10 (it meant to cut the prediction).
    """
    said = finer_normalise(prediction).split()
    golds_words = [finer_normalise(gold).split()[:gold_words] for gold in _list(golds)]
    return max(_f1((Counter(said) & Counter(gold)).total(), len(said), len(gold)) for gold in golds_words)


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1 of two texts (Lin 2004, sentence level, beta 1) over lower-case words without punctuation, in [0, 1].

    Time is words x words; memory one row of it.
    """
    said, wanted = normalise(prediction).split(), normalise(reference).split()
    lengths = [0] * (len(wanted) + 1)               # of the longest common subsequence with wanted[:j]
    for word in said:
        diagonal = 0
        for j, other in enumerate(wanted, 1):
            above = lengths[j]
            lengths[j] = diagonal + 1 if word == other else max(above, lengths[j - 1])
            diagonal = above
    return _f1(lengths[-1], len(said), len(wanted))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided McNemar test: the p-value that two systems are equally often right on the same items.

    Only the items where exactly one is right count; under equality they fall like coins (binomial, 1/2). 1.0
    without any.

    Raises:
        ValueError: the lengths differ.
    """
    pairs = Counter((bool(a), bool(b)) for a, b in zip(first, second, strict=True))
    only_first, only_second = pairs[True, False], pairs[False, True]
    n, few = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(few + 1))
    return min(1.0, 2 * tail / 2**n)                # integers up to the division: exact also for thousands of items


def bootstrap_difference(
    first: Sequence[float], second: Sequence[float], seed: int = 0, rounds: int = 10_000, level: float = 0.95
) -> tuple[float, float, float]:
    """Paired percentile bootstrap of mean(second) - mean(first) over the same items (Efron & Tibshirani 1993, ch. 13).

    Returns:
        the difference, and the low and high end of its `level` interval. The same seed gives the same figures.
    Raises:
        ValueError: no items, different lengths, rounds < 1 or level outside (0, 1).
    """
    import numpy as np

    difference = np.array([float(b) - float(a) for a, b in zip(first, second, strict=True)])
    if not len(difference) or rounds < 1 or not 0 < level < 1:
        raise ValueError(f"need items, rounds >= 1 and 0 < level < 1; got {len(difference)}, {rounds}, {level}")
    values, counts = np.unique(difference, return_counts=True)
    rng = np.random.Generator(np.random.PCG64(seed))
    if len(values) <= 64:                           # right/wrong: how often each value is drawn says all
        means = rng.multinomial(len(difference), counts / len(difference), size=rounds) @ values / len(difference)
    else:                                           # a draw at a time: bounded memory
        means = np.array([difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(rounds)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(difference.mean()), float(low), float(high)


def _f1(shared: int, said: int, wanted: int) -> float:
    return 2 * shared / (said + wanted) if shared else 0.0


def _list(texts: str | Sequence[str]) -> Sequence[str]:
    golds = [texts] if isinstance(texts, str) else texts
    if not golds:
        raise ValueError("no gold text")
    return golds


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("no values to average")
    return sum(values) / len(values)
