"""study: contrasts against plain loops, encoders found in configs, general scores in every form, labels that keep clear
of each other, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from fgvr.analysis import general
from fgvr.analysis.contrasts import Answers, answers, over_sets
from fgvr.analysis.study import Study, table
from fgvr.cli.group import cli
from fgvr.errors import FgvrError
from fgvr.models import open_answerer
from fgvr.models.base import Ask
from fgvr.models.towers import KNOWN, clip_of
from fgvr.stages.score import Scored
from tests.procs import write_jsonl

OPTIONS = ["Red Kite", "Black Kite", "Barn Owl", "Wren", "Robin"]


def predictions(share: float, seed: int, count: int = 200, **more: Any) -> list[dict]:
    """Choices of which about a share is right; the first category has half of the questions."""
    draw, found = Random(seed), []
    for n in range(count):
        answer = OPTIONS[0 if n % 2 else n % 5]
        right = draw.random() < share
        said = answer if right else OPTIONS[(OPTIONS.index(answer) + 1) % 5]
        record = {"id": f"{n}/mcq", "image": f"{n}.jpg", "kind": "mcq", "options": OPTIONS, "answer": answer}
        found.append({**record, "category": answer, "prediction": said, "correct": right, "raw": said, **more})
    return found


def brought(runs: dict[str, list[dict]], per_class: bool = False) -> Answers:
    scored = {}
    for name, records in runs.items():
        scored[name] = Scored()
        assert not list(scored[name].take(records))
    return answers("birds", {name: one.predictions for name, one in scored.items()}, per_class)


@pytest.mark.parametrize("per_class", [False, True])
def test_contrasts_are_those_of_a_loop(per_class: bool) -> None:
    runs = {"a": predictions(0.4, 1), "b": predictions(0.7, 2)[::-1]}  # in another order
    found = brought(runs, per_class)

    def share(records: list[dict]) -> float:
        if not per_class:
            return sum(r["correct"] for r in records) / len(records)
        own = [[r["correct"] for r in records if r["category"] == name] for name in OPTIONS]
        return sum(sum(one) / len(one) for one in own) / len(own)

    for name, records in runs.items():
        assert found.accuracy(name)[0] == pytest.approx(share(records))
    value, low, high, _ = found.contrast({"b": 1, "a": -1})
    assert value == pytest.approx(share(runs["b"]) - share(runs["a"]))
    assert low is not None and high is not None and low < value < high and high - low < 0.3
    both = {r["id"]: r["correct"] for r in runs["b"]}
    where = [r["correct"] for r in runs["a"] if both[r["id"]]]
    given = found.given("a", "b", True)
    assert given is not None and given[0] == pytest.approx(sum(where) / len(where)) and given[3] == len(where)


def test_answers_that_share_something_are_resampled_together() -> None:
    """All of one category equal, as without an image: wider than questions for themselves."""
    alone = brought({"a": predictions(0.5, 1), "b": predictions(0.5, 2)})
    shared = [{**r, "unit": r["category"]} for r in predictions(0.5, 2)]
    wide = brought({"a": predictions(0.5, 1), "b": shared})
    for unit in (None, wide.units["a"]):
        assert unit is None
    assert wide.units["b"] is not None
    value, low, high, _ = wide.contrast({"b": 1, "a": -1})
    assert value == alone.contrast({"b": 1, "a": -1})[0] and low is not None and high is not None
    assert wide.accuracy("a") == alone.accuracy("a") != wide.accuracy("b")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r[:-1], "birds: b and a answer other questions"),
        (lambda r: [{**x, "answer": "another"} for x in r], "b and a have other right answers"),
        (lambda r: [{**r[0], "correct": None}, *r[1:]], "b has questions without an answer"),
        (lambda r: [{**x, "kind": ("open", "yesno")[n % 2]} for n, x in enumerate(r)], "b has open, yesno"),
    ],
)
def test_runs_that_cannot_be_compared(change: Any, why: str) -> None:
    with pytest.raises(FgvrError, match=why):
        brought({"a": predictions(0.5, 1), "b": change(predictions(0.5, 2))})


def test_open_answers_by_finers_em() -> None:
    """A sentence that holds the name is right; of several levels none can be chosen."""
    rows = [{"id": f"{n}", "image": f"{n}", "kind": "open", "answer": "Kite", "prediction": text, "correct": False}
            for n, text in enumerate(("It is a Kite.", "An owl"))]  # fmt: skip
    own = Scored()
    assert not list(own.take(rows))
    assert answers("birds", {"a": own.predictions}, False, "em").accuracy("a")[0] == 0.5
    assert answers("birds", {"a": own.predictions}, False).accuracy("a")[0] == 0
    mixed = Scored()
    assert not list(mixed.take([{**row, "level": level} for row, level in zip(rows, ("fine", "coarse"), strict=True)]))
    with pytest.raises(FgvrError, match="a has no open answers at one level"):
        answers("birds", {"a": mixed.predictions}, False, "em")


def test_a_mean_over_data_sets() -> None:
    value, low, high, n = over_sets([(0.4, 0.3, 0.5, 100), (0.6, 0.5, 0.7, 50)])
    assert (value, n) == (0.5, 2) and low == pytest.approx(0.5 - 0.1 / 2**0.5) and high == pytest.approx(1 - low)
    assert over_sets([(0.4, 0.35, 0.6, 100)]) == (0.4, 0.35, 0.6, 1)
    assert over_sets([(0.4, 0.3, 0.5, 100), (0.2, None, None, 1)]) == (pytest.approx(0.3), None, None, 2)


CELLS = [f"{llm}+{vision}" for llm in ("small", "large") for vision in ("clip", "dfn")]


def grid() -> Study:
    shares = {"small+clip": 0.3, "small+dfn": 0.5, "large+clip": 0.4, "large+dfn": 0.8}
    sets = {name: brought({cell: predictions(share, n) for n, (cell, share) in enumerate(shares.items())})
            for name in ("birds", "vqa")}  # fmt: skip
    return Study(sets, ["vqa"], factors=["language model", "encoder"], stairs=[CELLS[0], CELLS[1], CELLS[3]])


def test_a_grid_has_effects_and_stairs() -> None:
    study = grid()
    records = list(study.records())
    value = {(r["run"], r.get("dataset") or r.get("of")): r["value"] for r in records if r["metric"] in
             ("accuracy", "mean")}  # fmt: skip
    effect = {(r["factor"], r["of"]): r for r in records if r["metric"] == "effect"}
    assert set(effect) == {(f, of) for f in ("language model", "encoder") for of in ("fine-grained", "general")}
    one = effect["encoder", "fine-grained"]
    assert (one["from"], one["to"], one["n"]) == ("clip", "dfn", 2)
    gains = [value[f"{llm}+dfn", "birds"] - value[f"{llm}+clip", "birds"] for llm in ("small", "large")]
    assert one["value"] == pytest.approx(sum(gains) / 2) and one["low"] < one["value"] < one["high"]
    pairs = [(r["against"], r["run"]) for r in records if r["metric"] == "difference" and r["of"] == "general"]
    assert pairs == [("small+clip", "large+clip"), ("small+dfn", "large+dfn"),
                     ("small+clip", "small+dfn"), ("large+clip", "large+dfn")]  # fmt: skip
    lines = table(study)
    steps = [line for line in lines if line.startswith("large+dfn")]
    assert len(steps) == 2 and f"{100 * value['large+dfn', 'birds']:.1f}" in steps[1]
    step = next(r for r in records if r["metric"] == "step" and r["run"] == "large+dfn" and r["of"] == "general")
    assert f"{100 * step['value']:+.1f} [" in steps[1]


def test_models_beside_their_encoders() -> None:
    sets = {"birds": brought({"m": predictions(0.5, 1), "clip": predictions(0.8, 2)}),
            "pets": brought({"m": predictions(0.4, 3), "clip": predictions(0.9, 4)}, True)}  # fmt: skip
    study = Study(sets, encoders={"m": "clip"}, scores={"m": {"mmmu": 0.4, "mmstar": 0.5}})
    records = list(study.records())
    assert study.models == ["m"]
    gap = next(r for r in records if r["metric"] == "gap" and r.get("of"))
    assert gap["value"] == pytest.approx(sum(
        sets[s].accuracy("m")[0] - sets[s].accuracy("clip")[0] for s in sets) / 2)  # fmt: skip
    right, wrong = (next(r for r in records if r["metric"] == f"accuracy where the encoder is {word}"
                         and r.get("dataset") == "birds") for word in ("right", "wrong"))  # fmt: skip
    clip, own = (sets["birds"].accuracy(run)[0] for run in ("clip", "m"))
    assert right["value"] * clip + wrong["value"] * (1 - clip) == pytest.approx(own), "FOCI's sum"
    assert next(r for r in records if r.get("of") == "general")["value"] == pytest.approx(0.45)
    head, row = table(study)
    assert head.endswith("where clip wrong") and "45.0" in row
    with pytest.raises(FgvrError, match="'clap'; there are those of m, clip"):
        Study(sets, encoders={"m": "clap"})
    with pytest.raises(FgvrError, match="'m' is not a\\+b; name models so"):
        Study(sets, encoders={"m": "clip"}, factors=["a", "b"])


# --- encoders ---


@pytest.mark.parametrize(
    ("kind", "width", "patch", "size", "want"),
    [
        ("clip_vision_model", 1024, 14, 336, "ViT-L-14-336/openai"),
        ("idefics2_vision", 1152, 14, 980, "ViT-SO400M-14-SigLIP-384/webli"),
        ("siglip_vision_model", 1152, 14, 224, "ViT-SO400M-14-SigLIP/webli"),
        ("smolvlm_vision", 768, 16, 512, "ViT-B-16-SigLIP-512/webli"),
        ("qwen2_vl", 1280, 14, 0, "ViT-H-14-378-quickgelu/dfn5b"),
        ("qwen2_5_vl", 1280, 14, 0, None),
        ("internvl_vision", 1024, [14, 14], [448, 448], None),
    ],
)
def test_the_clip_of_a_vision_encoder(kind: str, width: int, patch: Any, size: Any, want: str | None) -> None:
    wide = {"hidden_size": 3584, "embed_dim": width} if kind == "qwen2_vl" else {"hidden_size": width}
    more = {"image_size": size} if size else {}
    config = SimpleNamespace(vision_config=SimpleNamespace(model_type=kind, patch_size=patch, **wide, **more))
    if want is None:
        with pytest.raises(FgvrError, match=r"model m: the CLIP of its vision encoder .* is not known; name it"):
            clip_of("m", config)
    else:
        assert clip_of("m", config) == want


def test_a_models_own_clip_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Path(__file__).parents[1] / "examples" / "toy"
    with pytest.raises(FgvrError, match=r"vlm: the CLIP of its vision encoder \(siglip, width 128, patches of 12"):
        open_answerer(f"clip-of:{toy}/vlm", device="cpu")
    monkeypatch.setitem(KNOWN, ("siglip", 128, 12, 96), str(toy / "clip"))
    found: Any = open_answerer(f"clip-of:{toy}/vlm", device="cpu", template="a photo of a {}")
    (scores,) = found.likelihood([Ask("Which?", Image.new("RGB", (96, 96)))], [["Red Kite", "Owl"]])
    assert len(scores) == 2 and found.about["name"] == "clip"


def test_known_clips_are_open_clips() -> None:
    import open_clip

    for name in KNOWN.values():
        architecture, _, tag = name.partition("/")
        assert tag in open_clip.list_pretrained_tags_by_model(architecture), name


def test_configs_of_real_models(shared: Path) -> None:
    from transformers import AutoConfig

    assert clip_of("llava", AutoConfig.from_pretrained(shared / "models" / "llava15_7b_hf")) == "ViT-L-14-336/openai"


# --- general ability ---

LMMS = {"results": {"mmmu_val": {"alias": "mmmu_val", "mmmu_acc,none": 0.4, "mmmu_acc_stderr,none": "N/A"},
                    "mmstar": {"coarse,none": 0.1, "average,none": 0.5, "average_stderr,none": 0.01}}}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("a.csv", "model,mmmu,mmstar\nm,40,0.5\nn,30,\n", {"m": {"mmmu": 0.4, "mmstar": 0.5}, "n": {"mmmu": 0.3}}),
        ("a.csv", "model,mmmu\nm,40\nn,0.5\n", {"m": {"mmmu": 0.4}, "n": {"mmmu": 0.005}}),  # all percentages
        ("a.csv", "Model,Benchmark,Score\nm,mmmu,40\nn,mmmu,1\n", {"m": {"mmmu": 0.4}, "n": {"mmmu": 0.01}}),
        ("a.csv", "Model,Benchmark,Score\nm,mmmu,40\nm,mmstar,50\n", {"m": {"mmmu": 0.4, "mmstar": 0.5}}),
        ("x/m_MMBench_DEV_EN_acc.csv", '"split","Overall","AR"\n"dev","0.73","0.8"\n', {"m": {"MMBench_DEV_EN": 0.73}}),
        ("r.json", json.dumps(LMMS), {"m": {"mmmu_val": 0.4, "mmstar": 0.5}}),
    ],
)
def test_scores_in_every_form(name: str, text: str, want: dict) -> None:
    assert general.read(name, text.encode(), None if "odel" in text else "m") == want


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"results": {"mmmu": {"acc,none": 0.4}}}', "does not say whose scores"),
        ('"split","Overall"\n"dev","0.7"\n', "does not say whose scores"),
        ("model,mmmu\nm,120\n", "neither a share nor a percentage"),
        ("model,mmmu\nm,good\n", "could not convert"),
        ("model,mmmu\nm,40\nm,50\n", "mmmu has the scores 40 and 50"),
        ("{}", "'results'"),
        ("", "holds no scores"),
    ],
)
def test_scores_that_cannot_be_read(text: str, why: str) -> None:
    with pytest.raises(FgvrError, match=f"--general a.csv: .*{why}"):
        general.read("a.csv", text.encode())


def test_only_benchmarks_that_all_have_count() -> None:
    parts = {"1": {"m": {"a": 0.1, "b": 0.2}}, "2": {"n": {"b": 0.3}, "other": {"c": 0.1}}}
    assert general.joined(parts, ["m", "n", "clip"]) == {"m": {"b": 0.2}, "n": {"b": 0.3}}
    with pytest.raises(FgvrError, match="another b of m"):
        general.joined({**parts, "3": {"m": {"b": 0.9}}}, ["m", "n"])
    with pytest.raises(FgvrError, match="benchmark in common"):
        general.joined(parts, ["x"])


# --- figures ---


def test_labels_keep_clear_of_each_other() -> None:
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib import pyplot

    from fgvr.analysis.charts import label

    draw = Random(0)
    places = [(50 + draw.gauss(0, 1), 60 + draw.gauss(0, 1)) for _ in range(15)]
    figure, axes = pyplot.subplots(figsize=(7, 5), dpi=150, layout="constrained")
    axes.scatter(*zip(*places, strict=True))
    texts = label(axes, places, [f"Some-Model-{n}B-Chat" for n in range(15)])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts]
    clashes = [(a, b) for a in range(15) for b in range(a) if boxes[a].overlaps(boxes[b])]
    pyplot.close(figure)
    assert not clashes


def test_the_command(tmp_path: Path) -> None:
    """Records, a table, figures; the same bytes again; bad words in one line."""
    argv = ["study"]
    for n, cell in enumerate(CELLS):
        for name in ("birds", "vqa"):
            path = write_jsonl(tmp_path / f"{name}-{cell}.jsonl", predictions(0.3 + n / 10, n, 60))
            argv.append(f"{name}/{cell}={path}")
    more = ["--general-sets", "vqa", "--factors", "language model,encoder", "--step", CELLS[0], "--step", CELLS[3]]
    more += ["--encoder", f"{CELLS[0]}={CELLS[3]}"]
    (tmp_path / "s.csv").write_text("model,mmmu\n" + "".join(f"{cell},{n}0\n" for n, cell in enumerate(CELLS, 1)))
    out = tmp_path / "out.jsonl"
    shown = [*argv, *more[:-2], "--general", str(tmp_path / "s.csv"), "-o", str(out), "--plots", str(tmp_path / "f")]
    done = CliRunner().invoke(cli, shown)
    assert done.exit_code == 0, (done.output, done.exception)
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    assert set(drawn) == {f"{n}.{end}" for n in ("scatter", "factors", "stairs") for end in ("png", "svg")}
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {"accuracy", "mean", "score", "effect", "difference", "step"} == {record["metric"] for record in found}
    first = out.read_bytes()
    assert CliRunner().invoke(cli, shown).exit_code == 0 and out.read_bytes() == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()} == drawn
    told = CliRunner().invoke(cli, [*argv, "--table", *more[:4]]).output
    assert "effect of" in told and "fine-grained mean" in told
    for words, why in (
        ([*argv, argv[1]], "birds/small+clip comes twice"),
        ([*argv, "--encoder", "a"], "--encoder 'a' is not MODEL=RUN"),
        ([*argv, "--encoder", "small+clip=a", "--encoder", "small+clip=b"], "--encoder names a model twice"),
        (["study", "birds=x"], "is not DATASET/RUN=FILE"),
        ([*argv, "--general-sets", "x"], "--general-sets x: there is no such data set"),
    ):
        failed = CliRunner().invoke(cli, words)
        assert failed.exit_code and why in f"{failed.output}{failed.exception}"
