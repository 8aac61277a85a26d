"""score: what is counted, compared, and shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fgvr import metrics
from fgvr.analysis.formats import read
from fgvr.analysis.seeds import over_seeds
from fgvr.analysis.statements import tells
from fgvr.analysis.table import table
from fgvr.errors import FgvrError, RecordError
from fgvr.source import Source
from fgvr.stages.options import Listed
from fgvr.stages.score import Scored, known, score
from tests.procs import FRESH, read_jsonl, run, shell, write_jsonl


def taken(rows: list[dict], by: str | None = None) -> Scored:
    run = Scored(by)
    assert list(run.take(rows)) == []
    return run


def figures(by: str | None = None, /, **runs: list[dict]) -> list[dict]:
    return list(score({name: taken(rows, by) for name, rows in runs.items()}, by))


def prediction(n: int, correct: bool | None, kind: str = "mcq", prediction: str | None = "x", **more: object) -> dict:
    return {"id": f"{n}/{kind}", "kind": kind, "prediction": prediction, "correct": correct, **more}


def by_name(records: list[dict]) -> dict[str, dict]:
    def group(record: dict) -> str:
        return record.get("category", record.get("attribute", ""))

    return {f"{r.get('run', '')}|{r['kind']}|{r['metric']}|{group(r)}": r for r in records}


def test_predictions() -> None:
    rows = [prediction(n, n < 6, category="a" if n < 8 else "b") for n in range(10)]
    rows += [prediction(10, False, prediction=None, category="b"), prediction(11, None, category="c")]
    rows += [prediction(n, n == 0, "open", category="a") for n in range(4)]
    found = by_name(figures(run=rows))
    low, high = metrics.wilson(6, 11)
    right = {"kind": "mcq", "metric": "accuracy", "value": 6 / 11, "low": low, "high": high, "n": 11}
    assert found["|mcq|accuracy|"] == right
    assert found["|mcq|mean-per-class accuracy|"]["value"] == (6 / 8 + 0 / 3) / 2
    assert found["|mcq|mean-per-class accuracy|"]["n"] == 2
    assert found["|mcq|failure rate|"]["value"] == 1 / 12
    assert found["|open|exact match|"]["value"] == 0.25
    assert "|open|accuracy|" not in found
    grouped = by_name(figures("category", run=rows))
    assert grouped["|mcq|accuracy|a"]["value"] == 6 / 8 and grouped["|mcq|accuracy|b"]["n"] == 3


def test_one_question_a_category_is_no_certainty() -> None:
    found = by_name(figures(run=[prediction(n, True, category=f"c{n}", answer=f"c{n}") for n in range(9)]))
    assert found["|mcq|mean-per-class accuracy|"]["low"] == pytest.approx(metrics.wilson(9, 9)[0])
    assert found["|mcq|mean-per-class accuracy|"]["value"] == found["|mcq|macro F1|"]["value"] == 1
    assert found["|mcq|macro F1|"]["low"] is None


def test_what_is_not_known_is_not_counted() -> None:
    """Questions without an answer give a failure rate alone; predictions without a category no mean over categories."""
    assert [r["metric"] for r in figures(run=[prediction(0, None), prediction(1, None)])] == ["failure rate"]
    assert [r["metric"] for r in figures(run=[prediction(0, True)])] == ["accuracy", "failure rate"]
    assert figures(run=[]) == []


def test_extractions() -> None:
    truth = {"bill shape": "hooked", "leg colour": "dark blue"}
    said = "The bill shape of the bird is hooked and the leg colour is red."
    right = {"bill shape": "Hooked.", "leg colour": "Dark-blue", "tail": "long"}
    rows = [
        {"id": "1", "attributes": right, "attributes_true": truth, "description": said},
        {"id": "2", "attributes": {"bill shape": "flat"}, "attributes_true": truth, "description": "A bird."},
        {"id": "3", "attributes": {"bill shape": "flat"}, "attributes_true": {}},
    ]
    found = by_name(figures(run=rows))
    whole = found["|attributes|attribute accuracy|"]
    assert (whole["value"], whole["n"], whole["low"], whole["high"]) == (0.5, 2, 0.0, 1.0)
    assert found["|attributes|attribute accuracy|bill shape"]["value"] == 0.5
    assert found["|description|description accuracy|"]["value"] == 0.25
    assert not any("tail" in key for key in found)


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("The bill colour is red.", "red", True),
        ("Bill-colour: dark red", "Dark Red", True),
        ("The bill colour is reddish.", "red", False),
        ("The leg colour is red and the bill colour is blue.", "red", False),
        ("A red bill.", "red", False),
        ("The bill colour is colour.", "bill", False),
    ],
)
def test_tells(text: str, value: str, expected: bool) -> None:
    assert tells(text, "bill colour", value) is expected


def test_runs_are_compared_pair_by_pair() -> None:
    before = [prediction(n, n % 10 == 0) for n in range(100)]
    after = [prediction(n, n % 10 < 7) for n in range(90)] + [prediction(200, True)]
    found = figures(before=before, after=after)
    assert [r["run"] for r in found] == ["before"] * 2 + ["after"] * 3
    (difference,) = [r for r in found if "against" in r]
    assert difference["metric"] == "accuracy difference" and difference["against"] == "before"
    assert difference["n"] == 90, "only what both answered"
    assert difference["value"] == pytest.approx(0.6)
    assert difference["low"] < 0.6 < difference["high"]
    assert difference["p"] == metrics.mcnemar(0, 54)
    assert "run" not in figures(after=after)[0]


def test_triples_without_truth_tell_their_quality() -> None:
    rows = [{"id": str(n), "category": "ab"[n % 2], "description": "Red." if n else "", "attributes": {"leg": "red"}}
            for n in range(4)]  # fmt: skip
    found = by_name(figures(run=rows))
    values = {name: record["value"] for name, record in found.items()}
    assert values["|descriptions|empty|"] == 0.25 and values["|descriptions|duplicate|"] == 0.75
    assert values["|descriptions|information|leg"] == 0 and "|attributes|attribute accuracy|" not in found


def test_metrics_come_through() -> None:
    ready = {"kind": "probe", "metric": "accuracy", "value": 0.5, "low": None, "high": None, "n": 3, "pool": "last"}
    assert figures(run=[{"id": "made", **ready}]) == [ready]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "nothing to score"),
        ({"prediction": "x", "correct": True}, "no 'kind'"),
        ({"prediction": "x", "correct": "yes", "kind": "mcq"}, "'correct' must be true or false"),
        ({"correct": True, "kind": "mcq"}, "no 'prediction'"),
        ({"attributes_true": [], "attributes": {}}, "'attributes_true' must be an object"),
        ({"attributes_true": {}, "attributes": []}, "'attributes' must be an object"),
        ({"metric": "accuracy", "kind": "mcq"}, "no 'value'"),
        ({"metric": "accuracy", "kind": "mcq", "value": 1, "low": "0"}, "'p', 'n' and 'sd' must be numbers"),
    ],
)
def test_what_is_refused(record: dict, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        known({"id": "1", **record})


def test_by_needs_its_field() -> None:
    assert known(prediction(0, True, superclass="bird"), "superclass")
    with pytest.raises(RecordError, match="no 'superclass'"):
        known(prediction(0, True), "superclass")


def test_a_run_with_an_id_twice() -> None:
    with pytest.raises(FgvrError, match="run 'a': a mcq question comes twice"):
        figures(a=[prediction(0, True)] * 2)


def test_table() -> None:
    before = [prediction(n, n % 4 == 0, category="a") for n in range(100)]
    after = [prediction(n, n % 4 != 0, category="a") for n in range(100)]
    lines = table(figures("category", before=before, after=after))
    assert lines[0].split() == ["before", "after", "after", "-", "before", "n"]
    assert lines[1].split()[:8] == ["mcq", "accuracy", "0.250", "[0.175,", "0.343]", "0.750", "[0.657,", "0.825]"]
    assert "+0.500 [" in lines[1] and lines[1].split()[-1] == "100"
    assert lines[4].startswith("mcq  accuracy, a")
    assert len({len(line) for line in lines}) == 1
    single = table([{"kind": "probe", "metric": "distance", "value": 1.5, "low": None, "high": None, "n": 3}])
    assert [line.split() for line in single] == [["value", "n"], ["probe", "distance", "1.500", "3"]]


def test_runs_of_several_seeds_are_one() -> None:
    def metric(run: str, value: float | None, n: int = 4, **more: object) -> dict:
        return {"run": run, "kind": "mcq", "metric": "accuracy", "value": value, "low": 0, "high": 1, "n": n, **more}

    untuned = metric("untuned", 0.25)
    rows = [untuned, metric("a@0", 0.5), metric("a@7", 0.75), metric("a@2", 1.0), metric("b@0", 0.5)]
    rows += [metric("a@0", 0.5, 3, position="A"), metric("a@7", None, 2, position="A")]
    rows += [{**metric("b@0", 0.1), "against": "untuned"}, {**metric("c", 0.1), "against": "a@0"}]
    kept, *found = over_seeds(rows)
    assert kept == untuned
    one = {"low": None, "high": None, "n": 4, "kind": "mcq", "metric": "accuracy"}
    assert found[:2] == [
        {**one, "run": "a", "value": 0.75, "sd": 0.25, "seeds": 3},
        {**one, "run": "b", "value": 0.5, "sd": None, "seeds": 1},
    ]
    assert found[2:] == [{**one, "run": "a", "position": "A", "value": 0.5, "n": None, "sd": None, "seeds": 1}]
    assert [line.split() for line in table([kept, *found])][1] == (
        ["mcq", "accuracy", "0.250", "[0.000,", "1.000]", "0.750", "±", "0.250", "0.500", "4"])  # fmt: skip


# --- each figure ------------------------------------------------------------------------------------------------------

LETTERS = ["a", "b", "c", "d"]


def chosen(n: int, gold: int, said: int | None, **more: object) -> dict:
    """A multiple-choice prediction: the right option stands at `gold`, `said` was chosen."""
    turned = LETTERS[-gold:] + LETTERS[:-gold] if gold else LETTERS
    text = None if said is None else turned[said]
    return prediction(n, text == "a", prediction=text, answer="a", options=turned, image=f"{n}.jpg", **more)


def only(found: list[dict], metric: str, **more: object) -> dict:
    (record,) = [r for r in found if r["metric"] == metric and all(r.get(k) == v for k, v in more.items())]
    return record


def test_positions() -> None:
    found = figures(run=[chosen(0, 0, 0), chosen(1, 1, 1), chosen(2, 1, 3), chosen(3, 3, None), chosen(4, 1, 0)])
    share = {r["position"]: (r["value"], r["n"]) for r in found if r["metric"] == "position preference"}
    assert share == {"A": (0.5, 4), "B": (0.25, 4), "C": (0, 4), "D": (0.25, 4)}, "of the replies that could be read"
    right = {r["position"]: (r["value"], r["n"]) for r in found if r["metric"] == "accuracy by gold position"}
    assert right == {"A": (1, 1), "B": (pytest.approx(1 / 3), 3), "D": (0, 1)}


def test_questions_that_share_an_image_widen_the_interval() -> None:
    apart = [prediction(n, n % 8 < 4, image=f"{n}") for n in range(800)]
    shared = [{**row, "image": f"{n // 4}"} for n, row in enumerate(apart)]
    one, four = (only(figures(run=rows), "accuracy") for rows in (apart, shared))
    assert one["value"] == four["value"] == 0.5
    assert four["high"] - four["low"] == pytest.approx(2 * (one["high"] - one["low"]), rel=0.1)


def test_circular_evaluation_wants_every_order_right() -> None:
    rows = [prediction(n, n != 5, base=str(n // 4), image=str(n // 4)) for n in range(8)]
    assert only(figures(run=rows), "circular accuracy") | {"low": 0, "high": 0} == {
        "kind": "mcq", "metric": "circular accuracy", "value": 0.5, "low": 0, "high": 0, "n": 2
    }  # fmt: skip
    assert not [r for r in figures(run=[prediction(0, True, base="0")]) if r["metric"].startswith("circular")]


def test_what_eval_has_found_is_counted() -> None:
    rows = [{**prediction(n, n > 1), "correct_in_all": n > 2, "correct_top5": True if n else None} for n in range(4)]
    assert only(figures(run=rows), "circular accuracy")["value"] == 0.25
    top = only(figures(run=rows), "top-5 accuracy")
    assert (top["value"], top["n"]) == (1.0, 3), "null where no answer is known"


def yesno(n: int, gold: str, said: str | None) -> dict:
    return prediction(n, gold == said, "yesno", said, answer=gold, options=["yes", "no"])


def test_yes_or_no() -> None:
    rows = [("yes", "yes"), ("yes", "yes"), ("no", "yes"), ("yes", "no"), ("no", "no"), ("yes", None)]
    found = figures(run=[yesno(n, *row) for n, row in enumerate(rows)])
    want = {"accuracy": 3 / 6, "precision of yes": 2 / 3, "recall of yes": 2 / 4, "share of yes": 3 / 5}
    assert {metric: only(found, metric)["value"] for metric in want} == pytest.approx(want)


def opened(n: int, said: str | None, answer: str, **more: object) -> dict:
    right = said is not None and metrics.exact(said, [answer, *more.get("aliases", [])])  # type: ignore[misc]
    return prediction(n, right, "open", said, answer=answer, category=answer, raw=said or "", **more)


def test_open_answers_cluster_the_images() -> None:
    """Clusters called by other names than the classes': no name is right, the grouping nearly is."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    names = {"Owl": "Eule", "Kite": "Milan", "Jay": "Häher"}
    golds = ["Owl"] * 4 + ["Kite"] * 3 + ["Jay"] * 3
    saids = [names[gold] for gold in golds[:-1]] + ["Milan"]
    found = figures(run=[opened(n, said, gold) for n, (said, gold) in enumerate(zip(saids, golds, strict=True))])
    assert only(found, "exact match")["value"] == only(found, "macro F1")["value"] == 0
    assert only(found, "clustering accuracy")["value"] == 0.9
    assert only(found, "NMI")["value"] == pytest.approx(normalized_mutual_info_score(golds, saids))
    assert only(found, "ARI")["value"] == pytest.approx(adjusted_rand_score(golds, saids))


def test_spellings_and_aliases_are_one_name() -> None:
    rows = [opened(0, "a blue_jay", "Blue Jay"), opened(1, "Cyanocitta", "Blue Jay", aliases=["Cyanocitta"]),
            opened(2, "Owl", "Owl"), opened(3, None, "Owl")]  # fmt: skip
    found = figures(run=rows)
    assert only(found, "exact match")["value"] == 0.75
    assert only(found, "clustering accuracy")["value"] == 0.75, "what could not be read is no cluster"
    assert only(found, "macro F1")["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert only(found, "mean-per-class exact match")["value"] == 0.75


def test_finer_scores_by_level() -> None:
    """At each level the labels of that level and of finer ones are right (FINER's eval_fgvc.py)."""
    labels = {"superordinate": "Bird", "coarse": ["Tern"], "fine": ["Arctic Tern", "Sterna paradisaea"]}
    rows = [opened(0, "Answer: an arctic tern, I think", "Arctic Tern", labels=labels),
            opened(1, "It is a western bird", "Arctic Tern", labels=labels)]  # fmt: skip
    found = figures(run=rows)
    em = {r["level"]: r["value"] for r in found if r["metric"] == "FINER EM, gold in prediction"}
    assert em == {"superordinate": 1, "coarse": 1, "fine": 0.5}, "characters, not words: tern is in western"
    f1 = {r["level"]: r["value"] for r in found if r["metric"] == "FINER F1"}
    assert f1["fine"] == pytest.approx((2 * 2 / (4 + 2) + 0) / 2) and f1["superordinate"] > f1["fine"]
    at = figures(run=[opened(0, "Tern", "Tern", labels=labels, level="coarse")])
    assert [r["level"] for r in at if r["metric"] == "FINER F1"] == ["coarse"]
    plain = only(figures(run=[opened(0, "Tern", "Tern", level="coarse")]), "FINER F1")
    assert (plain["value"], plain["level"]) == (1, "coarse")


def test_captions_are_compared_with_their_reference() -> None:
    rows = [prediction(0, False, "caption", "A red kite flies.", answer="A red bird flies.", category="Red Kite")]
    found = figures(run=rows)
    assert {r["metric"]: r["value"] for r in found} == {"failure rate": 0, "ROUGE-L": 2 / 3, "names the category": 1}


def test_the_most_confused_pairs_and_the_matrix() -> None:
    rows = [opened(n, said, "Owl") for n, said in enumerate(["Jay", "Jay", "Owl", None])] + [opened(9, "Owl", "Jay")]
    run = taken(rows)
    found = list(score({"run": run}, confused=1, matrix=True))
    pair = only(found, "confused")
    assert (pair["gold"], pair["said"], pair["count"], pair["value"], pair["n"]) == ("Owl", "Jay", 2, 0.5, 4)
    cells = {(r["gold"], r["said"]): r["value"] for r in found if r["metric"] == "confusion"}
    assert cells == {("Owl", None): 1, ("Owl", "Owl"): 1, ("Owl", "Jay"): 2, ("Jay", "Owl"): 1}
    assert not any("confusion" in line for line in table(found))


class Letters:
    """Texts as the directions of their first letters."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {"name": "letters"}

    def texts(self, texts: Sequence[str]) -> Any:
        import torch

        return torch.stack([torch.eye(26)[ord(text[0].lower()) - ord("a")] for text in texts])

    def images(self, images: Any) -> Any:
        raise AssertionError("no images are looked at")


def test_semantic_accuracy_is_the_mean_cosine_of_names() -> None:
    rows = [opened(0, "Crow", "Crane"), opened(1, "Crane", "Crane"), opened(2, "Owl", "Crane"), opened(3, None, "Owl")]
    found = only(list(score({"run": taken(rows)}, encoder=Letters())), "semantic accuracy")
    assert (found["value"], found["n"]) == (0.5, 4)


def test_runs_without_common_ids_are_paired_by_image() -> None:
    first = [prediction(n, n < 5, image=f"{n}.jpg") for n in range(10)]
    second = [{**prediction(n, n < 8, image=f"{n}.jpg"), "id": f"other {n}"} for n in range(10)]
    (difference,) = [r for r in figures(a=first, b=second) if "against" in r]
    assert (difference["n"], difference["value"]) == (10, pytest.approx(0.3))
    twice = [{**row, "image": "0.jpg"} for row in second]
    assert not [r for r in figures(a=first, b=twice) if "against" in r]


@pytest.mark.parametrize("by_image", [False, True])
def test_questions_of_one_id_and_two_right_answers_are_not_compared(by_image: bool) -> None:
    """VLMEvalKit and lmms-eval number the questions of every data set from 0."""
    first = [opened(n, "Jay", "Jay") | {"image": str(n)} for n in range(10)]
    second = [opened(n, "Jay", "JAY" if n < 7 else "Owl") | {"image": str(n)} for n in range(10)]
    if by_image:
        second = [{**row, "id": f"other {row['id']}"} for row in second]
    said: list[str] = []
    runs = {"a": taken(first), "b": taken(second)}
    (difference,) = [r for r in score(runs, say=said.append) if "against" in r]
    assert difference["n"] == 7
    assert said == ["b and a: 3 of 10 open questions have one id and two right answers; not compared"]
    assert not [r for r in score({"a": taken(first), "b": taken(second[7:])}) if "against" in r]


@pytest.mark.parametrize("more", [{"aliases": "abc"}, {"aliases": 5}, {"aliases": [None]}])
def test_aliases_of_another_type_are_a_fault(more: dict) -> None:
    """A text is no list: its letters would count as right answers."""
    for row in (opened(0, "a", "Emu") | more, {"id": "e", "category": "Emu", "description": "An emu.", **more}):
        (fault,) = Scored().take([row])
        assert str(fault) == f"{row['id']}: 'aliases' must be a list of texts; correct the record"


def test_a_faulty_record_is_found_among_many() -> None:
    rows = [prediction(n, True) for n in range(3000)]
    rows[1700] = {**rows[1700], "prediction": 7}
    rows[2200] = {**rows[2200], "options": "abc"}
    run = Scored()
    found = [(b.where, b.error) for b in run.take(rows)]
    assert found[0] == ("1700/mcq", "'prediction' must be text, got 7; correct the record")
    assert found[1][0] == "2200/mcq" and "'options' must be a list" in found[1][1]
    assert only(list(score({"run": run})), "accuracy")["n"] == 2998


@pytest.mark.parametrize(
    ("index", "why"),
    [(0, ""), (None, ""), (1, "answer_index 1 is 'Tern', but its answer is 'Kite'; correct one of them"),
     (2, "answer_index 2 is none of its 2 options, but its answer is 'Kite'; correct one of them"),
     ("A", "answer_index 'A' is none of its 2 options, but")],
)  # fmt: skip
def test_a_number_that_is_not_the_answers_is_a_fault(index: object, why: str) -> None:
    """One of the two is wrong, and `correct` may rest on it."""
    rows = [prediction(n, True, options=["Kite", "Tern"], answer="Kite", answer_index=0) for n in range(3)]
    rows[1]["answer_index"] = index
    found = [(fault.where, fault.error[: len(why)]) for fault in Scored().take(rows)]
    assert found == ([("1/mcq", why)] if why else [])


# --- released figures -------------------------------------------------------------------------------------------------


def scored(tmp_path: Path, *argv: object) -> list[dict]:
    ended = run([FRESH, "score", *map(str, argv)], tmp_path)
    assert (ended.status, ended.err) == (0, "")
    return read_jsonl(ended.out)


@pytest.mark.parametrize("parser", [[], ["--parser", "strict"], ["--parser", "foci-prefix"]])
def test_released_bird_predictions_give_their_known_figures(shared: Path, tmp_path: Path, parser: list[str]) -> None:
    found = scored(tmp_path, *parser, shared / "reference/finedefics/results/bird-200--finedefics.json")
    accuracy = only(found, "accuracy")
    assert (accuracy["value"], accuracy["n"]) == (2779 / 5794, 5794) and round(accuracy["value"], 6) == 0.479634
    assert (accuracy["low"], accuracy["high"]) == metrics.wilson(2779, 5794)
    assert round(only(found, "mean-per-class accuracy")["value"], 6) == 0.478658
    assert only(found, "failure rate")["value"] == 0
    preference = [round(100 * r["value"], 4) for r in found if r["metric"] == "position preference"]
    assert preference == [22.8857, 28.0290, 21.6603, 27.4249]
    by_gold = [round(r["value"], 4) for r in found if r["metric"] == "accuracy by gold position"]
    assert by_gold == [0.4461, 0.5132, 0.4447, 0.5157]


def test_released_bird_predictions_by_class(shared: Path, tmp_path: Path) -> None:
    found = scored(tmp_path, "--by", "category", shared / "reference/finedefics/results/bird-200--finedefics.json")
    shares = [r["value"] for r in found if r["metric"] == "accuracy" and "category" in r]
    assert (len(shares), sum(s == 0 for s in shares), sum(s >= 0.9 for s in shares)) == (200, 9, 31)


def test_released_results_are_about_the_released_options(shared: Path) -> None:
    """Section 6, rows 1 and 3 of the study: same images in the same order, same options, same gold."""
    folder = shared / "reference/finedefics"
    source = Source(str(folder / "results/bird-200--finedefics.json"))
    results = list(read(source))
    source.close()
    text = (folder / "options/bird-200-ViT-L-14-laion2b_s32b_b82k-4.json").read_bytes()
    listed = Listed.parse("options", text)
    for asked, answered in zip(listed.items, results, strict=True):
        assert asked["image"] == answered["image"] and asked["category"] == answered["answer"]  # type: ignore[index]
        gold, wrong = listed.wrong(asked)  # type: ignore[arg-type]
        assert {gold, *(name for name, _ in wrong)} == set(answered["options"])  # type: ignore[index]


def test_released_inaturalist_output_gives_its_printed_scores(shared: Path, tmp_path: Path) -> None:
    found = scored(tmp_path, shared / "reference/finer_benchmark/inat_output.txt")
    f1 = only(found, "FINER F1")
    assert (f1["value"], f1["n"]) == (pytest.approx(0.0401041667, abs=5e-11), 64)
    assert only(found, "FINER EM, prediction in gold")["value"] == 0.078125
    assert only(found, "FINER EM, gold in prediction")["value"] == 0


# --- the command ------------------------------------------------------------------------------------------------------


def test_versus(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_jsonl(tmp_path / "p.jsonl", [prediction(n, n % 2 == 0, image=f"{n // 3}") for n in range(60)])
    write_jsonl(tmp_path / "other/p.jsonl", [prediction(n, n % 3 == 0) for n in range(60)])
    (difference,) = [r for r in scored(tmp_path, "p.jsonl", "--versus", "other/p.jsonl") if "against" in r]
    assert (difference["run"], difference["against"], difference["n"]) == (tmp_path.name, "other", 60)
    assert difference["value"] == pytest.approx(1 / 6) and 0 < difference["p"] < 1
    write_jsonl(tmp_path / "q.jsonl", [prediction(n, True) for n in range(100, 110)])
    ended = run([FRESH, "score", "p.jsonl", "--versus", "q.jsonl"], tmp_path)
    assert ended.status == 1 and "no question of q.jsonl is one of p" in ended.err


def test_equal_predictions_give_equal_bytes(tmp_path: Path) -> None:
    """Also where images are resampled, whose hashes differ from process to process."""
    rows = [opened(n, ["Owl", "Jay", "Kite"][n * 7 % 3], ["Owl", "Jay"][n % 2], image=f"{n // 3}") for n in range(90)]
    write_jsonl(tmp_path / "p.jsonl", rows)
    ended = [shell([FRESH, "score", "p.jsonl"], tmp_path, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    assert ended[0] == ended[1] and ended[0].status == 0 and b'"NMI"' in ended[0].out


def test_a_table_by_run_with_published_figures(tmp_path: Path) -> None:
    for seed in range(2):
        write_jsonl(tmp_path / f"{seed}.jsonl", [prediction(n, n % 2 <= seed) for n in range(10)])
    write_jsonl(tmp_path / "old.jsonl", [prediction(n, n < 2) for n in range(10)])
    (tmp_path / "paper.csv").write_text("run,published (%),where\nnew,72.7,Table 3b\n")
    argv = ["score", "--seeds", "--table", "--columns", "mcq accuracy,mcq failure rate", "--beside", "paper.csv",
            "--compare", "old=old.jsonl", "--compare", "new@0=0.jsonl", "--name", "new@1", "1.jsonl"]  # fmt: skip
    shown = run([FRESH, *argv], tmp_path).out.decode().splitlines()
    assert [line.split("  ")[0] for line in shown] == ["run", "old", "new"]
    assert shown[1].split() == ["old", "0.200", "[0.057,", "0.510]", "0.000", "[0.000,", "0.278]"]
    assert shown[2].split() == ["new", "0.750", "±", "0.354", "0.000", "±", "0.000", "72.7", "Table", "3b"]
    assert run([FRESH, *argv, "-o", "table.md"], tmp_path).status == 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| run | mcq accuracy | mcq failure rate | published (%) | where |"
    assert lines[1:] == ["| --- | ---: | ---: | --- | --- |",
                         "| old | 0.200 [0.057, 0.510] | 0.000 [0.000, 0.278] |  |  |",
                         "| new | 0.750 ± 0.354 | 0.000 ± 0.000 | 72.7 | Table 3b |"]  # fmt: skip
    assert run([FRESH, "score", "--table", "-o", "all.md", "1.jsonl"], tmp_path).status == 0
    assert "| mcq | accuracy | 1.000 [0.722, 1.000] | 10 |" in (tmp_path / "all.md").read_text()


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["--write-format", "foci", "--table"], 2, "exclude each other"),
        (["--write-format", "foci", "--versus", "p.jsonl"], 2, "holds one run"),
        (["--by", "colour"], 1, "no 'colour'"),
        (["--columns", "mcq accuracy"], 2, "add --table"),
        (["--beside", "p.jsonl"], 2, "add --columns"),
        (["--table", "--columns", "mcq accuracy", "--beside", "x.csv"], 1, "1 fields for 'p', 2 in the header"),
        (["--table", "--columns", "mcq acuracy"], 1, "there is no figure 'mcq acuracy'; there are mcq accuracy, "),
        (["--compare", "o=options.json"], 1, "options.json:1: options of questions, no predictions; make questions by"),
        (["--compare", "o=whole.json"], 1, "whole.json: options of questions, no predictions"),
        (["--compare", "o=other.jsonl"], 1, "other.jsonl:2: nothing to score: no `correct`"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, argv: list[str], status: int, message: str) -> None:
    write_jsonl(tmp_path / "p.jsonl", [prediction(0, True)])
    (tmp_path / "x.csv").write_text("run,published\np\n")
    options = {"Owl": [{"image": "0.jpg", "options": ["Owl", "Jay"], "groundtruth": "Owl"}]}
    (tmp_path / "options.json").write_text(json.dumps(options))
    (tmp_path / "whole.json").write_text(json.dumps(options, indent=1))
    write_jsonl(tmp_path / "other.jsonl", [{"metric": "m", "kind": "k", "value": 1}, {"colour": "red"}])
    ended = run([FRESH, "score", "p.jsonl", *argv], tmp_path)
    assert ended.status == status and message in ended.err and ended.err.count("\n") == 1


def test_another_tools_form(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [chosen(0, 0, 0), chosen(1, 1, 0), prediction(2, True, "open", answer="x")])
    ended = run([FRESH, "score", "p.jsonl", "--write-format", "foci", "-o", "foci.json"], tmp_path)
    assert ended.status == 0 and ended.err == "fgvr score: 1 predictions left out: foci holds choices only\n"
    assert only(scored(tmp_path, "foci.json"), "accuracy")["value"] == 0.5
    made = json.loads((tmp_path / "foci.json").read_bytes())
    assert made["metrics"] == {"generation_failures": 0.0, "accuracy": 0.5}
    (results,) = scored(tmp_path, "p.jsonl", "--write-format", "lmms-eval")
    assert results["results"]["p_mcq"]["accuracy,none"] == 0.5
