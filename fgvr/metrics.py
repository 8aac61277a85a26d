"""Figures about replies and shares: text overlaps, Wilson's interval, McNemar's test. No torch; scipy in one function.

Every share is in [0, 1] (not percent); every figure over nothing raises ValueError rather than returning NaN.
Sources: FINER is Kim & Ji's benchmark (`eval_fgvc.py`), SQuAD is Rajpurkar et al. 2016, the rest is named in place.
"""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Sequence

from fgvr.answers import normalise

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


def wilson(successes: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927): 95 % by default; stays inside [0, 1] and is right at 0 and n.
    n need not be whole: it may be an effective sample size.

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


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: the p-value that two systems are equally often right on the same items.

    Only the items where exactly one is right count; under equality they fall like coins (binomial, 1/2). 1.0
    without any.
    """
    from scipy.special import bdtr

    n = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), n, 0.5))) if n else 1.0


def _f1(shared: int, said: int, wanted: int) -> float:
    return 2 * shared / (said + wanted) if shared else 0.0


def _list(texts: str | Sequence[str]) -> Sequence[str]:
    golds = [texts] if isinstance(texts, str) else texts
    if not golds:
        raise ValueError("no gold text")
    return golds
