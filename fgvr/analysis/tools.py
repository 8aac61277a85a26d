"""Rows of other tools as prediction records.

A row becomes a record with `id`, `image` (what questions on one image share), `kind`, `options`, `answer`, `category`,
`raw`, `prediction` and `correct`; `verdict` is what the row itself says of `correct`. Replies are read anew, strictly;
only FOCI's files say which option each reply was read as, and that stands unless a parser is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fgvr import metrics, prompts
from fgvr.answers import normalise, read_yes_no
from fgvr.errors import RecordError
from fgvr.records import Record
from fgvr.stages.questions import read_reply

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def reread(record: Record, parser: str) -> Record:
    """A prediction with its reply read anew; open questions and captions, and choices without a reply, stay."""
    if record.get("kind") not in ("mcq", "yesno") or not isinstance(record.get("raw"), str):
        return record
    if record["kind"] == "mcq" and not _texts(record.get("options")):
        return record
    return _judged({**record, "prediction": read_reply(record, record["raw"], parser)})


def _judged(record: Record) -> Record:
    """With `correct`: null where no answer is known."""
    answer, prediction = record.get("answer"), record["prediction"]
    if answer is None:
        return {**record, "correct": None}
    golds: list[str] = [answer, *((record.get("aliases") or []) if record["kind"] == "open" else [])]
    return {**record, "correct": prediction is not None and metrics.exact(prediction, golds)}


def _need(row: Record, *names: str) -> None:
    missing = [name for name in names if name not in row]
    if missing:
        raise RecordError(f"no {missing[0]!r} in the row; is this the right --format?")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= 26 and all(isinstance(text, str) for text in value)


def foci(row: Record, parser: str | None) -> list[Record]:
    """One of FOCI's predictions; of its CLIP files two, `label` over all labels and `mcq` over the four options."""
    if "prediction4" in row:
        _need(row, "image", "prediction", "target")
        if not all(isinstance(row[name], str) for name in ("image", "prediction", "prediction4", "target")):
            raise RecordError("image, prediction, prediction4 and target must be texts; correct the row")
        base = {"image": row["image"], "options": None, "answer": row["target"], "category": row["target"], "raw": None}
        said = {"label": row["prediction"], "mcq": row["prediction4"]}
        return [
            _judged({"id": f"{row['image']}/{kind}", "kind": kind, **base, "prediction": name})
            for kind, name in said.items()
        ]
    _need(row, "image", "predicted", "correct")
    options: Any = row.get("options")
    answer, said = row["correct"], row["predicted"]
    if not all(isinstance(text, str) for text in (row["image"], answer, said)):
        raise RecordError("image, predicted and correct must be texts; correct the row")
    yesno = answer in ("yes", "no") and not (_texts(options) and answer in options)
    kind = "yesno" if yesno else "mcq"
    record = {
        "id": f"{row['image']}/{kind}",
        "image": row["image"],
        "kind": kind,
        "options": ["yes", "no"] if yesno else options if _texts(options) else None,
        "answer": answer,
        **({} if yesno else {"category": answer}),
        "raw": row.get("predicted_raw"),
    }
    if yesno:
        return [_judged({**record, "prediction": read_yes_no(said, parser or "foci-prefix")})]
    if parser is not None and record["options"] and isinstance(record["raw"], str):
        return [reread({**record, "prediction": None}, parser)]
    failed = said.startswith("NA ###") or (record["options"] is not None and said not in record["options"])
    return [{**record, "prediction": None if failed else said, "correct": not failed and said == answer}]


def vlmevalkit(row: Record, parser: str | None) -> list[Record]:
    """A row of a VLMEvalKit table: options in columns A, B, ...; `answer` is a letter; `prediction` the raw reply.
    Rows index, index + 1,000,000, ... are one question with its options turned (CircularEval)."""
    cells = {name if name in LETTERS else str(name).lower(): _cell(value) for name, value in row.items() if name}
    _need(cells, "prediction", "answer")
    options: list[str] = []
    for letter in LETTERS:
        text = cells.get(letter)
        if text in (None, "", "nan"):
            break
        options.append(str(text))
    index = cells.get("index") or ""
    base = str(int(index) % 1_000_000) if index.isdigit() else index
    record = {
        **({"id": index} if index else {}),
        "image": cells.get("image_path") or base or None,
        **({"base": base} if base else {}),
        **{name: cells[name] for name in ("split", "l2-category") if cells.get(name)},
        **({"topic": cells["category"]} if cells.get("category") else {}),
    }
    verdict = {"0": False, "1": True, "0.0": False, "1.0": True}.get(cells.get("hit") or "")
    return [_read({**record, "verdict": verdict}, options, cells["answer"], cells["prediction"] or "", parser)]


def _cell(value: Any) -> str | None:
    """A table's cell as text: 3.0 is 3, an empty one None."""
    if value is None:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def lmms_eval(row: Record, parser: str | None) -> list[Record]:
    """A line of lmms-eval's samples: reply in filtered_resps or resps, gold in target, options in doc or input."""
    _need(row, "target")
    if "filtered_resps" not in row and "resps" not in row:
        raise RecordError("no 'filtered_resps' in the row; is this the right --format?")
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    options = _options(doc) or _shown(row.get("input") or row.get("arguments"))
    key = str(row.get("doc_id", ""))
    more = f"/{row['filter']}" if isinstance(row.get("filter"), str) else ""
    record: Record = {**({"id": key + more} if key else {}), "image": key or None}
    for name in ("exact_match", "acc", "accuracy"):
        if row.get(name) in (0, 1):
            record["verdict"] = bool(row[name])
    replies = row.get("filtered_resps", row.get("resps"))
    scores = _likelihoods(replies)
    if scores and len(scores) == len(options):
        gold = _gold(str(row["target"]), options)
        own = {"kind": "mcq", "options": options, "answer": gold, "category": gold, "raw": None, "scores": scores}
        return [_judged({**record, **own, "prediction": options[scores.index(max(scores))]})]
    return [_read(record, options, str(row["target"]), _first(replies), parser)]


def _first(value: Any) -> str:
    """The first text in nested lists."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value if isinstance(value, str) else ""


def _likelihoods(value: Any) -> list[float]:
    """[[log-likelihood, is greedy], ...], one for each option; [] when it is something else."""
    if not isinstance(value, list) or len(value) < 2:
        return []
    pairs = [pair[0] if isinstance(pair, list) and pair and isinstance(pair[0], list) else pair for pair in value]
    good = all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], (int, float)) for pair in pairs)
    return [float(pair[0]) for pair in pairs] if good else []


def _options(doc: Record) -> list[str]:
    """The options of a lmms-eval document: fields A, B, ..., or a list (or its text) named options or choices."""
    lettered = []
    for letter in LETTERS:
        if not isinstance(doc.get(letter), str) or doc[letter] in ("", "nan"):
            break
        lettered.append(doc[letter])
    if len(lettered) > 1:
        return lettered
    for name in ("options", "choices"):
        found: Any = doc.get(name)
        if isinstance(found, str):
            import ast

            try:
                found = ast.literal_eval(found)
            except (ValueError, SyntaxError):
                continue
        if isinstance(found, dict):
            found = list(found.values())
        if _texts(found) and len(found) > 1:
            return [re.sub(r"^\(?[A-Z][.):]\s+", "", text) for text in found]
    return []


def _shown(prompt: Any) -> list[str]:
    """The options as lines "A. ..." of a prompt, from A on; [] without."""
    found = re.findall(r"(?m)^\s*\(?([A-Z])[.):]\s*(\S.*?)\s*$", _first(prompt))
    options = [text for (letter, text), want in zip(found, LETTERS, strict=False) if letter == want]
    return options if len(options) == len(found) > 1 else []


def _gold(target: str, options: list[str]) -> str | None:
    """The option that a target names: its letter, its text, or its number from 0."""
    target = target.strip().strip("()[]'\"").strip() or target
    for option in options:
        if normalise(option) == normalise(target):
            return option
    index = LETTERS.find(target.upper()) if len(target) == 1 and target.isalpha() else -1
    index = int(target) if target.isdigit() else index
    return options[index] if 0 <= index < len(options) else None


def _read(record: Record, options: list[str], target: str | None, raw: str, parser: str | None) -> Record:
    """A prediction from a raw reply: a choice where there are options, yes or no where the target is, else open."""
    target = (target or "").strip()
    if not options and re.fullmatch(r"\(?[A-Z]\)?\.?", target):  # the letter is all there is to go by
        options = list(LETTERS[: max(4, LETTERS.index(target.strip("().")) + 1)])
    own: Record
    if len(options) > 1:
        answer = _gold(target, options)
        if answer is None:
            raise RecordError(f"the target {target!r} is none of the options {options}; correct the row")
        own = {"kind": "mcq", "options": options, "answer": answer, "category": answer}
    elif target.lower() in ("yes", "no"):
        own = {"kind": "yesno", "options": ["yes", "no"], "answer": target.lower()}
    else:
        own = {"kind": "open", "options": None, "answer": target or None, **({"category": target} if target else {})}
    made = {**record, **own, "raw": raw}
    return _judged({**made, "prediction": read_reply(made, raw, parser or "strict")})


def finer(lines: Iterable[bytes]) -> Iterator[Record]:
    """FINER's printed output: "index | prediction | gold", each followed by what it compared, then its scores."""
    for line in lines:
        found = re.fullmatch(r"(\d+) \| (.*) \| (.*?)\s*", line.decode("utf-8", "replace"))
        if found:
            own = {"id": found[1], "image": found[1], "kind": "open", "options": None, "answer": found[3]}
            said = prompts.parse_answer(found[2]) or None
            yield _judged({**own, "category": found[3], "raw": found[2], "prediction": said})
