"""fgvr.stream: the codec, reading with faults as values, batching in order, shards."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import random
from pathlib import Path

import pytest

from fgvr import stream
from fgvr.errors import FgvrError, RecordError
from fgvr.stream import Bad, Shard, Source


def read(tmp_path: Path, text: str | bytes, **more: object) -> list[stream.Item]:
    path = tmp_path / "in.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(stream.read(str(path), **more))  # type: ignore[arg-type]


# -- codec --

VALUES = [
    {"b": 1, "a": {"z": [1.5, None, True], "y": ""}},
    {"é": "日本 \u2028 \x7f \" \\ /", "n": -0.0},
    {"long": 123456789012345678901234567890, "small": 18446744073709551616, "float": 0.1},
    {"x": 1e300, "y": 5e-324, "z": 9007199254740993},
]


@pytest.mark.parametrize("value", VALUES)
def test_codec_keeps_values_and_keys(value: dict) -> None:
    line = stream.encode(value)
    assert b"\n" not in line
    again = stream.decode(line.decode())
    assert again == value and list(again) == list(value)
    assert [type(v) for v in again.values()] == [type(v) for v in value.values()]
    assert stream.encode(again) == line


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_encode_refuses_what_json_has_not(bad: float) -> None:
    for record in ({"a": bad}, {"a": [{"b": (1, bad)}], "c": None}, {"n": 2**80, "a": bad}):
        with pytest.raises(ValueError):
            stream.encode(record)
    assert stream.encode({"a": None, "b": "null"}) == b'{"a":null,"b":"null"}'


def test_encode_refuses_half_a_character() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        stream.encode({"a": "\ud800"})


@pytest.mark.parametrize("text", ["NaN", '{"a":NaN}', "[-Infinity]", "1e999", '{"a":1}x', "", "{'a':1}"])
def test_decode_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        stream.decode(text)


# -- reading --


def test_read_ignores_blank_lines_and_counts_records(tmp_path: Path) -> None:
    source = Source(str(tmp_path / "in.jsonl"))
    Path(source.name).write_bytes(b'\xef\xbb\xbf{"id":"a"}\r\n\n   \n{"id":"b"}')
    assert list(stream.read(source)) == [{"id": "a"}, {"id": "b"}]
    assert source.records == 2
    source.close()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"id": "x', "not valid JSON"),
        ('{"id": "x"} {"id": "y"}', "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ('{"id": "x", "a": NaN}', "NaN or Infinity is not JSON"),
        ('{"id": "x", "a": -Infinity}', "NaN or Infinity is not JSON"),
        ('{"id": "x", "a": 1e999}', "NaN or Infinity is not JSON"),
        ('{"id": "NaN", "a": }', "not valid JSON"),
        (b'{"id": "\xff\xfe"}', "not UTF-8 (byte 9 of the line)"),
        ('{"id": 7}', "'id' must be text, got 7"),
        ('{"id": ""}', "'id' is empty"),
        ('{"id": null}', "record has no 'id'"),
        ('{"id": "a"}', "id 'a' came before, on line 1"),
    ],
)
def test_read_puts_a_fault_in_its_place(tmp_path: Path, line: str | bytes, error: str) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    before, bad, after = read(tmp_path, b'{"id":"a"}\n\n' + raw + b'\n{"id":"b"}\n')
    assert (before, after) == ({"id": "a"}, {"id": "b"})
    assert isinstance(bad, Bad)
    assert bad.where == f"{tmp_path}/in.jsonl:3"
    assert error in bad.error and "\n" not in bad.error
    assert (bad.record is None) != (bad.line is None)


def test_read_names_the_stage_that_makes_a_missing_field(tmp_path: Path) -> None:
    (bad,) = read(tmp_path, '{"id":"a"}', required=("description",))
    assert str(bad) == f"{tmp_path}/in.jsonl:1: record has no 'description'; run `fgvr summarise` first"
    (bad,) = read(tmp_path, '{"id":"a"}', required=("description",), stage="describe")
    assert "run `fgvr describe` first" in str(bad)
    whole = {"id": "a", "description": "d"}
    assert read(tmp_path, json.dumps(whole), required=("description",)) == [whole]


def test_read_gives_an_id_to_a_record_without(tmp_path: Path) -> None:
    text = '{"image":"a.jpg","category":"x"}\n{"category":"x","image":"a.jpg"}\n{"image":"b.jpg","category":"x"}\n'
    first, twice, second = read(tmp_path, text)
    assert isinstance(first, dict) and isinstance(second, dict)
    assert list(first) == ["id", "image", "category"]
    assert isinstance(twice, Bad) and "came before" in twice.error  # equal but for the order of its keys
    assert first["id"] != second["id"]
    assert read(tmp_path, text.splitlines()[2]) == [second]  # on any line of any file
    assert read(tmp_path, text, unique=False) == [json.loads(line) for line in text.splitlines()]


def test_source_hashes_the_bytes_as_stored(tmp_path: Path) -> None:
    data = b'{"id":"a"}\n' * 3 + b"\n" * 200_000
    for name, stored in (("x.jsonl", data), ("x.jsonl.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(stored)
        source = Source(str(tmp_path / name))
        digest = hashlib.sha256(stored).hexdigest()
        assert source.known_digest() == digest
        reading = stream.read(source)
        next(reading)  # the rest is hashed though nobody reads it
        assert source.digest() == digest == source.digest()
        reading.close()


@pytest.mark.parametrize("cut", [1, 12, 200])
def test_damaged_gz_names_file_and_line(tmp_path: Path, cut: int) -> None:
    lines = "".join(f'{{"id":"{random.Random(n).random()}"}}\n' for n in range(20_000))
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode())[:-cut])
    with pytest.raises(FgvrError, match=r"x\.jsonl\.gz:\d+: cannot read on: .*; replace the file"):
        list(stream.read(str(path)))
    path.write_text("{}")
    with pytest.raises(FgvrError, match=r"x\.jsonl\.gz:1: cannot read on: not a gzipped file"):
        list(stream.read(str(path)))


def test_missing_input_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FgvrError, match=r"cannot read .*nowhere: no such file or directory; check the path"):
        list(stream.read(str(tmp_path / "nowhere")))


# -- batches --


def test_ordered_keeps_places_at_any_batch_size() -> None:
    rng = random.Random(0)
    items: list[stream.Item] = []
    for n in range(60):
        items.append(Bad(f"f:{n}", "torn", line="{") if rng.random() < 0.3 else {"id": str(n)})
    expected = [item if isinstance(item, Bad) else {**item, "done": True} for item in items]
    for batch in (1, 2, 7, 60, 1000):
        sizes: list[int] = []

        def work(records: list[dict], sizes: list[int] = sizes) -> list[stream.Item]:
            sizes.append(len(records))
            return [{**r, "done": True} for r in records]

        assert list(stream.ordered(items, batch, work)) == expected
        assert max(sizes) <= batch and 0 not in sizes


def test_ordered_streams_and_fills_its_batches() -> None:
    asked: list[list[str]] = []
    taken = 0

    def source():
        nonlocal taken
        for n in range(10):
            taken = n
            yield {"id": str(n)}

    def work(records):
        asked.append([r["id"] for r in records])
        return records

    results = stream.ordered(source(), 4, work)
    assert next(results) == {"id": "0"} and taken == 3  # no reading ahead beyond the batch
    list(results)
    assert [len(batch) for batch in asked] == [4, 4, 2]


def test_ordered_passes_faults_on_without_waiting() -> None:
    def endless():
        while True:
            yield Bad("f:1", "torn", line="{")

    results = stream.ordered(endless(), 8, lambda records: records)
    assert isinstance(next(results), Bad)  # would hang if faults waited for a full batch

    def after_one():
        yield {"id": "a"}
        yield from endless()

    assert next(stream.ordered(after_one(), 8, lambda records: records)) == {"id": "a"}


def test_ordered_finds_the_faulty_record_of_a_batch() -> None:
    def work(records):
        if any(r["id"] == "2" for r in records):
            raise RecordError("cannot read image; replace it")
        return [{**r, "n": len(records)} for r in records]

    results = list(stream.ordered([{"id": str(n)} for n in range(5)], 5, work))
    assert [r["id"] for r in results if isinstance(r, dict)] == ["0", "1", "3", "4"]
    assert results[2] == Bad("2", "cannot read image; replace it", record={"id": "2"})


def test_ordered_refuses_a_wrong_number_of_results() -> None:
    with pytest.raises(ValueError, match="batch of 2 records gave 1"):
        list(stream.ordered([{"id": "a"}, {"id": "b"}], 2, lambda records: records[:1]))


def test_each() -> None:
    def fn(record):
        if record["id"] == "b":
            raise RecordError("no")
        return [] if record["id"] == "c" else [record, record] if record["id"] == "d" else record

    torn = Bad("f:1", "torn", line="{")
    items = [{"id": "a"}, torn, {"id": "b"}, {"id": "c"}, {"id": "d"}]
    assert list(stream.each(items, fn)) == [
        {"id": "a"}, torn, Bad("b", "no", record={"id": "b"}), {"id": "d"}, {"id": "d"}
    ]


def test_shards_split_evenly_and_for_ever() -> None:
    keys = [f"train/bird/{n}" for n in range(3000)]
    parts = [[key for key in keys if Shard(k, 3).has(key)] for k in (1, 2, 3)]
    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert all(900 < len(part) < 1100 for part in parts)
    assert [Shard(k, 2).has("train/bird/1") for k in (1, 2)] == [True, False]  # must never change: shards get merged
