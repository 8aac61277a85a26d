"""Other tools' files: what is written can be read back, and FineR's published files give what they must."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from fgvr import prompts
from fgvr.errors import FgvrError, RecordError, UsageError
from fgvr.records import Record
from fgvr.stages import convert
from fgvr.stream import Bad, each

TRIPLES = [
    {"id": f"i{n}", "image": f"a b/{n}.jpg", "superclass": "bird", "category": f"Kite, \"{n}\"", "description": text,
     "negatives": [{"category": f"Owl {k}", "description": f"d{k}\nmore, text"} for k in range(n)]}
    for n, text in enumerate(["A bird.", 'Says "é", twice.\nOn two lines.', "A\tbird; it's <b>."])
]  # fmt: skip
OPTIONS = ["Kite", "Owl, Barn", "Crow"]
ASKED = [
    {"id": "q0", "image": "0.jpg", "kind": "open", "question": "What is this?", "answer": "Kite"},
    {"id": "q1", "image": "0.jpg", "kind": "mcq", "question": "Which of\nthese?", "options": OPTIONS, "answer": "Crow",
     "answer_index": 2},
]  # fmt: skip
KEPT = ("superclass", "category", "description", "negatives", "kind", "question", "options", "answer", "answer_index")


def written(records: list[Record], kind: str) -> bytes:
    rows = [row for row in each(records, convert.WRITERS[kind]) if isinstance(row, dict)]
    assert len(rows) == len(records)
    return convert.as_csv(rows) if kind.endswith("csv") else b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(data: bytes, kind: str, **more: object) -> list:
    return list(convert.read(iter(io.BytesIO(data)), kind, "file", **more))  # type: ignore[arg-type]


def of(record: Record, fields: tuple[str, ...]) -> Record:
    return {name: record[name] for name in ("image", *fields) if name in record}


@pytest.mark.parametrize("kind", ["llava", "sharegpt", "trl", "finetune-csv"])
def test_questions_come_back(kind: str) -> None:
    data = written(ASKED, kind)
    found = read(data, kind)
    assert [of(record, KEPT) for record in found] == [of(record, KEPT) for record in ASKED]
    assert written(found, kind) == data if kind.endswith("csv") else [r["id"] for r in found] == ["q0", "q1"]


@pytest.mark.parametrize("kind", ["llava", "sharegpt", "trl"])
def test_triples_come_back_as_far_as_a_conversation_holds_them(kind: str) -> None:
    found = read(written(TRIPLES, kind), kind)
    assert found == [{k: r[k] for k in ("id", "image", "superclass", "description")} for r in TRIPLES]
    whole = json.dumps([json.loads(line) for line in written(TRIPLES, kind).splitlines()]).encode()
    assert read(whole, kind) == found, "an array of them too"


def test_mined_triples_come_back_from_finedefics_columns() -> None:
    data = written(TRIPLES, "pretrain-csv")
    found = read(data, "pretrain-csv")
    assert [of(record, KEPT) for record in found] == [of(record, KEPT) for record in TRIPLES]
    assert written(found, "pretrain-csv") == data
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert rows[2]["neg_category"] == "Owl 0\t\nOwl 1" and rows[2]["image_path"] == "a b/2.jpg"
    assert rows[2]["answer"] == rows[2]["attribute"] == TRIPLES[2]["description"] and rows[0]["type"] == "single"


def test_the_forms_themselves() -> None:
    assert convert.to_llava(ASKED[0])["conversations"] == [
        {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "Kite"}
    ]  # fmt: skip
    assert convert.to_sharegpt(ASKED[0])["images"] == ["0.jpg"]
    assert convert.to_sharegpt(ASKED[0])["conversations"][0]["value"].startswith("<image>")
    assert convert.to_trl(ASKED[1])["messages"][1] == {"role": "assistant", "content": [{"type": "text", "text": "C"}]}
    assert convert.to_trl(ASKED[1])["messages"][0]["content"][0] == {"type": "image"}
    assert convert.to_finetune(ASKED[1])["question"].endswith(
        "C. Crow\nAnswer with the letter from the given choices directly."
    )


TURNS = [{"question": "Which kind?", "answer": "A kite."}, {"question": "Which one?", "answer": "Red Kite"}]


@pytest.mark.parametrize("kind", ["llava", "sharegpt", "trl"])
def test_dialogues_come_back(kind: str) -> None:
    record = {"id": "1", "image": "0.jpg", "kind": "dialogue", "turns": TURNS, "answer": "Red Kite"}
    assert read(written([record], kind), kind) == [record]


@pytest.mark.parametrize(
    ("turns", "more", "why"),
    [
        (["human", "gpt", "human"], {}, "its turns are human, gpt, human; a record has a question and a reply in turn"),
        (["system", "human"], {}, "its turns are system, human"),
        (["human", "gpt"], {"image": None, "first": "<image>\n"}, "shows an image (<image>), but it names none"),
        (["human", "gpt"], {"image": None, "images": ["a", "b"]}, "has 2 images"),
        (["human", "gpt", "human", "gpt"], {"last": "<image>"}, "shows its image after the first question"),
    ],
)
def test_conversations_that_are_no_records(turns: list[str], more: Record, why: str) -> None:
    said = [{"from": role, "value": f"{n}"} for n, role in enumerate(turns)]
    said[-1]["value"] += more.pop("last", "")
    said[0]["value"] += more.pop("first", "")
    (found,) = read(json.dumps({"id": "1", "image": "a.jpg", "conversations": said, **more}).encode(), "llava")
    assert isinstance(found, Bad) and why in found.error


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("pretrain-csv", {"category": "None"}, "category 'None' would be read as missing"),
        ("pretrain-csv", {"negatives": [{"category": "a\t\nb", "description": ""}]}, "parts negatives"),
        ("pretrain-csv", {"negatives": None}, "run `fgvr mine-negatives` first"),
        ("llava", {"description": "a <image> b"}, "take for the image"),
        ("trl", {"image": None}, "record has no 'image'"),
        ("sharegpt", {"description": None}, "run `fgvr summarise` first"),
        ("trl", {**ASKED[1], "answer": "Robin"}, "none of the options"),
    ],
)
def test_records_that_cannot_be_written(kind: str, change: Record, why: str) -> None:
    (found,) = each([{**TRIPLES[0], **change}], convert.WRITERS[kind])
    assert isinstance(found, Bad) and why in found.error


@pytest.mark.parametrize("kind", ["llava", "sharegpt", "trl"])
def test_records_without_an_image_come_back(kind: str) -> None:
    """As such, with their texts as they are, a request to describe the bird in an image that is not there too."""
    text = {"modality": "text"}
    records = [
        {"id": "1", "kind": "dialogue", "turns": TURNS, "answer": "Red Kite", **text},
        {"id": "2", "kind": "open", "question": "\nWhat is taxonomy?\n", "answer": "A science.\n", **text},
        {"id": "3", "kind": "open", "question": prompts.describe("bird"), "answer": "There is none.", **text},
        {key: value for key, value in ASKED[1].items() if key != "image"} | text,
    ]
    data = written(records, kind)
    assert read(data, kind) == records and b"<image>" not in data
    bare = [{key: v for key, v in json.loads(line).items() if key not in ("id", "image", "images")}
            for line in data.splitlines()]  # fmt: skip
    found = read(json.dumps(bare).encode(), kind)
    assert len({record["id"] for record in found}) == 4
    assert [{**record, "id": ""} for record in found] == [{**record, "id": ""} for record in records]


@pytest.mark.parametrize("kind", ["llava", "sharegpt", "trl"])
def test_a_record_without_an_image(kind: str) -> None:
    with pytest.raises(RecordError, match="record has no 'image'"):
        convert.WRITERS[kind]({key: value for key, value in ASKED[0].items() if key != "image"})


def test_files_that_are_something_else() -> None:
    for data, kind in ((b"a,b\n1,2\n", "pretrain-csv"), (b"3", "llava"), (b"{]", "trl"), (b"", "finetune-csv")):
        with pytest.raises(FgvrError, match=f"file: is no {kind} file"):
            read(data, kind)
    for line, kind in (
        (b'{"conversations":[]}', "llava"),
        (b'{"a":1}\n[2]', "trl"),
        (b"type,question,answer\nmulti-image,a,b\n", "pretrain-csv"),
    ):
        found = read(line, kind)
        assert found and all(isinstance(item, Bad) and item.where == f"file:{n}" for n, item in enumerate(found, 1))


def test_ids_are_made_unique() -> None:
    rows = b"type,image_path,question,answer,attribute\nsingle,a.jpg,Q?,A,\nsingle,a.jpg,R?,B,\n"
    assert [record["id"] for record in read(rows, "finetune-csv")] == ["a.jpg", "a.jpg/2"]


def test_finer_pairs() -> None:
    text = "['bill shape', 'leg''wing']"
    names = convert.attribute_names(text)
    assert names == ["bill shape", "legwing"]
    data = json.dumps({"Crow_1": ["a bird", "long", "red"], "Owl_Barn_2": ["b"]}).encode()
    good, bad = read(data, "finer-pairs", names=names, superclass="flower")
    assert good == {
        "id": "Crow_1", "superclass": "flower", "category": "Crow", "finer_class": "Crow",
        "attributes": {prompts.GENERAL: "a bird", "bill shape": "long", "legwing": "red"},
    }  # fmt: skip
    assert isinstance(bad, Bad) and "has 1 answers for 2 attributes" in bad.error
    assert "category" not in read(data, "finer-pairs", names=names, superclass="bird")[0]
    assert convert.attribute_names('{"attribute":"a"}\n{"attribute":"General description of the image"}\n') == ["a"]


@pytest.mark.parametrize(
    ("reply", "text", "names"),
    [
        ('Summary: a.\nOutput JSON:\n{"A": [], " B ": []}\n', '{"A": [], " B ": []}', ["A", "B"]),
        ('{"A": []}', '{"A": []}', ["A"]),
        ('Output JSON: "A": ["x"], "B": ["y"]', '{"A": ["x"], "B": ["y"]}', ["A", "B"]),
        ('Output JSON: "A": ["x"]', '{"A": ["x"]}', ["A"]),
        ("no", "{no}", None),
    ],
)
def test_finer_replies(reply: str, text: str, names: list[str] | None) -> None:
    assert convert.trimmed(reply) == text and convert.guessed(text) == names
    assert read(json.dumps({"k_0": reply}).encode(), "finer-replies") == [{"id": "k_0", "json": text, "names": names}]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgvr.cli.convert import command

    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in TRIPLES))

    def run(*words: str) -> object:
        return CliRunner().invoke(command, words).exception

    assert run("--to", "pretrain-csv", "in.jsonl", "-o", "out.csv") is None
    assert Path("out.csv").read_bytes() == written(TRIPLES, "pretrain-csv")
    assert json.loads(Path("out.csv.run.json").read_text())["output"]["records"] == 3
    assert run("--to", "pretrain-csv", "in.jsonl", "--resume", "-o", "out.csv") is None
    assert run("--from", "pretrain-csv", "--to", "llava", "out.csv", "-o", "llava.jsonl") is None
    assert run("--from", "llava", "llava.jsonl", "-o", "back.jsonl") is None
    back = [json.loads(line) for line in Path("back.jsonl").read_text().splitlines()]
    assert [record["description"] for record in back] == [record["description"] for record in TRIPLES]
    for words, why in (((), "give --to or --from"), (("--from", "finer-pairs"), "--attrs FILE go together")):
        error = run(*words, "in.jsonl")
        assert isinstance(error, UsageError) and why in str(error)


# -- FineR's published files (FGVR_SHARED); counts of names: systems.md, section 6, rows 5 and 7 --

SETS = {
    ("bird", 1): (7, 247),
    ("bird", 3): (10, 492),
    ("flower", 1): (0, 263),
    ("flower", 3): (3, 700),
    ("pokemon", 3): (0, 47),
}


@pytest.fixture
def finer(shared: Path) -> Path:
    return shared / "reference" / "finer_vocabulary_free"


def test_every_raw_reply_is_trimmed_as_published(finer: Path) -> None:
    total = 0
    for path in sorted(finer.glob("*_llm_replies_raw_*.json")):
        published = json.loads((finer / path.name.replace("_raw_", "_jsoned_")).read_text())
        found = read(path.read_bytes(), "finer-replies")
        assert {record["id"]: record["json"] for record in found} == published
        total += len(found)
    assert total == 332


@pytest.mark.parametrize(("name", "k"), SETS)
def test_every_list_of_names_is_reproduced(finer: Path, name: str, k: int) -> None:
    found = read((finer / f"{name}_llm_replies_jsoned_{k}.json").read_bytes(), "finer-replies")
    undecodable = sum(record["names"] is None for record in found)
    names = {guess for record in found for guess in record["names"] or ()}
    assert (undecodable, len(names)) == SETS[name, k]
    assert Counter(names) == Counter(json.loads((finer / f"{name}_llm_gussed_names_{k}.json").read_text()))


@pytest.mark.parametrize(("name", "k"), [("bird", 1), ("flower", 1), ("pokemon", 3)])
def test_every_prompt_is_rebuilt_byte_for_byte(finer: Path, name: str, k: int) -> None:
    """With FineR's own template, taken from its first prompt."""
    published = json.loads((finer / f"{name}_llm_prompts_{k}.json").read_text())
    names = convert.attribute_names((finer / f"{name}_vqa_questions.txt").read_text())
    names = ["number of number of petals" if n == "number of petals" else n for n in names]  # as its prompts have it
    pairs = read((finer / f"{name}_attributes_pairs_{k}.json").read_bytes(), "finer-pairs", names=names)
    values = {record["id"]: record["attributes"] for record in pairs}
    first = next(iter(published))
    template = as_template(published[first], values[first])
    assert template.count("{attribute}") == 1 and template.count("{general}") == 1
    rebuilt = {key: prompts.summarise(name, values[key], template) for key in published}
    assert rebuilt == published


def as_template(prompt: str, values: dict[str, str]) -> str:
    """A prompt with its values taken out again."""
    lines: list[str] = []
    listed = [(n, v) for n, v in values.items() if n != prompts.GENERAL]
    for line in prompt.split("\n"):
        if line.strip() == f"'''General Description''': '''{values[prompts.GENERAL]}'''":
            line = line.replace(values[prompts.GENERAL], "{general}")
        pair = next(((n, v) for n, v in listed if line.strip() == f"- '''{n}''': '''{v}'''"), None)
        if pair is not None:
            if pair != listed[0]:
                continue
            line = line.split("-")[0] + "- '''{attribute}''': '''{value}'''"
        lines.append(line)
    return "\n".join(lines)


def test_finer_s_names_are_no_near_duplicates_of_each_other(finer: Path) -> None:
    for path in finer.glob("*_vqa_questions.txt"):
        names = ast.literal_eval(path.read_text())
        assert prompts.merged(names) == names


@pytest.mark.parametrize("negative", [None, "Emu", ["Emu"], {"category": "Emu"}, {"category": "Emu", "description": 4}])
def test_negatives_without_descriptions_are_a_fault_of_their_record(negative: object) -> None:
    """As mine-negatives --of names makes them."""
    triple = {"id": "a", "image": "a.png", "category": "Kiwi", "description": "Brown.", "negatives": [negative]}
    with pytest.raises(RecordError, match=r"^a negative has no 'description'; run `fgvr mine-negatives` again$"):
        convert.to_pretrain(triple)
    with pytest.raises(RecordError, match=r"^'options' must be a list"):
        convert.to_llava({"id": "a", "image": "i", "kind": "mcq", "question": "?", "answer": "b", "options": 4})


@pytest.mark.parametrize(
    "text", ["", "[", "5", "None", "{}", "[1]", '{"name": "a"}', '{"attribute": 4}', "<html>", "[" * 9999]
)
def test_what_is_no_list_of_attributes(text: str) -> None:
    with pytest.raises(FgvrError, match=r"^--attrs: neither a list of names nor attribute records"):
        convert.attribute_names(text)


@pytest.mark.parametrize("kind", ["pretrain-csv", "finetune-csv", "llava", "sharegpt", "trl"])
def test_what_is_of_another_form_is_told_the_right_one(kind: str) -> None:
    data = b"question,answer\na,b\n" if kind.endswith("csv") else b'[{"conversations": 3}]'
    (found,) = convert.read(iter(data.splitlines(True)), kind, "in")
    wanted = "a row with type, image_path" if kind.endswith("csv") else "an object with "
    assert str(found).startswith(f"in:1: is no {kind} record, which is {wanted}")


@pytest.mark.parametrize("kind", ["finer-pairs", "finer-replies"])
def test_records_in_the_place_of_pairs_are_faults(kind: str) -> None:
    (found,) = convert.read(iter([b'[{"id": "a", "image": "b", "category": "c"}]']), kind, "in")
    assert str(found).startswith(f"in:1: is no {kind} record, which is a ")
    with pytest.raises(FgvrError, match=f"^in: is no {kind} file"):
        list(convert.read(iter([b"[" * 99999]), kind, "in"))


def test_convert_counts_the_records_of_an_array_and_names_a_system_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JSON array has one line; what counts are its elements."""
    from fgvr.cli.convert import command

    monkeypatch.chdir(tmp_path)
    turns = [{"from": "human", "value": "A colour?"}, {"from": "gpt", "value": "Red."}]
    array = [{"conversations": turns}, {"conversations": [{"from": "system", "value": "Be kind."}, *turns]}]
    Path("in.json").write_text(json.dumps(array, indent=1))
    words = ["--from", "sharegpt", "--on-error", "skip", "--errors", "bad.jsonl", "in.json", "-o", "out.jsonl"]
    done = CliRunner().invoke(command, words)
    assert done.exception is None and "1 of 2 records skipped" in done.stderr
    assert json.loads(Path("out.jsonl.run.json").read_text())["inputs"][0]["records"] == 2
    assert "no system turn" in json.loads(Path("bad.jsonl").read_text())["error"]
