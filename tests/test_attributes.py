"""discover-attrs, extract-attrs and summarise beyond the plain chain: samples, types, groups, memory, ablations."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from fgvr import prompts
from fgvr.datasets.cub_attributes import named, truth
from fgvr.errors import FgvrError, UsageError
from fgvr.models.base import Ask, Said
from fgvr.prompts import attribute_type, is_unknown, merged, parse_attributes, parse_group, same_name
from fgvr.records import Record
from fgvr.stages.asking import Asker, ahead
from fgvr.stages.discover import discover
from fgvr.stages.extract import extract
from fgvr.stages.summarise import donors, summarise, with_truth
from fgvr.stream import Bad
from tests.test_stage_answers import Parrot

# -- names --


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["bill shape", "shape of the bill", "Bill-Shapes", "bill size"], ["bill shape", "bill size"]),
        (["wing color", "wing colour", "colour of wings"], ["wing color"]),
        (["belly", "bellies", "body", "bodies"], ["belly", "body"]),
        (
            ["upper tail color", "under tail color", "tail color"],
            ["upper tail color", "under tail color", "tail color"],
        ),
        (["gloss", "glosses", "species"], ["gloss", "glosses", "species"]),
        (["形", "色"], ["形", "色"]),
    ],
)
def test_near_duplicates_are_merged(names: list[str], kept: list[str]) -> None:
    assert merged(names) == kept


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bill colour", "colour"), ("primary Color", "colour"), ("hues", "colour"), ("bill shape", "shape"),
        ("flower center shape", "shape"), ("leaf margin", "shape"), ("petal color pattern", "texture"),
        ("skin texture", "texture"), ("Special Markings", "texture"), ("bill length", "size"), ("size", "size"),
        ("shape", "shape"), ("number of petals", "other"), ("habitat", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_types(name: str, kind: str) -> None:
    assert attribute_type(name) == kind


@pytest.mark.parametrize(
    "reply",
    [
        '{"attributes": [{"name": "bill shape", "why": "it differs"}, {"name": "wing color"}, {"name": "tail"}]}',
        "[{'attribute': 'bill shape'}, {'attribute': 'wing color'}, {'attribute': 'tail', 'question': 'Which?'}]",
    ],
)
def test_lists_of_objects_are_read(reply: str) -> None:
    assert parse_attributes(reply) == ["bill shape", "wing color", "tail"]


# -- discover-attrs --


class Drawing(Parrot):
    """Draws its replies from a list, by seed."""

    def __init__(self, replies: Sequence[str]) -> None:
        super().__init__(lambda ask: replies[0])
        self.replies, self.seeds = replies, list[int]()

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        self.seeds.append(seed)
        return self.replies[len(self.seeds) - 1]


SAMPLES = ["['bill', 'tail', 'habitat']", "['tails', 'bill', 'wing bar']", "['leg colour', 'tail', 'eye']", "Sorry."]


def names(found: list[Record]) -> list[str]:
    assert found[0]["attribute"] == prompts.GENERAL and found[0]["type"] == "other"
    return [record["attribute"] for record in found[1:]]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [(None, ["tail"]), (2, ["tail", "bill"]), (1, ["tail", "bill", "habitat", "wing bar", "leg colour", "eye"])],
)
def test_what_several_samples_name_is_kept(keep: int | None, kept: list[str]) -> None:
    model = Drawing(SAMPLES)
    assert names(list(discover(model, "bird", "species", 99, samples=4, keep=keep, seed=1))) == kept
    assert len(set(model.seeds)) == 4 and not model.calls
    again = Drawing(SAMPLES)
    list(discover(again, "bird", "species", 99, samples=4, keep=1, seed=2))
    assert not set(again.seeds) & set(model.seeds)


def test_samples_that_agree_on_nothing_and_models_that_draw_none() -> None:
    with pytest.raises(FgvrError, match="no attribute is named in 4 of 4 samples; lower --keep"):
        list(discover(Drawing(SAMPLES), "bird", "species", 99, samples=4, keep=4))
    with pytest.raises(UsageError, match="parrot draws no samples"):
        list(discover(Parrot(lambda ask: ""), "bird", "species", 99, samples=2))


def test_attributes_are_added_and_left_out() -> None:
    told = "['general description of the image', 'bill shape', 'leg color', 'Leg colour', 'size', 'tail']"
    model = Parrot(lambda ask: told)
    found = list(discover(model, "bird", "species", 99, add=["tails", "song"], drop=["colour", "Tail", "texture"]))
    assert names(found) == ["bill shape", "size", "song"]
    assert [record["type"] for record in found] == ["other", "shape", "size", "other"]
    with pytest.raises(
        FgvrError, match=r"--drop 'beak' is neither a type nor an attribute; there are colour, .*, bill shape"
    ):
        list(discover(model, "bird", "species", 99, drop=["beak"]))


def test_another_prompt() -> None:
    model = Parrot(lambda ask: "['bill', 'tail']")
    list(discover(model, "bird", "species", 99, template='{superclass} {class_unit} {other} {"a": []}'))
    assert model.calls[0][0].prompt == 'bird species {other} {"a": []}'


# -- extract-attrs --

QUESTIONS = {"bird": {"bill shape": "Bill?", "leg colour": "Leg?", "age": "Age?"}}


@pytest.fixture
def images(tmp_path: Path) -> list[Record]:
    for n in range(6):
        Image.new("RGB", (n + 1, 3)).save(tmp_path / f"{n}.png")
    return [{"id": f"r{n}", "image": f"{n}.png", "superclass": "bird", "category": f"Kite {n % 3}"} for n in range(6)]


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize("error", [OutOfMemoryError, MemoryError])
def test_a_batch_that_does_not_fit_is_halved(images: list[Record], tmp_path: Path, error: type[Exception]) -> None:
    class Small(Parrot):
        def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
            found = super().reply(asks, max_new_tokens)
            if len(asks) > 2:
                raise error("out of memory")
            return found

    model = Small(lambda ask: f"{ask.prompt}{ask.image.size[0]}")  # type: ignore[union-attr]
    found = list(extract(images, model, QUESTIONS, tmp_path, 9, 9))
    assert found == list(extract(images, Parrot(model.say), QUESTIONS, tmp_path, 9, 9))
    assert [len(call) for call in model.calls] == [9, 4, 2, 2, 2, 2, 1, 2, 2, 2, 2, 1], "halved once for all"
    with pytest.raises(error):
        Asker(Small(lambda ask: ""), 1, 9).model.reply([Ask("")] * 3, 9)


def test_a_single_question_that_does_not_fit_is_an_error() -> None:
    class Full(Parrot):
        def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
            raise OutOfMemoryError

    with pytest.raises(OutOfMemoryError):
        Asker(Full(lambda ask: ""), 8, 9)([Ask("")] * 8)


def test_images_are_decoded_ahead_in_order_and_not_too_far() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            begun.append(item)
        return item * item

    came = ahead(iter(range(100)), work, 2)
    assert next(came)[0] == 0
    assert max(begun) <= 8, "four items a thread"
    assert [(item, future.result()) for item, future in came] == [(n, n * n) for n in range(1, 100)]


def test_neighbours_of_one_image_share_its_decoding() -> None:
    begun: list[str] = []
    came = list(ahead("aabba", lambda item: begun.append(item), 1, key=str))
    assert [item for item, _ in came] == list("aabba")
    came[-1][1].result()
    assert begun == ["a", "b", "a"]


@pytest.mark.parametrize("workers", [1, 5])
def test_workers_change_nothing(images: list[Record], tmp_path: Path, workers: int) -> None:
    (tmp_path / "2.png").write_bytes(b"no image")
    found = list(extract(images, Parrot(lambda ask: str(ask.image.size)), QUESTIONS, tmp_path, 7, 9, workers=workers))  # type: ignore[union-attr]
    assert [isinstance(item, Bad) for item in found] == [n == 2 for n in range(6)]
    assert [item["attributes"]["age"] for item in found if isinstance(item, dict)] == [
        f"({n}, 3)" for n in (1, 2, 4, 5, 6)
    ]


def test_confidence_is_given_for_each_answer(images: list[Record], tmp_path: Path) -> None:
    class Sure(Parrot):
        def reply_scored(self, asks: Sequence[Ask], max_new_tokens: int) -> list[Said]:
            return [Said(text, -1 / len(text) if text != "Age?" else None) for text in self.reply(asks, max_new_tokens)]

    (found,) = extract(images[:1], Sure(lambda ask: ask.prompt), QUESTIONS, tmp_path, 8, 9, confidence=True)
    assert isinstance(found, dict)
    assert found["confidence"] == {"bill shape": -0.2, "leg colour": -0.25, "age": None}
    with pytest.raises(UsageError, match="parrot gives no log-probabilities"):
        list(extract(images, Parrot(lambda ask: ""), QUESTIONS, tmp_path, 8, 9, confidence=True))


WANTED = {"bill shape": "long, curved", "leg colour": "red", "age": "unknown"}


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps(WANTED),
        f"Sure!\n```json\n{json.dumps(WANTED, indent=2)}\n```\nHope that helps.",
        '{"Bill Shape": ["long", "curved"], "leg-color": "red", "age": "UNKNOWN.", "more": {"a": 1}}',
        '{"bill shape": "long, curved", "leg colour": "red", "age": "unknown"',
        "{'bill shape': \"long, curved\", 'leg colour': \"red\", 'age': \"unknown\",}",
        "- **Bill shape**: long, curved\n- Leg colour: red\n3. Age: unknown",
    ],
)
def test_group_replies_are_read_from_many_shapes(reply: str) -> None:
    assert parse_group(reply, WANTED) == WANTED


def test_group_replies_that_lack_something() -> None:
    assert parse_group('{"age": 3}', WANTED) == {"bill shape": "", "leg colour": "", "age": "3"}
    assert not any(
        parse_group(reply, WANTED)[name] for reply in ("", "{}", "[]", "no", "{" * 99_999) for name in WANTED
    )
    assert len(parse_group(json.dumps({"age": "x " * 999}), WANTED)["age"]) <= 300


def test_a_group_is_one_question_with_a_schema(images: list[Record], tmp_path: Path) -> None:
    model = Parrot(lambda ask: json.dumps(WANTED) if ask.image.size[0] != 2 else "no idea")  # type: ignore[union-attr]
    found = list(extract(images, model, QUESTIONS, tmp_path, 4, 9, group=True))
    assert [len(call) for call in model.calls] == [4, 2]
    ask = model.calls[0][0]
    assert '"leg colour": Leg?' in ask.prompt and ask.schema == prompts.group_schema(WANTED)
    assert ask.schema["required"] == list(WANTED)
    assert isinstance(found[1], Bad) and "answers no question: 'no idea'" in found[1].error
    assert [item["attributes"] for item in found if isinstance(item, dict)] == [WANTED] * 5


# -- summarise --

ROWS = [
    {"id": str(n), "superclass": "bird", "category": "ABC"[n % 3],
     "attributes": {"bill": f"{'abc'[n % 3]}{n}", "leg": f"l{n}"}, "attributes_true": {"bill": "true"}}
    for n in range(30)
]  # fmt: skip


def told(**how: object) -> list[str]:
    model = Parrot(
        lambda ask: f"Summary: {ask.prompt.rpartition('bill: ')[2] or ask.prompt}. Second sentence.".replace("\n", " ")
    )
    return [item["description"] for item in summarise(ROWS, model, 8, 99, **how) if isinstance(item, dict)]  # type: ignore[arg-type]


def test_levels() -> None:
    assert told()[3] == "a3 - leg: l3. Second sentence." and told(level="short")[3] == "a3 - leg: l3."
    model = Parrot(lambda ask: "")
    assert {r["description"] for r in summarise(ROWS, model, 8, 99, level="none")} == {"This is a bird."}  # type: ignore[index]
    assert not model.calls
    asked = Parrot(lambda ask: "A.")
    list(summarise(ROWS[:1], asked, 8, 99, level="short"))
    assert "with one sentence." in asked.calls[0][0].prompt


def test_sources() -> None:
    assert set(told(source="truth")) == {"true. Second sentence."}
    model = Parrot(lambda ask: f"An {ask.prompt.split()[-1]} is red.")
    found = list(summarise(ROWS, model, 8, 99, source="class"))
    assert sum(len(call) for call in model.calls) == 3, "a category is asked once"
    assert {item["description"] for item in found if isinstance(item, dict)} == {"This bird is red."}
    assert model.calls[0][0].prompt == "Give a brief description of distinguishing features of A"


def test_noise_replaces_a_share_by_other_categories_answers() -> None:
    pool = donors(ROWS, "attributes")
    assert pool == donors(ROWS[::-1], "attributes")
    plain = told()
    every = told(noise=1.0, donors=pool, seed=3)
    for row, before, after in zip(ROWS, plain, every, strict=True):
        assert before[0] == row["category"].lower() != after[0], "another category's answer"
    half = told(noise=0.5, donors=pool, seed=3)
    bills = sum(a.split()[0] != b.split()[0] for a, b in zip(half, plain, strict=True))
    assert all(a != b for a, b in zip(half, plain, strict=True)) and 5 < bills < 25, "one of two attributes, drawn"
    assert half == told(noise=0.5, donors=pool, seed=3) != told(noise=0.5, donors=pool, seed=4)
    shuffled = list(
        summarise(
            ROWS[::-1], Parrot(lambda ask: ask.prompt.replace("\n", " ") + "."), 3, 99, noise=0.5, donors=pool, seed=3
        )
    )
    straight = list(
        summarise(ROWS, Parrot(lambda ask: ask.prompt.replace("\n", " ") + "."), 8, 99, noise=0.5, donors=pool, seed=3)
    )
    assert shuffled[::-1] == straight, "a draw depends on (seed, id) alone"
    with pytest.raises(FgvrError, match="only one"):
        donors(ROWS[:1], "attributes")


def test_cub_s_annotations_are_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgvr.cli.summarise import command

    root = tmp_path / "CUB_200_2011"
    (root / "attributes").mkdir(parents=True)
    (tmp_path / "attributes.txt").write_text(
        "1 has_bill_shape::dagger\n2 has_bill_shape::hooked_(seabird)\n3 has_size::small\n"
    )
    (root / "images.txt").write_text("1 001.A/a.jpg\n2 001.A/b.jpg\n")
    labels = ["1 1 1 3 0.5", "1 2 1 4 0.5 extra", "1 3 0 4 1", "2 1 1 2 1", "2 3 1 4 9"]
    (root / "attributes" / "image_attribute_labels.txt").write_text("\n".join(labels) + "\n")
    found = truth(root)
    assert found == {"001.A/a.jpg": {"bill shape": "dagger and hooked (seabird)"}, "001.A/b.jpg": {"size": "small"}}
    rows = [{"id": n, "image": f"images/001.A/{n}.jpg", "superclass": "bird"} for n in "abc"]
    kept = list(with_truth(rows, found))
    assert [r["attributes_true"] for r in kept if isinstance(r, dict)] == list(found.values())
    assert isinstance(kept[2], Bad) and "no sure annotation" in kept[2].error
    model = Parrot(lambda ask: ask.prompt.rpartition("- ")[2] + ".")
    monkeypatch.setattr("fgvr.models.open_answerer", lambda spec, **options: model)
    (tmp_path / "in").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    words = ["--model", "x", "--source", "truth", "--cub", str(root), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(command, words, catch_exceptions=False).exit_code == 0
    told = [json.loads(line)["description"] for line in (tmp_path / "out").read_text().splitlines()]
    assert told == ["bill shape: dagger and hooked (seabird).", "size: small."]
    (root / "images.txt").write_text("1\n")
    with pytest.raises(FgvrError, match=r"images.txt:1: '1' is not as in CUB-200-2011"):
        truth(root)


def test_cub_s_own_list_of_attributes(shared: Path) -> None:
    lines = (shared / "metadata" / "cub200_meta" / "attributes.txt").read_text().splitlines()
    names = [named(line.split()[1]) for line in lines]
    assert len(names) == 312 and len({name for name, _ in names}) == 28
    assert names[0] == ("bill shape", "curved (up or down)")


def test_aliases_leak_too() -> None:
    notes: Counter[str] = Counter()
    row = {**ROWS[0], "category": "Red Kite", "aliases": ["Milvus milvus"]}
    (found,) = summarise([row], Parrot(lambda ask: "The Milvus milvus is red."), 8, 99, notes)
    assert isinstance(found, dict) and found["description"] == "This bird is red." and notes["leaks"] == 1


@pytest.mark.parametrize("aliases", ["abc", 5, [None]])
def test_aliases_of_another_type_hide_nothing(aliases: object) -> None:
    """A text is no list: each of its letters would be hidden."""
    (found,) = summarise([{**ROWS[0], "aliases": aliases}], Parrot(lambda ask: "A bird with a red bill."), 8, 99)
    assert isinstance(found, Bad) and "'aliases' must be a list of texts" in found.error


def test_a_template_with_a_line_for_each_attribute() -> None:
    template = "About a {superclass} {x}:\n  '{general}'\n  * {attribute} = {value}!\n{\"end\": 1}\n  "
    values = {prompts.GENERAL: "a {value}", "bill": "{general}", "leg": "b\\1"}
    assert prompts.summarise("bird", values, template) == (
        "About a bird {x}:\n  'a {value}'\n  * bill = {general}!\n  * leg = b\\1!\n{\"end\": 1}\n  "
    )


@pytest.mark.parametrize(
    "text", ["unknown", "Unknown.", "N/A", "not visible", "I don't know", "It cannot be determined."]
)
def test_unknown_answers(text: str) -> None:
    assert is_unknown(text) and not is_unknown(f"{text} but red") and not is_unknown("")


def test_same_name_of_odd_text() -> None:
    assert same_name("...") == "..." and same_name("the of") == "the of"


# -- the commands, a recording and its replay --


def test_a_recorded_chain_is_repeated_byte_for_byte(
    images: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fgvr.cli import discover_attrs, extract_attrs, summarise

    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in images))
    Path("template.txt").write_text("Tell of the {superclass}:\n{attribute} is {value}")
    Path("ask.txt").write_text("['bill'] of {superclass}")

    def say(ask: Ask) -> str:
        if ask.image is None:
            return "['bill', 'leg', 'size']" if "bill'" in ask.prompt else f"{ask.prompt[-9:]} hooked."
        return f"{ask.prompt[-9:]} {ask.image.size[0]}"

    model = Drawing([say(Ask("bill'"))] * 4)
    model.say = say

    def run(module: object, out: str, spec: str, *words: str) -> bytes:
        done = CliRunner().invoke(module.command, ["--model", spec, *words, "-o", out], catch_exceptions=False)  # type: ignore[attr-defined]
        assert done.exit_code == 0, done.output
        return Path(out).read_bytes()

    def chain(spec: str, to: str, *more: str) -> list[bytes]:
        asked = [
            "--superclass",
            "bird",
            "--prompt",
            "ask.txt",
            "--samples",
            "3",
            "--drop",
            "size",
            "--attribute",
            "tail",
        ]
        return [
            run(discover_attrs, f"{to}a", spec, *asked, *more),
            run(extract_attrs, f"{to}e", spec, "--attrs", f"{to}a", "--image-root", ".", "in.jsonl", *more),
            run(summarise, f"{to}s", spec, "--prompt", "template.txt", "--noise", "0.5", f"{to}e", *more),
        ]

    with monkeypatch.context() as patched:
        patched.setattr("fgvr.models.open_answerer", lambda spec, **options: model)
        recorded = chain("paid", "1", "--record", "kept.jsonl")
    asked = sum(map(len, model.calls)) + len(model.seeds)
    assert 3 + 6 * 4 < asked <= 3 + 6 * 4 + 6 and chain("replay:kept.jsonl", "2") == recorded
    assert sum(map(len, model.calls)) + len(model.seeds) == asked
    sidecar = json.loads(Path("2s.run.json").read_text())
    assert sidecar["models"][0]["of"] == {"name": "parrot"} and sidecar["inputs"][-1]["name"] == "2e"
    assert "template.txt" in [entry["name"] for entry in sidecar["inputs"]]
    missing = CliRunner().invoke(
        extract_attrs.command,
        ["--model", "replay:kept.jsonl", "--attrs", "1a", "--image-root", ".", "--max-new-tokens", "7", "in.jsonl"],
    )
    assert missing.exit_code == 1 and "r0: kept.jsonl holds no reply to 'Questions: Describe" in str(missing.exception)


@pytest.mark.parametrize(
    ("module", "words", "why"),
    [
        ("discover_attrs", "--superclass bird --samples 3 --keep 4", "--keep must be from 1 to 3"),
        ("discover_attrs", "--superclass bird --temperature 0", "--temperature must be positive"),
        ("summarise", "--noise 2", "--noise must be from 0 to 1"),
        ("summarise", "--noise 0.5", "give FILE instead of stdin"),
        ("summarise", "--noise 0.5 --source class", "leave out --source class"),
        ("extract_attrs", "--group --confidence --attrs side --image-root .", "--confidence needs a reply for each"),
    ],
)
def test_wrong_usage(module: str, words: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.chdir(tmp_path)
    Path("side").write_text('{"superclass":"bird","attribute":"bill","question":"Bill?"}\n')
    command = importlib.import_module(f"fgvr.cli.{module}").command
    found = CliRunner().invoke(command, ["--model", "replay:none", *words.split()])
    assert isinstance(found.exception, UsageError) and why in str(found.exception)
