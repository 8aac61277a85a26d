"""The figures, against closed forms, slow counts and the figures that released files are known to give."""

import itertools
import math
import random

import pytest

from fgvr import metrics


def test_wilson_interval_has_its_known_values():
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29
    for (r, n), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert metrics.wilson(r, n) == pytest.approx((low, high), abs=5e-5)
    assert all(metrics.wilson(0, n)[0] == 0 and metrics.wilson(n, n)[1] == 1 for n in range(1, 99))
    assert metrics.wilson(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)


def test_wilson_ends_solve_the_score_equation():
    for n, z in itertools.product((1, 7, 500), (1.0, metrics.Z95)):
        for r in range(0, n + 1, max(1, n // 7)):
            for end in metrics.wilson(r, n, z):
                assert (r / n - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n, abs=1e-12)
    for r, n in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes"):
            metrics.wilson(r, n)


def test_substring_knows_no_words():
    assert metrics.substring("An ELEPHANT.", "Ant") and not metrics.substring("mexican-petunia", "mexican petunia")


@pytest.mark.parametrize("said", ["Black_footed_Albatross", "a black-footed albatross", " THE Black Footed\nAlbatross"])
def test_exact_match_folds_what_is_not_the_name(said):
    assert metrics.exact(said, "Black-footed Albatross")
    assert metrics.exact(said, ["Laysan Albatross", "Black footed albatross"])


def test_exact_match_is_not_containment():
    for said in ("It is a Black-footed Albatross", "Albatross", "", "Black footed Albatrosses"):
        assert not metrics.exact(said, "Black-footed Albatross")
    assert metrics.exact("Wilson’s warbler", "Wilson's_Warbler") and metrics.exact("737 800", "737-800")
    with pytest.raises(ValueError, match="no gold"):
        metrics.exact("x", [])


def test_finer_text_rules():
    assert metrics.finer_answer('I see it. Answer: Tiger</s>') == "Tiger"
    assert metrics.finer_answer("Answer: a Answer: b") == "a Answer: b"
    assert metrics.finer_answer(" no marker ") == "no marker"
    assert metrics.finer_normalise("The yellow-collared  737-800, an Eagle!") == "yellowcollared 737800 eagle"


def test_finer_em_has_two_directions():
    em = metrics.finer_em
    assert em("It is a bald eagle.", "Bald Eagle") == 1 and em("eagle", "bald eagle") == 0
    assert em("eagle", "bald eagle", "prediction-in-gold") == 1
    assert em("a western gull", "Tern") == 1                                # characters, not words
    long = " ".join(["word"] * 20)
    assert em(f"{long} eagle", "eagle") == 0 and em(f"{long} eagle", f"{long} eagle") == 1
    assert em("gull", ["tern", "gull"]) == 1 and em("gull", ["tern", "auk"]) == 0
    with pytest.raises(ValueError, match="unknown direction"):
        em("a", "b", "both")


def test_token_f1():
    assert metrics.token_f1("grasshopper", "two-striped grasshopper") == pytest.approx(2 / 3)
    assert metrics.token_f1("x x y", "x x x z") == pytest.approx(2 * 2 / 7)
    assert metrics.token_f1("gull", ["tern", "herring gull", "gull"]) == 1 and metrics.token_f1("", "x") == 0
    assert metrics.token_f1("k", "a1 b c d e f g h i j k", gold_words=10) == 0 < metrics.token_f1("k", "b k")


def slow_common(a, b):
    """Longest common subsequence by trying them all."""
    return max(
        (n for n in range(len(a) + 1) for pick in itertools.combinations(a, n) if _inside(pick, b)), default=0
    )


def _inside(pick, b):
    rest = iter(b)
    return all(word in rest for word in pick)


@pytest.mark.parametrize("seed", range(20))
def test_rouge_l_equals_trying_all_subsequences(seed):
    draw = random.Random(seed)
    a, b = ([draw.choice("xyz") for _ in range(draw.randint(1, 7))] for _ in range(2))
    common = slow_common(a, b)
    want = 2 * common / (len(a) + len(b)) if common else 0
    assert metrics.rouge_l(" ".join(a).upper() + ".", ", ".join(b)) == pytest.approx(want)


def test_rouge_l_of_nothing_is_zero():
    assert metrics.rouge_l("", "x") == metrics.rouge_l("x", "") == 0 and metrics.rouge_l("red belly", "Red belly.") == 1


def test_mcnemar_is_the_exact_binomial_test():
    exact = pytest.approx
    assert metrics.mcnemar(5, 0) == exact(2 / 32) and metrics.mcnemar(1, 1) == metrics.mcnemar(0, 0) == 1
    assert metrics.mcnemar(8, 2) == metrics.mcnemar(2, 8) == exact(2 * (1 + 10 + 45) / 1024)
    for first, second in ((3, 9), (40, 61), (200, 150)):
        n, few = first + second, min(first, second)
        assert metrics.mcnemar(first, second) == exact(2 * sum(math.comb(n, i) for i in range(few + 1)) / 2**n)
    huge = metrics.mcnemar(210_000, 211_000)
    assert huge == pytest.approx(math.erfc((1000 - 1) / math.sqrt(421_000) / math.sqrt(2)), rel=0.01)
