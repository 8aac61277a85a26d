"""Records into the training files of other tools, and other tools' files into records.

Finedefics: the columns that its released script reads. LLaVA: id, image, conversations. ShareGPT as LLaMA-Factory and
ms-swift read it: conversations, images. TRL: messages whose content is a list of parts, images. FineR: its published
attribute answers and replies. A triple asks for the description, a question for its answer, a choice for its letter; a
dialogue has several turns.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fgvr import prompts
from fgvr.errors import FgvrError, RecordError
from fgvr.provenance import sha256_text
from fgvr.records import Record, check, image_of
from fgvr.stages.questions import final_prompt
from fgvr.stream import Bad, Item, decode

JOINT = "\t\n"  # between the negatives of one cell
COLUMNS = ("type", "image_path", "question", "answer", "attribute", "neg_attribute", "category", "neg_category")
MISSING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
           "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}  # fmt: skip  # what pandas reads as no value
IMAGE = "<image>"
ROLES = ({"human", "user"}, {"gpt", "assistant"})  # who asks, who replies

# ---- out ----


def talk(record: Record) -> tuple[str, str]:
    """The question and the reply that a record teaches: of a question its answer (of a choice its letter), of a triple
    its description.

    Raises:
        RecordError: it has neither, or a choice whose answer is none of its options.
    """
    if "question" in record and "kind" in record:
        check(record, ("answer",))
        if record.get("options") is None:
            return final_prompt(record), record["answer"]
        check(record, ("options",))
        if record["answer"] not in record["options"]:
            raise RecordError(f"answer {record['answer']!r} is none of the options; correct the record")
        return final_prompt(record), chr(ord("A") + record["options"].index(record["answer"]))
    check(record, ("description",))
    return prompts.describe(record.get("superclass", "object")), record["description"]


def talks(record: Record) -> list[tuple[str, str]]:
    """All questions and replies that a record teaches: of a dialogue its turns, else the one of `talk`.

    Raises:
        RecordError: as `talk`, or the turns are none.
    """
    if record.get("kind") != "dialogue":
        return [talk(record)]
    turns = record.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise RecordError("'turns' must be a list of {question, answer}; run `fgvr questions --kinds dialogue`")
    pairs = [(turn.get("question"), turn.get("answer")) for turn in turns]
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise RecordError("every turn needs texts in `question` and `answer`; correct the record")
    return pairs


def to_llava(record: Record) -> Record:
    turns, image = _conversation(record, f"{IMAGE}\n"), image_of(record)
    return {"id": record["id"], **({} if image is None else {"image": image}), "conversations": turns}


def to_sharegpt(record: Record) -> Record:
    return {"id": record["id"], "conversations": _conversation(record, IMAGE), "images": _images(record)}


def _conversation(record: Record, image: str) -> list[Record]:
    """LLaVA's turns; `image` stands before the first question, where there is one."""
    turns: list[Record] = []
    image = image if _images(record) else ""
    for question, reply in _checked(record):
        turns += [{"from": "human", "value": image + question}, {"from": "gpt", "value": reply}]
        image = ""
    return turns


def to_trl(record: Record) -> Record:
    messages: list[Record] = []
    for question, reply in _checked(record):
        shown = [] if messages else [{"type": "image"} for _ in _images(record)]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": reply}]})
    return {"id": record["id"], "messages": messages, "images": _images(record)}


def _images(record: Record) -> list[str]:
    image = image_of(record)
    return [] if image is None else [image]


def _checked(record: Record) -> list[tuple[str, str]]:
    found = talks(record)
    if any(IMAGE in text for turn in found for text in turn):
        raise RecordError(f"its text holds {IMAGE!r}, which these formats take for the image; correct the record")
    return found


def to_pretrain(record: Record) -> Record:
    """Finedefics' stage I: a mined triple."""
    check(record, ("image", "description", "category", "negatives"))
    question, reply = talk({k: v for k, v in record.items() if k != "question"})
    row = {"type": "single", "image_path": record["image"], "question": question, "answer": reply}
    row.update(attribute=reply, neg_attribute=_joined(record, "description"))
    return _cells({**row, "category": record["category"], "neg_category": _joined(record, "category")})


def to_finetune(record: Record) -> Record:
    """Finedefics' stage II: a question; the contrastive columns stay empty."""
    check(record, ("image", "kind", "question"))
    question, reply = talk(record)
    return _cells({"type": "single", "image_path": record["image"], "question": question, "answer": reply})


def _joined(record: Record, field: str) -> str:
    texts: list[Any] = [n.get(field) if isinstance(n, dict) else None for n in record["negatives"]]
    if not all(isinstance(text, str) for text in texts):
        raise RecordError(f"a negative has no {field!r}; run `fgvr mine-negatives` again")
    if any(JOINT in text for text in texts):
        raise RecordError(f"a negative's {field} holds a tab and a line break, which parts negatives; correct it")
    return JOINT.join(texts)


def _cells(row: Record) -> Record:
    for name in ("answer", "attribute", "category"):
        if row.get(name) in MISSING:
            raise RecordError(f"{name} {row[name]!r} would be read as missing; rename it")
    return {name: row.get(name, "") for name in COLUMNS}


def as_csv(rows: Iterable[Record]) -> bytes:
    """Rows with COLUMNS as a CSV file."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


WRITERS: dict[str, Callable[[Record], Record]] = {
    "pretrain-csv": to_pretrain,
    "finetune-csv": to_finetune,
    "llava": to_llava,
    "sharegpt": to_sharegpt,
    "trl": to_trl,
}

# ---- in ----


def read(
    lines: Iterator[bytes], kind: str, label: str, names: Sequence[str] = (), superclass: str = ""
) -> Iterator[Item]:
    """The records of another tool's file, each with an id.

    Args:
        kind: one of READERS. label: what the file is called in errors.
        names: FineR's attributes. superclass: what its images show.
    Raises:
        FgvrError: the file is not of this kind.
    """
    try:
        found: Any = _rows(lines) if kind.endswith("-csv") else _values(b"".join(lines))
    except (ValueError, csv.Error, RecursionError) as error:
        raise FgvrError(f"{label}: is no {kind} file ({error}); check --from") from error
    seen: dict[str, int] = {}
    for number, value in enumerate(found, 1):
        try:
            record = from_pairs(value, names, superclass) if kind == "finer-pairs" else READERS[kind](value)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            said = f"is no {kind} record, which is {FORMS[kind]}; correct it, or check --from"
            yield Bad(f"{label}:{number}", said, record=_plain(value))
            continue
        except RecordError as error:
            yield Bad(f"{label}:{number}", str(error), record=_plain(value))
            continue
        key = record.pop("id", None) or record.get("image") or sha256_text([json.dumps(record, sort_keys=True)])[:16]
        seen[key] = seen.get(key, 0) + 1
        yield {"id": key if seen[key] == 1 else f"{key}/{seen[key]}", **record}


def _plain(value: Any) -> Record:
    return value if isinstance(value, dict) else {"value": value}


def _rows(lines: Iterator[bytes]) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(line.decode("utf-8-sig") for line in lines)
    if not {"question", "answer"} <= set(reader.fieldnames or ()):
        raise ValueError(f"its columns are {', '.join(reader.fieldnames or ['none'])}")
    return iter(list(reader))


def _values(data: bytes) -> Iterable[Any]:
    """A JSON array's elements, an object's (key, value) pairs, or the records of JSONL."""
    try:
        value = json.loads(data)
    except ValueError:
        return [decode(line.decode()) for line in data.splitlines() if line.strip()]
    if isinstance(value, dict):
        return [value] if "conversations" in value or "messages" in value else list(value.items())
    if not isinstance(value, list):
        raise ValueError("it is neither an array nor an object")
    return value


def from_conversation(value: Mapping[str, Any]) -> Record:
    """LLaVA's, ShareGPT's and TRL's forms alike; several turns are a dialogue. What neither names nor shows an image is
    without one: `modality` is "text"."""
    turns = value.get("conversations") or value["messages"]
    roles = [turn.get("from") or turn.get("role") for turn in turns]
    if len(roles) % 2 or any(role not in ROLES[n % 2] for n, role in enumerate(roles)):
        why = "a record has a question and a reply in turn, and no system turn"
        raise RecordError(f"its turns are {', '.join(map(str, roles))}; {why}")
    images = value.get("images") or ([value["image"]] if value.get("image") else [])
    if len(images) > 1:
        raise RecordError(f"has {len(images)} images; a record has one")
    asked, *rest = map(_said, turns)
    if not images and any(IMAGE in text for text in (asked, *rest)):
        raise RecordError(f"its text shows an image ({IMAGE}), but it names none; add `image`, or take {IMAGE} out")
    if any(IMAGE in text for text in rest):
        raise RecordError("shows its image after the first question; move it there")
    said = [asked.replace(IMAGE, "", 1).strip("\n") if images else asked, *rest]
    pairs = list(zip(said[::2], said[1::2], strict=True))
    several = {"kind": "dialogue", "turns": [{"question": q, "answer": a} for q, a in pairs], "answer": said[-1]}
    return {
        **({"id": str(value["id"])} if value.get("id") is not None else {}), **({"image": images[0]} if images else {}),
        **(_taught(*pairs[0], seen=bool(images)) if len(pairs) == 1 else several),
        **({} if images else {"modality": "text"}),
    }  # fmt: skip


def _said(turn: Mapping[str, Any]) -> str:
    said = turn["value"] if "value" in turn else turn["content"]
    if isinstance(said, str):
        return said
    return "".join(IMAGE if part.get("type") == "image" else part.get("text") or "" for part in said)


def _taught(question: str, reply: str, seen: bool = True) -> Record:
    """A question and its reply as the fields of a triple, a choice or an open question."""
    told = re.fullmatch(re.escape(prompts.DESCRIBE).replace(r"\{superclass\}", "(.+)"), question)
    if told and seen:
        return {"superclass": told[1], "description": reply}
    chosen = re.fullmatch(
        r"(?s)(.+)\nChoices:\n(A\. .+)\nAnswer with the letter from the given choices directly\.", question
    )
    if chosen is None:
        return {"kind": "open", "question": question, "answer": reply}
    options = [line.partition(". ")[2] for line in chosen[2].split("\n")]
    index = ord(reply.strip()[:1] or "?") - ord("A")
    if not 0 <= index < len(options):
        raise RecordError(f"reply {reply!r} names no option; correct the record")
    return {"kind": "mcq", "question": chosen[1], "options": options, "answer": options[index], "answer_index": index}


def from_finedefics(row: Mapping[str, str]) -> Record:
    if row.get("type") == "multi-image":
        raise RecordError("has two images; a record has one")
    if not row["attribute"]:
        return {"image": row["image_path"], **_taught(row["question"], row["answer"])}
    told = _taught(row["question"], row["answer"])
    more = {"superclass": told["superclass"]} if "superclass" in told else {}
    parts = [row[name].split(JOINT) if row[name] else [] for name in ("neg_category", "neg_attribute")]
    negatives = [{"category": c, "description": d} for c, d in zip(*parts, strict=True)]
    return {"image": row["image_path"], "category": row["category"], **more, "description": row["attribute"],
            "negatives": negatives}  # fmt: skip


def from_pairs(pair: tuple[str, Sequence[str]], names: Sequence[str], superclass: str) -> Record:
    """FineR's attributes_pairs: "Class_7": [general description, answer, …].

    `finer_class` is what the key says. Its bird keys name the class before the true one (a label shifted by one), so
    birds get no `category`.
    """
    key, answers = pair
    if len(answers) != len(names) + 1:
        raise RecordError(
            f"{key}: has {len(answers)} answers for {len(names)} attributes and the general one; check --attrs"
        )
    said = key.rpartition("_")[0]
    category = {} if superclass == "bird" else {"category": said}
    values = dict(zip([prompts.GENERAL, *names], answers, strict=True))
    return {"id": key, "superclass": superclass, **category, "finer_class": said, "attributes": values}


def from_replies(pair: tuple[str, str]) -> Record:
    """FineR's replies, raw or trimmed: the JSON text of each, and the names that it guesses (null: it is no JSON)."""
    key, reply = pair
    text = trimmed(reply)
    return {"id": key, "json": text, "names": guessed(text)}


def trimmed(reply: str) -> str:
    """FineR's JSON text of a raw reply: what stands behind the first "Output JSON:", with its outer braces."""
    text = reply.partition("Output JSON:")[2].strip() if "Output JSON:" in reply else reply.strip()
    text = text if text.startswith("{") else "{" + text
    return text if text.endswith("}") else text + "}"


def guessed(text: str) -> list[str] | None:
    """The category names that a trimmed reply guesses: the keys of its object; None when it is no JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return [key.strip() for key in value] if isinstance(value, dict) else None


def attribute_names(text: str) -> list[str]:
    """Names from FineR's list (Python, its fused names as they are), or from attribute records.

    Raises:
        FgvrError: it is neither.
    """
    listed: Any
    try:
        listed = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        listed = None
    try:
        if not isinstance(listed, list):
            listed = [decode(line)["attribute"] for line in text.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError):
        listed = []
    if not listed or not all(isinstance(name, str) for name in listed):
        raise FgvrError("--attrs: neither a list of names nor attribute records; give the file of this data set")
    return [name for name in listed if name != prompts.GENERAL]


READERS: dict[str, Callable[[Any], Record]] = {
    "pretrain-csv": from_finedefics,
    "finetune-csv": from_finedefics,
    "llava": from_conversation,
    "sharegpt": from_conversation,
    "trl": from_conversation,
    "finer-replies": from_replies,
}
SOURCES = (*READERS, "finer-pairs")
_TURNS = 'an object with "conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]'
FORMS = {  # what a record of each kind looks like
    "pretrain-csv": f"a row with {', '.join(COLUMNS)}",
    "finetune-csv": f"a row with {', '.join(COLUMNS)}",
    "llava": _TURNS,
    "sharegpt": _TURNS,
    "trl": 'an object with "messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}, …]',
    "finer-replies": "a text under its image's key, as FineR writes them",
    "finer-pairs": "a list of answers under its key, as FineR writes them",
}
