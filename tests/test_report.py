"""fgvr report: what stands on the page, against counts by hand; a browser opens it in test_report_browser.py."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fgvr.cli.group import cli
from fgvr.errors import FgvrError
from fgvr.report import figures, gallery, gather, sections
from fgvr.report import page as page_of
from fgvr.report.tables import Figure, Table, comma_separated, latex, markdown
from fgvr.source import Source
from tests.procs import read_jsonl, write_jsonl

BIRDS = {"Herring_Gull": "Gull", "Ivory_Gull": "Gull", "Arctic_Tern": "Tern", "Least_Tern": "Tern"}


def predictions(right: float, labels: bool = True, count: int = 20) -> list[dict]:
    """Of each bird `count` questions, the first `right` of them right, the others taken for the next bird."""
    names, made = list(BIRDS), []
    for place, name in enumerate(names):
        for n in range(count):
            said = name if n < right * count else names[(place + 1) % 4]
            record = {"id": f"{name}/{n}/mcq", "image": f"{name}/{n}.png", "kind": "mcq", "question": "Which <bird>?",
                      "options": names, "answer": name, "category": name, "superclass": "bird", "raw": said,
                      "prediction": said, "correct": said == name}  # fmt: skip
            more = {"labels": {"coarse": [BIRDS[name]]}, "attributes_true": {"bill": name[0], "leg": "red"}}
            made.append({**record, **(more if labels else {})})
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder: two evaluations, images, logs, a probe, extractions and a map."""
    for name in BIRDS:
        (tmp_path / "images" / name).mkdir(parents=True)
        for n in range(20):
            Image.new("RGB", (40, 30), (n, 90, 90)).save(tmp_path / "images" / name / f"{n}.png")
    write_jsonl(tmp_path / "predictions-before.jsonl", predictions(0.25))
    write_jsonl(tmp_path / "predictions.jsonl", predictions(0.75))
    probe = {"kind": "linear probe", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 80}
    write_jsonl(tmp_path / "probe.jsonl", [{**probe, "pool": "mean"}])
    write_jsonl(tmp_path / "extracted.jsonl", [{**r, "attributes": {"bill": "G"}} for r in images()])
    (tmp_path / "align").mkdir()
    steps = [{"step": n, "loss": 4.0 - n, "tokens": 1560, "texts": 61, "lr": 0.1} for n in (1, 2, 3)]
    write_jsonl(tmp_path / "align" / "log.jsonl", steps)
    places = [{"id": r["id"], "of": "objects", "category": r["category"], "x": n, "y": 0.5, "image": r["image"]}
              for n, r in enumerate(images())]  # fmt: skip
    write_jsonl(tmp_path / "map.jsonl", places)
    return tmp_path


def images() -> list[dict]:
    return [{"id": f"{name}/0", "image": f"{name}/0.png", "category": name, "superclass": "bird"} for name in BIRDS]


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)], catch_exceptions=True)


def page(*arguments: str | Path) -> str:
    done = report(*arguments)
    assert done.exception is None, done.exception
    return done.stdout


def data(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


class Cells(HTMLParser):
    """The rows of each table by its caption's key."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.open: list[list[str]] | None = None
        self.inside = False
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "table":
            self.open = self.tables.setdefault(str(given.get("id", "")).removeprefix("table-"), [])
        elif tag == "tr" and self.open is not None:
            self.open.append([])
        elif tag in ("th", "td") and self.open is not None:
            self.open[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.open = None
        elif tag in ("th", "td"):
            self.inside = False

    def handle_data(self, text: str) -> None:
        if self.open and self.inside:
            self.open[-1][-1] = f"{self.open[-1][-1]} {text.strip()}".strip()


def test_a_run_folder(folder: Path) -> None:
    text = page(folder)
    tables = Cells(text).tables
    rows = {row[1]: row for row in tables["summary"]}
    assert rows["metric"] == ["of", "metric", "before", "after", "after − before", "n"]
    assert [cell.split()[0] for cell in rows["accuracy"][2:5]] == ["0.250", "0.750", "+0.500"]
    groups = {row[0]: row for row in tables["mcq-group"]}
    assert groups["Gull"][1] == "40" and groups["Tern"][3].split()[0] == "0.750"
    assert tables["mcq-granularity"][2][0] == "coarse group"
    assert tables["probe"][1][:2] == ["linear probe", "accuracy, mean"]
    assert tables["training"][1:] == [[folder.name + ": align", "loss", "3", "3.000", "1.000", "1.000"]]
    assert tables["attributes"][1][:2] == ["descriptions", "unknown"]
    assert tables["confused"][1][:2] == ["after", "mcq"]
    found = data(text)
    assert len(found["images"]) > 12 and all(uri.startswith("data:image/jpeg;base64,") for uri in found["images"])
    assert found["map"][0]["traces"][0]["image"] == [0, 1, 2, 3]
    assert "missing" not in text.split("<nav")[0]


def test_confusion_counts_add_up(folder: Path) -> None:
    found = data(page(folder))
    for chart, right in zip(found["confusion"], (15, 5), strict=True):
        cells = chart["cells"]
        triples = {(cells[i], cells[i + 1]): cells[i + 2] for i in range(0, len(cells), 3)}
        assert sum(triples.values()) == 80
        assert all(triples[i, i] == right for i in range(4))
    # categories stand group by group
    assert found["groups"] == ["Gull", "Gull", "Tern", "Tern"]


def test_an_answer_of_the_same_group_is_right_at_that_level(folder: Path) -> None:
    # Herring -> Ivory Gull and Arctic -> Least Tern stay in their group, the other two do not
    rows = Cells(page(folder)).tables["mcq-granularity"]
    assert [row[2].split()[0] for row in rows[1:]] == ["0.750", "0.875"]


def test_errors_have_an_image_examples_and_differences(folder: Path) -> None:
    found = data(page(folder))["errors"]
    assert found["total"] == 80
    one = next(item for item in found["items"] if item["run"] == "after" and item["right"] == "Herring Gull")
    assert (one["given"], one["reply"], one["question"]) == ("Ivory Gull", "Ivory_Gull", "Which <bird>?")
    assert one["image"] is not None and len(found["examples"][one["to"]]) == gallery.EXAMPLES
    assert one["others"] == [["before", "Ivory_Gull"]]
    profile = found["attributes"]
    assert {a for a in profile[one["from"]] if profile[one["from"]][a] != profile[one["to"]][a]} == {"bill"}


def test_frequent_confusions_come_first_and_all_in_turn() -> None:
    wrong = [{"id": str(n), "category": "a", "answer": "a", "prediction": said} for n, said in enumerate("bbbcc")]
    assert [r["prediction"] for r in gallery._in_turn(wrong, 4)] == ["b", "c", "b", "c"]


def test_predictions_alone_and_images_missing(tmp_path: Path) -> None:
    """FOCI's form, without images: a placeholder and a count; groups by the last word of the names."""
    rows = [{"image": r["image"], "predicted": r["prediction"], "predicted_raw": "A", "correct": r["answer"],
             "options": r["options"]} for r in predictions(0.5)]  # fmt: skip
    (tmp_path / "theirs.json").write_text(json.dumps({"predictions": rows}))
    done = report(tmp_path / "theirs.json")
    assert done.exit_code == 0
    assert "40 images are missing" in done.stderr and "--image-root" in done.stderr
    tables = Cells(done.stdout).tables
    assert tables["mcq-granularity"][2][0] == "last word of the name"
    assert {row[0] for row in tables["mcq-group"][1:]} == {"Gull", "Tern"}
    assert tables["provenance"][1][2] == "no run record: evaluated elsewhere"
    assert "<b>40</b> images missing" in done.stdout
    (tmp_path / "images" / "Herring_Gull").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "Herring_Gull" / "19.png")
    (tmp_path / "images" / "Herring_Gull" / "18.png").write_bytes(b"no image")
    done = report(tmp_path / "theirs.json", "--image-root", tmp_path / "images")
    # of the 40 errors' images one is there; of three examples of each bird none
    assert "51 images are missing" in done.stderr and len(data(done.stdout)["images"]) == 1


def test_one_file_without_network_and_safe(folder: Path) -> None:
    """Nothing is loaded from elsewhere, and no name can break out of the page."""
    bad = predictions(0.5)
    for record in bad:
        record["question"] = record["raw"] = "</script><script>alert(1)</script>"
        record["category"] = record["answer"] = record["answer"].replace("Gull", "<b>Gull")
    write_jsonl(folder / "bad.jsonl", bad)
    text = page(f"</title>={folder / 'bad.jsonl'}")
    own = text.replace(library(text), "")
    assert "alert(1)</script>" not in own and "<b>Gull" not in own and "</title>=" not in own
    assert not re.search(r'(src|href)="(?!data:|#)', own) and "url(" not in own and "@import" not in own
    assert data(text)["errors"]["items"][0]["reply"] == "</script><script>alert(1)</script>"


def library(text: str) -> str:
    return max(re.findall(r"<script>(.*?)</script>", text, re.S), key=len)


def test_tables_are_accessible(folder: Path) -> None:
    found = Cells(page(folder))
    heads = [given for tag, given in found.tags if tag == "th"]
    assert heads and all(given.get("scope") in ("col", "row") for given in heads)
    assert all(given.get("aria-label") for tag, given in found.tags if given.get("role") == "img")
    assert ("html", {"lang": "en"}) in found.tags
    ids = [given["id"] for _, given in found.tags if "id" in given]
    assert len(ids) == len(set(ids))
    for _, given in found.tags:
        for name in ("aria-labelledby", "aria-controls", "list"):
            assert given.get(name, ids[0]) in ids


def test_without_plotly_tables_stand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgvr.report.page.plotly", lambda: "")
    text = page(folder)
    assert "pip install 'fgvr[plots]'" in text and Cells(text).tables["summary"]


def test_equal_runs_give_equal_bytes(folder: Path) -> None:
    first = folder / "a.html"
    assert report(folder, "-o", first).exit_code == 0
    assert first.read_text() == page(folder)
    record = json.loads((folder / "a.html.run.json").read_text())
    assert record["settings"]["runs"] == [None]
    names = [entry["name"] for entry in record["inputs"]]
    assert {"predictions.jsonl", "predictions-before.jsonl", "extracted.jsonl", "align/log.jsonl"} <= set(names)


def test_no_model_library_is_loaded(folder: Path) -> None:
    import subprocess
    import sys

    program = "import sys; from fgvr.cli.main import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
    arguments = ["report", folder, "-o", folder / "x.html"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_tables_in_files(folder: Path, tmp_path: Path) -> None:
    page(folder, "--tables", tmp_path / "t")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "t" / "mcq-category.csv").read_text())))
    assert len(rows) == 4 and float(rows[0]["after"]) == 0.75 and float(rows[0]["after low"]) < 0.75
    text = page(folder, "--latex")
    assert text.count(r"\begin{tabular}") == len(list((tmp_path / "t").glob("*.tex")))


def test_figures_in_files(folder: Path, tmp_path: Path) -> None:
    """A matrix a run, answers that the last run corrects, errors beside the category given; equal runs, equal bytes."""
    for name in ("a", "b"):
        done = report(folder, "--figures", tmp_path / name, "-o", folder / "r.html")
        assert done.exception is None and done.stderr == ""
    made = sorted(path.name for path in (tmp_path / "a").iterdir())
    names = ["changed-mcq", "confusion-mcq-after", "confusion-mcq-before", "errors-mcq"]
    assert made == [f"{name}{form}" for name in names for form in (".png", ".svg")]
    for name in made:
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes() and len(data) > 4000
    with Image.open(tmp_path / "a" / "errors-mcq.png") as image:
        assert image.width > 600 and len(image.convert("RGB").getcolors(1 << 24)) > 100


def test_figures_say_who_answered_what(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the first run got wrong and the last one right has changed; differences of attributes are told."""
    drawn: dict[str, list[str]] = {"changed": [], "errors": []}
    for name in drawn:
        note = drawn[name].extend
        monkeypatch.setattr(figures, f"_{name}", lambda items, *_, note=note: note(item["id"] for item in items))
    found = gather.runs_of([(None, str(folder))])
    sources = {file: Source(str(file)) for _, file, _ in found}
    sources |= {file: Source(str(file)) for file in gather.beside(folder).values()}
    material = gather.load(found, sources, list, None, None, lambda line: None)
    for source in sources.values():
        source.close()
    data = page_of.build(material, "t", 50, 60, lambda line: None).data
    [*figures._all(data, material)]
    assert {i.split("/")[1] for i in drawn["changed"]} <= {str(n) for n in range(5, 15)} and len(drawn["changed"]) == 6
    assert {i.split("/")[1] for i in drawn["errors"]} <= {str(n) for n in range(15, 20)} and len(drawn["errors"]) == 4
    assert figures._middles(["Gull", "Gull", "Gull", "", "Jay", "Tern", "Tern"], 2) == {1.0: "Gull", 5.5: "Tern"}
    item = next(i for i in data["errors"]["items"] if i["right"] == "Ivory Gull")
    assert figures._differences(data["errors"]["attributes"], item) == ["bill: I, not A"]


TABLE = Table("t", "A & B", ["name", "run_1", "n"], [["a|b", Figure(0.5, 0.4, 0.6, 0.01), 7], ["c%", None, 1]])


def test_forms_of_a_table() -> None:
    assert "| a\\|b | 0.500 [0.400, 0.600] p 0.01 | 7 |" in markdown(TABLE)
    rows = list(csv.reader(io.StringIO(comma_separated(TABLE))))
    assert rows == [["name", "run_1", "run_1 low", "run_1 high", "run_1 p", "n"],
                    ["a|b", "0.5", "0.4", "0.6", "0.01", "7"], ["c%", "", "", "", "", "1"]]  # fmt: skip
    assert r"\caption{A \& B}" in latex(TABLE) and r"c\% &  & 1 \\" in latex(TABLE) and "{lrr}" in latex(TABLE)


def test_differences_are_over_shared_questions() -> None:
    material = gather.Material()
    for name, marks in (("a", {"1": True, "2": False, "3": True}), ("b", {"2": True, "3": True, "4": False})):
        made = [{"id": i, "kind": "mcq", "category": c, "correct": right} for i, right in marks.items() for c in ("x",)]
        more = {"id": "z", "kind": "mcq", "category": "y", "correct": True}
        material.runs[name] = gather.Run(name, predictions=[*made, more])
    found = sections.by(material, "mcq", "category", "", lambda record: record["category"])
    assert found is not None and found.columns == ["category", "n", "a", "b", "b − a"]
    gain = found.rows[0][-1]
    assert isinstance(gain, Figure) and gain.value == 0.5


@pytest.mark.parametrize(("files", "words"), [
    ({}, "no predictions*.jsonl in it"),
    ({"predictions.jsonl": [{"id": "a", "metric": "x", "kind": "y", "value": 1}]}, "there are no predictions"),
    ({"predictions.jsonl": [{"id": "a", "kind": "mcq"}]}, "nothing to score"),
])  # fmt: skip
def test_nothing_to_report(tmp_path: Path, files: dict, words: str) -> None:
    for name, records in files.items():
        write_jsonl(tmp_path / name, records)
    done = report(tmp_path)
    assert isinstance(done.exception, FgvrError) and words in str(done.exception)


def test_bad_records_are_set_aside(folder: Path) -> None:
    path = folder / "predictions.jsonl"
    write_jsonl(path, [*read_jsonl(path), {"id": "odd", "kind": "mcq", "prediction": "a", "correct": "yes"}])
    assert isinstance(report(path).exception, FgvrError)
    done = report(path, "--on-error", "skip", "-o", folder / "r.html")
    assert done.exit_code == 0 and "'correct' must be" in done.stderr
    assert f"1 of {len(read_jsonl(path))} records skipped" in done.stderr
    assert len(data((folder / "r.html").read_text())["errors"]["items"]) == 20


def test_two_files_of_one_name_need_names(folder: Path) -> None:
    (folder / "other").mkdir()
    write_jsonl(folder / "other" / "predictions.jsonl", predictions(1.0))
    both = folder / "predictions.jsonl", folder / "other" / "predictions.jsonl"
    assert "both called 'predictions'" in str(report(*both).exception)
    rows = Cells(page(f"a={both[0]}", f"b={both[1]}")).tables["summary"]
    assert rows[0][2:5] == ["a", "b", "b − a"]


def test_folders_of_one_name_need_names_and_keep_their_curves(folder: Path, tmp_path_factory: Any) -> None:
    one, other = (shutil.copytree(folder, tmp_path_factory.mktemp(name) / "run") for name in "ab")
    Image.new("RGB", (40, 30), (250, 0, 0)).save(other / "images" / "Herring_Gull" / "0.png")
    done = report(one, other)
    assert isinstance(done.exception, FgvrError)
    assert f"{one} and {other} are both called 'run'; name them" in str(done.exception)
    found = data(page(f"a={one}", f"b={other}"))
    assert [curve["name"] for curve in found["curves"]] == [f"{one}: align", f"{other}: align"]
    first, second = (found["mapImages"][chart["traces"][0]["image"][0]] for chart in found["map"])
    assert first != second  # each map beside its own folder's images


@pytest.mark.parametrize(("fields", "words"), [
    ({"id": [1]}, "'id' must be text"), ({"id": {"a": 1}}, "'id' must be text"),
])  # fmt: skip
def test_an_id_of_a_wrong_type_is_a_bad_record(tmp_path: Path, fields: dict, words: str) -> None:
    write_jsonl(tmp_path / "p.jsonl", [*predictions(0.5), {**predictions(0.5)[0], **fields}])
    done = report(tmp_path / "p.jsonl")
    assert isinstance(done.exception, FgvrError) and words in str(done.exception)


def test_a_repeated_id_leaves_the_first_where_it_is(tmp_path: Path) -> None:
    rows = predictions(0.5)
    write_jsonl(tmp_path / "p.jsonl", [*rows, rows[0]])
    done = report(tmp_path / "p.jsonl", "--on-error", "skip", "--tables", tmp_path)
    assert done.exit_code == 0 and "came before" in done.stderr
    lines = [*csv.DictReader(io.StringIO((tmp_path / "mcq-category.csv").read_text()))]
    assert [int(line["n"]) for line in lines] == [20] * 4


def test_fields_of_other_types_are_shown_as_text(folder: Path) -> None:
    more = {"image": 5, "options": [1, None], "raw": {"said": "x"}, "question": 7}
    write_jsonl(folder / "predictions.jsonl", [{**r, **more} for r in predictions(0.0, count=2)])
    item = data(page(folder / "predictions.jsonl", "--image-root", folder / "images"))["errors"]["items"][0]
    shown = {name: item[name] for name in ("image", "path", "options", "reply", "question")}
    assert shown == {"image": None, "path": "5", "options": ["1", "None"], "reply": '{"said": "x"}', "question": "7"}


@pytest.mark.parametrize("row", [{"x": None, "y": 1}, {"x": 1, "y": "2"}, {"id": "a", "question": "no map"}])
def test_a_file_that_is_no_map(folder: Path, row: dict) -> None:
    write_jsonl(folder / "other.jsonl", [{"x": 1, "y": 2.5}, row])
    done = report(folder, "--map", folder / "other.jsonl")
    assert isinstance(done.exception, FgvrError) and "other.jsonl: record 2 has no place (x, y)" in str(done.exception)


def test_names_from_data_stay_inside_the_folder_and_are_drawn_as_they_are(folder: Path, tmp_path: Path) -> None:
    kinds = {"../../mcq": "a", "../..-mcq": "$x_{$"}
    rows = [{**r, "id": f"{kind}/{r['id']}", "kind": kind, "prediction": r["prediction"] + said,
             "category": r["category"] + said, "answer": r["answer"] + said}
            for kind, said in kinds.items() for r in predictions(0.5)]  # fmt: skip
    write_jsonl(folder / "p.jsonl", rows)
    places = "--tables", tmp_path / "in" / "tables", "--figures", tmp_path / "in" / "figures"
    page(f"$a$={folder / 'p.jsonl'}", "--image-root", folder / "images", *places)
    assert sorted(file.name for file in (tmp_path / "in" / "tables").glob("*mcq-category*.csv")) == [
        "------mcq-category-2.csv", "------mcq-category.csv",
    ]  # fmt: skip
    assert len([*(tmp_path / "in" / "figures").glob("*.png")]) == 4 and len([*(tmp_path / "in").iterdir()]) == 2


def test_names_of_runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One folder: before, after; two: with their names; a folder with one evaluation: its name."""
    other = tmp_path_factory.mktemp("other")
    write_jsonl(other / "predictions.jsonl", predictions(1.0))
    file = folder / "predictions.jsonl"

    def names(*runs: tuple[str | None, Path]) -> list[str]:
        return [name for name, path, _ in gather.runs_of([(n, str(p)) for n, p in runs]) if "probe" not in path.name]

    assert names((None, folder)) == ["before", "after"]
    assert names((None, folder), (None, other)) == [f"{folder.name} before", f"{folder.name} after", other.name]
    assert names(("x", folder), ("y", other)) == ["x before", "x after", "y"]
    assert names((None, folder), (None, file)) == ["before", "after", "predictions"]


def test_the_shared_results(shared: Path, tmp_path: Path) -> None:
    """Finedefics on 200 birds: its own accuracy, and a page below 20 MB."""
    file = shared / "reference" / "finedefics" / "results" / "bird-200--finedefics.json"
    text = page(file)
    assert len(text.encode()) < 20e6
    rows = {row[1]: row[2] for row in Cells(text).tables["summary"]}
    assert rows["accuracy"].startswith("0.480")
    assert len(data(text)["categories"]) == 200
