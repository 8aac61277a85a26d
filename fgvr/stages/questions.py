"""record -> questions: open-set and multiple-choice questions about its category."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fgvr import prompts, rng
from fgvr.answers import normalise
from fgvr.errors import RecordError
from fgvr.records import Record, check
from fgvr.stream import Bad, Item, each

KINDS = ("open", "mcq")
DROPPED = ("attributes", "description", "negatives")  # long, and a hint at the answer
OWN = ("id", "image", "kind", "question", "options", "answer", "answer_index")


def questions(
    items: Iterable[Item],
    kinds: Sequence[str],
    question: str | None = None,
    options: int = 4,
    distractors: str = "negatives",
    seed: int = 0,
) -> Iterator[Item]:
    """One record for each kind of question, in the order of `kinds`: ids "<id>/open" and "<id>/mcq".

    Needs the whole stream when there are multiple-choice questions, whose wrong options may be any of its categories.

    Args:
        items: records with `image` and `category`.
        question: its text without the options (`final_prompt` adds them); {superclass} stands for the record's
            superclass. None: fgvr.prompts.OPEN.
        options: options of a multiple-choice question, the right one included.
        distractors: "negatives": the categories of the record's `negatives`, hardest first, then random others;
            "random".
        seed: with the record's id it decides which random categories and the order of options.
    """
    text = prompts.OPEN if question is None else question
    categories: list[str] = []
    if "mcq" in kinds:
        items = list(items)
        categories = sorted({item["category"] for item in items if not isinstance(item, Bad)})

    def build(record: Record) -> list[Record]:
        asked = _fill(text, record)
        found = []
        for kind in kinds:
            choices = None
            if kind == "mcq":
                wrong = _distractors(record, categories, options - 1, distractors, seed)
                choices = [record["category"], *wrong]
                rng.for_record(seed, record["id"], "options").shuffle(choices)
            found.append(_question(record, kind, asked, choices))
        return found

    return each(items, build)


def final_prompt(record: Record) -> str:
    """What a model is asked for a question record, by eval and by tune alike.

    A multiple-choice question is followed by its options and the instruction to answer with a letter (fgvr.prompts),
    an open one stands alone. Neither holds a chat template or an image mark: those are the model's.

    Raises:
        RecordError: the kind is unknown, or the options cannot be shown.
    """
    check(record, ("kind", "question"))
    if record["kind"] == "open":
        return record["question"]
    if record["kind"] != "mcq":
        raise RecordError(f"unknown kind {record['kind']!r}; there are {', '.join(KINDS)}")
    check(record, ("options",))
    options = record["options"] or []
    if not all(isinstance(option, str) for option in options):
        raise RecordError("'options' must be texts; correct the record")
    try:
        return prompts.multiple_choice(record["question"], options)
    except ValueError as error:
        raise RecordError(f"{error}; correct the record's options") from error


def _fill(question: str, record: Record) -> str:
    if "{superclass}" not in question:
        return question
    check(record, ("superclass",))
    return question.replace("{superclass}", record["superclass"])


def _question(record: Record, kind: str, question: str, options: list[str] | None) -> Record:
    answer = record["category"]
    own = {
        "id": f"{record['id']}/{kind}",
        "image": record["image"],
        "kind": kind,
        "question": question,
        "options": options,
        "answer": answer,
        "answer_index": options.index(answer) if options else None,
    }
    return {**own, **{name: value for name, value in record.items() if name not in (*OWN, *DROPPED)}}


def _distractors(record: Record, categories: Sequence[str], count: int, source: str, seed: int) -> list[str]:
    """`count` wrong categories, none of which reads like the right one or like another.

    Raises:
        RecordError: there are not so many categories.
    """
    chosen: list[str] = []
    taken = {normalise(record["category"])}

    def take(names: Iterable[str]) -> None:
        for name in names:
            if len(chosen) < count and normalise(name) not in taken:
                taken.add(normalise(name))
                chosen.append(name)

    if source == "negatives":
        take(_negatives(record))
    if len(chosen) < count:
        draw = rng.for_record(seed, record["id"], "distractors")
        take(draw.sample(categories, len(categories)))
    if len(chosen) < count:
        raise RecordError(f"{len(chosen)} wrong categories for {count} wrong options; lower --options")
    return chosen


def _negatives(record: Record) -> list[str]:
    """The categories of the record's negatives, hardest first."""
    check(record, ("negatives",))
    for negative in record["negatives"]:
        if not isinstance(negative, dict) or not isinstance(negative.get("category"), str):
            raise RecordError("a negative has no 'category'; run `fgvr mine-negatives` again")
    return [negative["category"] for negative in record["negatives"]]
