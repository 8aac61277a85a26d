"""Files of other tools: what is read, what is refused, and that what is written can be read again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fgvr.analysis.formats import FORMATS, read
from fgvr.analysis.writing import Writer
from fgvr.answers import STRATEGIES
from fgvr.errors import FgvrError
from fgvr.settings import Score
from fgvr.source import Source
from fgvr.stream import Bad

BIRDS = ["American Crow", "Blue Jay", "Cardinal", "Dipper"]
Reader = Callable[..., list[Any]]


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Write a file, read it; `say` collects what is said."""

    def work(content: Any, name: str = "file.json", say: list[str] | None = None, **how: Any) -> list[Any]:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content)
        else:
            path.write_text(json.dumps(content, indent=how.pop("indent", None)))
        source = Source(str(path))
        try:
            return list(read(source, say=(say if say is not None else []).append, **how))
        finally:
            source.close()

    return work


def short(records: list[Any]) -> list[tuple]:
    return [(r["kind"], r["answer"], r["prediction"], r["correct"]) for r in records]


def test_the_settings_name_what_there_is() -> None:
    fields = {name: field.metadata["choices"] for name, field in Score.__dataclass_fields__.items()}
    assert fields["format"] == FORMATS and fields["parser"] == tuple(STRATEGIES)


# --- FOCI -------------------------------------------------------------------------------------------------------------


def foci_row(n: int, raw: str, predicted: str, correct: str, **more: Any) -> dict:
    said = {"predicted": predicted, "predicted_raw": raw, "correct": correct}
    return {"image": f"{n}.jpg", **said, "options": BIRDS, **more}


FOCI = [
    foci_row(0, "B", "Blue Jay", "Blue Jay"),
    foci_row(1, "Answer: B", "American Crow", "Blue Jay"),
    foci_row(2, "(C)", "NA ### (C)", "Cardinal"),
    foci_row(2, "D", "Dipper", "Dipper"),
]


@pytest.mark.parametrize("indent", [None, 4])
def test_focis_reading_stands_unless_a_parser_is_named(reader: Reader, indent: int | None) -> None:
    document = {"metrics": {"accuracy": 0.5, "generation_failures": 0.25}, "predictions": FOCI, "config": {}}
    said: list[str] = []
    found = reader(document, indent=indent, say=said)
    assert short(found) == [
        ("mcq", "Blue Jay", "Blue Jay", True),
        ("mcq", "Blue Jay", "American Crow", False),
        ("mcq", "Cardinal", None, False),
        ("mcq", "Dipper", "Dipper", True),
    ]
    assert [r["id"] for r in found] == ["0.jpg/mcq", "1.jpg/mcq", "2.jpg/mcq", "2.jpg#2/mcq"] and not said
    assert found[0]["category"] == "Blue Jay" and found[0]["options"] == BIRDS
    assert [r["correct"] for r in reader(document, parser="strict")] == [True] * 4
    assert short(reader(document, parser="foci-prefix")) == short(found)
    assert short(reader(FOCI)) == short(found), "the bare list"


def test_a_file_that_contradicts_itself_is_named(reader: Reader) -> None:
    said: list[str] = []
    reader({"metrics": {"accuracy": 0.9}, "predictions": FOCI}, say=said)
    assert len(said) == 1 and said[0].endswith("its own accuracy is 0.900000, its predictions give 0.500000")


def test_focis_yes_or_no_and_clip_files(reader: Reader) -> None:
    replies = [("Yes", "yes"), ("nope", "no"), ("Blue", "no")]
    rows = [foci_row(n, raw, raw, gold) for n, (raw, gold) in enumerate(replies)]
    found = reader({"predictions": [{**r, "options": BIRDS[:2]} for r in rows], "metrics": {}})
    assert short(found) == [("yesno", "yes", "yes", True), ("yesno", "no", "no", True), ("yesno", "no", None, False)]
    clip = [{"image": "1.jpg", "prediction": "Dipper", "prediction4": "Blue Jay", "target": "Blue Jay"}]
    found = reader({"metrics": {"acc": 0.0, "acc4": 1.0}, "predictions": clip})
    assert short(found) == [("label", "Blue Jay", "Dipper", False), ("mcq", "Blue Jay", "Blue Jay", True)]


# --- VLMEvalKit -------------------------------------------------------------------------------------------------------

COLUMNS = ("index", "A", "B", "C", "answer", "prediction", "category", "hit")
ROWS = [
    (0, "Crow", "Jay", None, "B", "B. Jay", "fine", 1),
    (1, "Crow", "Jay", "Owl", "C", "hard to say", "fine", 1),
    (1000001, "Owl", "Crow", "Jay", "A", "Owl", "fine", 1),
    (2, None, None, None, "Yes", "yes.", "x", 1),
    (3, None, None, None, "blue jay", "A Blue Jay", "x", 1),
]
TABLE = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
READ = [("mcq", "Jay", "Jay", True), ("mcq", "Owl", None, False), ("mcq", "Owl", "Owl", True),
        ("yesno", "yes", "yes", True), ("open", "blue jay", "A Blue Jay", True)]  # fmt: skip


def spreadsheet(path: Path) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(list(TABLE[0]))
    for row in TABLE:
        book.active.append(list(row.values()))
    book.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("form", ["csv", "tsv", "xlsx", "json", "csv by content"])
def test_vlmevalkit_tables(reader: Reader, tmp_path: Path, form: str) -> None:
    content: Any = TABLE
    if form == "xlsx":
        content = spreadsheet(tmp_path / "made.xlsx")
    elif form != "json":
        with (tmp_path / "made").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(TABLE[0]), delimiter="\t" if form == "tsv" else ",")
            writer.writeheader()
            writer.writerows(TABLE)
        content = (tmp_path / "made").read_bytes()
    said: list[str] = []
    found = reader(content, f"model_birds.{form.split()[0] if ' ' not in form else 'txt'}", said)
    assert short(found) == READ
    assert [(r["id"], r["base"]) for r in found[:3]] == [("0", "0"), ("1", "1"), ("1000001", "1")]
    assert found[0]["topic"] == "fine" and found[0]["category"] == "Jay" and "verdict" not in found[0]
    assert len(said) == 1 and "1 of 5 verdicts are not the file's own" in said[0]


# --- lmms-eval --------------------------------------------------------------------------------------------------------

DOC = {"question": "Which?", "A": "Crow", "B": "Jay", "C": "Owl"}


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"doc": DOC, "target": "B", "filtered_resps": ["B"], "resps": [["B"]]}, ("mcq", "Jay", "Jay", True)),
        ({"doc": DOC, "target": "C", "filtered_resps": "The answer is B"}, ("mcq", "Owl", "Jay", False)),
        ({"doc": {"options": ["Crow", "Jay"]}, "target": "1", "resps": [["hm"]]}, ("mcq", "Jay", None, False)),
        ({"doc": {"choices": "['A. Crow', 'B. Jay']"}, "target": "Jay", "resps": ["(b)"]}, ("mcq", "Jay", "Jay", True)),
        ({"input": "?\nA. Crow\nB. Jay\n", "target": "(A)", "filtered_resps": ["A."]}, ("mcq", "Crow", "Crow", True)),
        ({"target": "E", "filtered_resps": ["E"]}, ("mcq", "E", "E", True)),
        ({"target": "No", "filtered_resps": ["No, none"]}, ("yesno", "no", "no", True)),
        ({"target": "Blue Jay", "filtered_resps": ["a blue jay"]}, ("open", "Blue Jay", "a blue jay", True)),
        ({"doc": DOC, "target": 2, "resps": [[-3.0, False], [-2.0, False], [-1, True]]}, ("mcq", "Owl", "Owl", True)),
    ],
)  # fmt: skip
def test_lmms_evals_samples(reader: Reader, row: dict, want: tuple) -> None:
    lines = "".join(json.dumps({"doc_id": n, **row}) + "\n" for n in range(2))
    assert short(reader(lines, "samples.jsonl")) == [want, want]
    assert short(reader({"args": {}, "logs": [{"doc_id": 0, **row}]})) == [want], "as older versions write them"


def test_verdicts_of_the_log_are_compared(reader: Reader) -> None:
    said: list[str] = []
    row = {"doc_id": 0, "doc": DOC, "target": "B", "filtered_resps": ["A or B"], "exact_match": 1.0}
    reader(json.dumps(row), say=said)
    assert "1 of 1 verdicts are not the file's own" in said[0]


# --- fgvr's own, and faults -------------------------------------------------------------------------------------------


def test_own_predictions_are_read_anew_only_when_asked(reader: Reader) -> None:
    right = {"options": BIRDS, "answer": "Blue Jay", "prediction": "Blue Jay", "correct": True}
    rows = [
        {"id": "a", "kind": "mcq", **right, "raw": "Answer: B"},
        {"id": "b", "kind": "open", **right, "raw": "Blue Jay"},
        {"id": "c", "kind": "mcq", **right, "raw": None},
    ]
    lines = "\n\n".join(map(json.dumps, rows))
    assert reader(lines, "p.jsonl") == reader(rows, "p.json") == rows
    anew = reader(lines, "p.jsonl", parser="foci-prefix")
    assert [r["correct"] for r in anew] == [False, True, True] and anew[0]["prediction"] == "American Crow"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "p.jsonl", "the file is empty"),
        ("\n \n", "p.jsonl", "the file is empty"),
        ({"a": [{"image": "x", "groundtruth": "a"}]}, "o.json", "options of questions, no predictions; make"),
        ({"a": 1}, "o.json", "a JSON document without predictions"),
        ({"predictions": []}, "o.json", "no predictions in it"),
        ('{\n "predictions": [', "o.json", "not valid JSON"),
        ([{"text": "x", "image_id": 3}], "o.json", r"rows of an unknown kind \(fields image_id, text\)"),
        ([3], "o.json", "rows of an unknown kind"),
        (b"PK\x03\x04nothing", "o.xlsx", "not a readable xlsx file"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_predictions(reader: Reader, content: Any, name: str, message: str) -> None:
    how = {"indent": 1} if isinstance(content, dict) else {}
    with pytest.raises(FgvrError, match=f"{name}: .*{message}"):
        reader(content, name, **how)


@pytest.mark.parametrize(
    ("content", "name", "where", "message"),
    [
        ('{"id":"a","kind":"open"}\n\n{"id": "b"', "p.jsonl", ":3", "is the line torn?"),
        ('{"id":"a","kind":"open"}\nNaN\n', "p.jsonl", ":2", "NaN or Infinity is not JSON"),
        ('{"id":"a"}\n{"id":"a"}\n', "p.jsonl", ":2", "id 'a' came before"),
        ('{"id":"a"}\n{"id":7}\n', "p.jsonl", ":2", "'id' must be text"),
        ("index,prediction\n1,B\n", "t.csv", ": row 1", "no 'answer' in the row"),
        ('{"doc_id":0,"target":"D","doc":{"A":"x","B":"y"},"resps":["A"]}', "s.jsonl", ": row 1", "'D' is none of"),
        ('{"doc_id":0,"target":"D"}', "s.jsonl", ": row 1", "no 'filtered_resps'"),
        ({"predictions": [{"image": 3, "predicted": "a", "correct": "a"}]}, "r.json", ": row 1", "must be texts"),
        ({"predictions": [FOCI[0], {"image": "x"}]}, "r.json", ": row 2", "no 'predicted' in the row"),
        ({"predictions": [FOCI[0], 7]}, "r.json", ": row 2", "not an object"),
    ],
)  # fmt: skip
def test_faulty_rows_keep_their_place(reader: Reader, content: Any, name: str, where: str, message: str) -> None:
    *_, last = reader(content, name)
    assert isinstance(last, Bad) and last.where.endswith(f"{name}{where}") and message in last.error


@pytest.mark.parametrize(
    ("form", "said"),
    [("foci", "not a foci file"), ("vlmevalkit", "not a vlmevalkit file"), ("finer", "no line `index | prediction")],
)
def test_a_format_that_is_not_the_files_is_refused(reader: Reader, form: str, said: str) -> None:
    with pytest.raises(FgvrError) as found:
        reader('{"id":"1","kind":"open","answer":"a","prediction":"a"}\n', "own.jsonl", form=form)
    assert said in str(found.value) and "--format" in str(found.value)


def test_a_format_can_be_named(reader: Reader) -> None:
    row = {"doc_id": 1, "target": "B", "filtered_resps": ["B"], "kind": "mcq", "prediction": "x"}
    assert reader([row], "x.json", form="lmms-eval")[0]["answer"] == "B"
    (bad,) = reader([row], "x.json", form="foci")
    assert isinstance(bad, Bad) and "is this the right --format?" in bad.error


# --- writing ----------------------------------------------------------------------------------------------------------

OWN = [
    {"id": f"{n}/mcq", "image": f"{n}.png", "kind": "mcq", "question": "?", "options": BIRDS, "answer": "Blue Jay",
     "category": "Blue Jay", "raw": raw, "prediction": said, "correct": said == "Blue Jay"}
    for n, (raw, said) in enumerate([("B", "Blue Jay"), ("C", "Cardinal"), ("hm", None), (None, "Blue Jay")])
]  # fmt: skip
OPEN = {"id": "0/open", "image": "0.png", "kind": "open", "options": None, "answer": "Blue Jay", "raw": "a blue jay",
        "prediction": "a blue jay", "correct": True}  # fmt: skip


def written(form: str, rows: list[dict], figures: list[dict] | None = None) -> bytes:
    out: list[bytes] = []
    writer = Writer(form, out.append)
    assert list(writer.passing(rows)) == rows
    writer.end("model", figures or [])
    assert writer.left_out == (form == "foci") * sum(row["kind"] == "open" for row in rows)
    return b"".join(out)


@pytest.mark.parametrize(("form", "rows"), [("foci", OWN), ("lmms-eval-samples", [*OWN, OPEN])])
def test_what_is_written_is_read_again(reader: Reader, form: str, rows: list[dict]) -> None:
    assert short(reader(written(form, rows))) == short(rows)


def test_focis_file_has_its_metrics_and_leaves_open_questions_out() -> None:
    figures = [{"kind": "mcq", "metric": m, "value": v, "low": None, "high": None, "n": 4} for m, v in
               (("accuracy", 0.5), ("failure rate", 0.25))]  # fmt: skip
    made = json.loads(written("foci", [*OWN, OPEN], figures))
    assert made["metrics"] == {"generation_failures": 0.25, "accuracy": 0.5} and len(made["predictions"]) == 4
    assert made["predictions"][2]["predicted"] == "NA ### hm"
    assert json.loads(written("foci", []))["predictions"] == []


def test_lmms_evals_results() -> None:
    figures = [
        {"kind": "mcq", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 4},
        {"kind": "mcq", "metric": "failure rate", "value": 0.0, "low": None, "high": None, "n": 5},
        {"kind": "open", "metric": "FINER F1", "value": 0.1, "low": 0, "high": 0.2, "n": 4, "level": "fine"},
    ]
    made = json.loads(written("lmms-eval", OWN, figures))
    assert made["results"]["model_mcq"]["accuracy,none"] == 0.5
    assert made["results"]["model_mcq"]["accuracy_stderr,none"] == pytest.approx(0.1 / 1.96, rel=1e-3)
    assert made["results"]["model_open"]["FINER_F1_fine,none"] == 0.1
    assert made["n-samples"] == {"model_mcq": {"original": 5, "effective": 5}}


@pytest.mark.parametrize(
    ("name", "form", "content"),
    [
        ("page.csv", None, b"<html>\n"),
        ("page", "vlmevalkit", b"404\n"),
        ("page", "finer", b"not found\n"),
    ],
)
def test_a_file_without_predictions_is_no_empty_result(
    name: str, form: str | None, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FgvrError, match="score reads fgvr predictions"):
        list(read(Source(str(path)), form))
