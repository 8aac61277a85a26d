"""score --published: a paper's table with this run's figures in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fgvr.analysis.published import FIELDS, in_table
from fgvr.errors import FgvrError
from tests.procs import FRESH, ROOT, read_jsonl, run, write_jsonl

PAPER = ROOT / "examples" / "papers" / "finedefics.jsonl"
PART = {
    "table": "2", "caption": "Accuracy", "source": "A paper", "scale": 100, "columns": ["Birds", "Avg."],
    "rows": [["Theirs", 47.1, 50], ["Other", None, 66]], "ours": [{"of": {"kind": "mcq", "metric": "accuracy"}}],
}  # fmt: skip
RIGHT = {"kind": "mcq", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 80}


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_figures_stand_below_the_published_ones() -> None:
    figures = [
        {**RIGHT, "run": "before"},
        {**RIGHT, "run": "after", "value": 0.25, "low": None, "high": None, "sd": 0.01},
        {**RIGHT, "run": "after", "against": "before"},  # a difference is none
        {**RIGHT, "run": "after", "position": "A"},  # nor what is of a part
        {**RIGHT, "run": "Birds/other"},
    ]
    text = in_table([PART], figures, "toy")
    assert text.startswith("**Table 2. Accuracy** (A paper)\n\n|")
    head, marks, *found = rows(text)
    assert head == ["", "Birds", "Avg.", "toy"] and set("".join(marks)) == {"-", ":"}
    assert found == [
        ["Theirs", "47.10", "50.00", ""], ["Other", "", "66.00", ""],
        ["this run: before", "", "", "50.00 [40.00, 60.00]"], ["this run: after", "", "", "25.00 ± 1.00"],
        ["this run: other", "50.00 [40.00, 60.00]", "", ""],
    ]  # fmt: skip
    assert len({len(line) for line in text.splitlines() if line[:1] == "|"}) == 1, "it reads as text, too"


def test_a_column_of_the_paper_and_a_run_without_name() -> None:
    (row,) = [row for row in rows(in_table([PART], [RIGHT], "Birds")) if row[0] == "this run"]
    assert row == ["this run", "50.00 [40.00, 60.00]", ""]


def test_what_is_not_there_is_said_once() -> None:
    wanted = [{"row": row, "of": {"kind": "mcq", "metric": "accuracy", "run": run}, "else": "make it"}
              for row, run in (("A", "a"), ("B", "b"), ("C", "c"))]  # fmt: skip
    placed = {"row": "D", "placed": True, "of": {"kind": "mcq", "metric": "accuracy"}}
    text = in_table([{**PART, "ours": [*wanted, placed], "note": "A note."}], [{**RIGHT, "run": "b"}], "toy")
    assert "this run: B" in text and "this run: D" not in text
    assert text.endswith("\nA note.\n\nNo figure here of A, C: make it.\n")


def test_the_command(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "paper.jsonl", [PART, {**PART, "table": "8", "scale": 1}])
    write_jsonl(tmp_path / "m.jsonl", [RIGHT])
    ended = run([FRESH, "score", "--published", "paper.jsonl:8", "-o", "t.md", "m.jsonl"], tmp_path)
    assert (ended.status, ended.err) == (0, "")
    made = (tmp_path / "t.md").read_text()
    assert "| 0.500 [0.400, 0.600] |" in made and "| this data set |" in " ".join(made.split())
    told = json.loads((tmp_path / "t.md.run.json").read_text())
    assert told["settings"]["published_table"] == "8" and len(told["inputs"]) == 2


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["--published", "paper.jsonl"], 2, "'paper.jsonl' is not FILE:TABLE"),
        (["--published", "no.jsonl:2"], 2, "cannot read 'no.jsonl': no such file"),
        (["--published", "paper.jsonl:3"], 1, "paper.jsonl: no table '3'; there are 2"),
        (["--published", "m.jsonl:3"], 1, "m.jsonl:1: record has no 'table'"),
        (["--published", "paper.jsonl:2", "--write-format", "foci"], 2, "holds one run"),
    ],
)
def test_what_is_refused(tmp_path: Path, argv: list[str], status: int, words: str) -> None:
    write_jsonl(tmp_path / "paper.jsonl", [PART])
    write_jsonl(tmp_path / "m.jsonl", [RIGHT])
    ended = run([FRESH, "score", *argv, "m.jsonl"], tmp_path)
    assert ended.status == status and words in ended.err and ended.err.count("\n") == 1


@pytest.mark.parametrize("change", [{"rows": [["x", 1]]}, {"rows": 3}, {"ours": [{}]}, {"scale": "x", "rows": []}])
def test_a_faulty_table(change: dict) -> None:
    with pytest.raises(FgvrError, match="not made as it should be"):
        in_table([{**PART, **change}], [RIGHT], "toy")


def test_finedefics_tables() -> None:
    """Whole, and the means that the paper gives are the means of its columns (Table 7's by 0.02)."""
    parts = read_jsonl(PAPER)
    assert {part["table"] for part in parts} == {str(n) for n in range(1, 11)}
    for part in parts:
        assert set(FIELDS) <= set(part) and re.fullmatch(r"Finedefics, arXiv 2501\.15140, Table \d+", part["source"])
        assert in_table([part], [], "toy")
        for label, *cells in part["rows"] if part["columns"][-1] == "Avg." and len(part["columns"]) > 1 else ():
            *each, mean = cells
            assert mean == pytest.approx(sum(each) / len(each), abs=0.021), (part["table"], label)
