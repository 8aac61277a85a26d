"""The figures, against closed forms, slow counts and the figures that released files are known to give."""

import itertools
import json
import math
import os
import random
from pathlib import Path

import pytest

from fgvr import metrics


@pytest.fixture(scope="module")
def shared():
    if not os.environ.get("FGVR_SHARED"):
        pytest.skip("FGVR_SHARED is not set")
    return Path(os.environ["FGVR_SHARED"])


def test_accuracy_and_failure_rate():
    assert metrics.accuracy([True, False, True, True]) == 0.75
    assert metrics.failure_rate([None, 0, "x", None]) == 0.5
    for share in (metrics.accuracy, metrics.failure_rate):
        with pytest.raises(ValueError, match="no values"):
            share([])


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


def test_mean_per_class_weighs_classes_equally():
    categories, correct = list("aaab"), [True, True, True, False]
    assert metrics.by_group(categories, correct) == {"a": (3, 3), "b": (0, 1)}
    assert metrics.mean_per_class(categories, correct) == 0.5
    with pytest.raises(ValueError, match=r"longer|shorter"):
        metrics.mean_per_class(categories, correct[:-1])


def test_position_preference_is_over_readable_replies():
    assert metrics.position_preference([0, 3, None, 3, 3], 4) == [0.25, 0, 0, 0.75]
    for chosen in ([None], [], [4], [-1]):
        with pytest.raises(ValueError, match="position"):
            metrics.position_preference(chosen, 4)


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
    def pairs(both, first, second, none):
        return [True] * (both + first) + [False] * (second + none), (
            [True] * both + [False] * first + [True] * second + [False] * none
        )

    assert metrics.mcnemar(*pairs(10, 5, 0, 3)) == 2 / 32
    assert metrics.mcnemar(*pairs(0, 1, 1, 0)) == 1 and metrics.mcnemar(*pairs(4, 0, 0, 4)) == 1
    assert metrics.mcnemar(*pairs(0, 8, 2, 0)) == metrics.mcnemar(*pairs(9, 2, 8, 1)) == 2 * (1 + 10 + 45) / 1024
    huge = metrics.mcnemar(*pairs(0, 2100, 1900, 0))
    normal = math.erfc((200 - 1) / math.sqrt(4000) / math.sqrt(2))
    assert huge == pytest.approx(normal, rel=0.01)
    with pytest.raises(ValueError, match=r"longer|shorter"):
        metrics.mcnemar([True], [])


def test_bootstrap_difference_is_paired_seeded_and_covers():
    draw = random.Random(0)
    first = [draw.random() < 0.5 for _ in range(400)]
    second = [a if draw.random() < 0.8 else draw.random() < 0.9 for a in first]
    difference, low, high = metrics.bootstrap_difference(first, second, seed=3)
    assert difference == pytest.approx((sum(second) - sum(first)) / 400)
    moved = [b - a for a, b in zip(first, second, strict=True)]
    spread = math.sqrt((sum(m * m for m in moved) / 400 - difference**2) / 400)
    assert (low, high) == pytest.approx((difference - 1.96 * spread, difference + 1.96 * spread), abs=0.1 * spread)
    assert metrics.bootstrap_difference(first, second, seed=3) == (difference, low, high)
    assert len({metrics.bootstrap_difference(first, second, seed=seed, rounds=50) for seed in range(9)}) > 1
    assert metrics.bootstrap_difference(first, first) == (0, 0, 0)


def test_bootstrap_difference_of_graded_scores_agrees_with_the_normal_interval():
    draw = random.Random(1)
    first = [draw.random() for _ in range(300)]
    second = [a + draw.gauss(0.1, 0.2) for a in first]
    difference, low, high = metrics.bootstrap_difference(first, second, rounds=4000)
    spread = 0.2 / math.sqrt(300)
    assert (low, high) == pytest.approx((difference - 1.96 * spread, difference + 1.96 * spread), abs=0.25 * spread)
    for arguments in (([], []), ([1], [0], 0, 0), ([1], [0], 0, 10, 1.0)):
        with pytest.raises(ValueError, match="need items"):
            metrics.bootstrap_difference(*arguments)


def test_released_bird_predictions_give_their_known_figures(shared):
    path = shared / "reference/finedefics/results/bird-200--finedefics.json"
    released = json.loads(path.read_text())
    rows = released["predictions"]
    correct = [r["predicted"] == r["correct"] for r in rows]
    chosen = ["ABCD".index(r["predicted_raw"]) for r in rows]
    gold = [r["options"].index(r["correct"]) for r in rows]
    assert len(rows) == 5794 and sum(correct) == 2779
    assert metrics.accuracy(correct) == released["metrics"]["accuracy"] == 0.47963410424577146
    assert metrics.mean_per_class([r["correct"] for r in rows], correct) == pytest.approx(0.4787, abs=5e-5)
    assert metrics.failure_rate(chosen) == released["metrics"]["generation_failures"] == 0
    preference = metrics.position_preference(chosen, 4)
    assert [round(100 * share, 4) for share in preference] == [22.8857, 28.0290, 21.6603, 27.4249]
    by_gold = metrics.by_group(gold, correct)
    assert [round(by_gold[i][0] / by_gold[i][1], 4) for i in range(4)] == [0.4461, 0.5132, 0.4447, 0.5157]
    shares = [right / n for right, n in metrics.by_group([r["correct"] for r in rows], correct).values()]
    assert (sum(s == 0 for s in shares), sum(s >= 0.9 for s in shares)) == (9, 31)
    low, high = metrics.wilson(sum(correct), len(correct))
    assert low < 0.4796 < high and high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 5794), rel=0.01)


def test_released_inaturalist_output_gives_its_printed_scores(shared):
    lines = (shared / "reference/finer_benchmark/inat_output.txt").read_text().splitlines()
    pairs = [line.split(" | ")[1:] for line in lines[:-2] if " | " in line]
    assert len(pairs) == 64
    printed = dict(line.split(" : ") for line in lines[-2:])

    def mean(score, *more):
        return sum(score(said, gold, *more) for said, gold in pairs) / len(pairs)

    assert mean(metrics.token_f1, 10) == pytest.approx(float(printed["F1 Score"]), abs=1e-12)
    assert mean(metrics.finer_em, "prediction-in-gold") == float(printed["EM Score"]) == 0.078125
    assert mean(metrics.finer_em) == 0
    for line, (said, gold) in zip(lines[1:-2:2], pairs, strict=True):
        assert line.split("  ||  ") == [metrics.finer_normalise(gold), metrics.finer_normalise(said)]
