"""Attributes of a concept, "required" and "likely": what a model is asked, and the parser of its reply.

The wording is FINER's (Kim & Ji, `llava/serve/prompts.py`). Its parser knows two bullets and cuts a section at the next
"likely" in any sentence; this one reads what models write. It takes any text and never raises.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable

KINDS = ("required", "likely")
_ASKED = "What are useful visual features for distinguishing {concept} in a photo?"
_LISTS = " Provide the answer as lists of required and likely attributes."
_SHAPE = (
    " For example, for a bengal tiger (Felis Tigris) you might say:\n\nRequired:\n- yellow to light orange coat\n"
    "- dark brown to black stripes\n- black rings on the tail\n- inner legs and belly are white\n- 21 to 29 stripes\n\n"
    "Likely:\n- lives in mangrove, wooded habitat\n- amber, yellow eyes\n- large, padded paws\n- long tail\n"
    "- stout teeth\n\n'Required' attributes are a set of external, physical attributes that allows a human to "
    "distinguish it from other similar looking concepts. 'Likely' attributes are attributes that may or may not be "
    "visible or are not one of the most discriminative features. In the required (Required:) set, do not include "
    "relative, non-visual attributes like size or weight, only the external, visually distinguishable attributes. "
    "Provide your response in the above format, saying nothing else. If there are no useful visual features, simply "
    'write "none".'
)
TEXT = _ASKED + _LISTS + _SHAPE
IMAGE = _ASKED.replace("{concept} in a photo", "the {concept} in the photo") + _LISTS + _SHAPE
DOCUMENT = (
    "What are useful visual, external features for distinguishing {concept} in a photo? Given an input document "
    "(Document:) that may talk about {concept}, provide the answer as lists of required and likely attributes. If no "
    "document is given, generate from what you already know about {concept}." + _SHAPE + "\n\nDocument: {document}"
)
PROMPTS = {"text": TEXT, "image": IMAGE, "document": DOCUMENT}
WORDS = 256  # of a document


def passage(document: str) -> str:
    """What is handed on of an encyclopaedia page: its first 256 words from "== Description ==" on, else from
    "== Design ==", else from the beginning (FINER)."""
    for heading in ("Description", "Design"):
        found = re.search(rf"(?im)^\s*==+\s*{heading}\s*==+\s*$", document)
        if found:
            document = document[found.end() :]
            break
    return " ".join(document.split()[:WORDS])


_MARK = r"(?:[-*•‣▪●○◦–—+·]|\(?(?:\d{1,3}|[a-zA-Z])[.)]|\(?\d{1,3}\s?[:\]])"
_BULLET = re.compile(rf"^\s*{_MARK}\s+(?=\S)|^\s*[•‣▪●○◦](?=\S)|^\s*-(?=[^\W\d_])")
_NAMED = r"(?:(?:visual|external|physical|distinguishing|key)\s+)*(?:(?:attribute|feature|set|list|characteristic)s?)"
_HEADING = re.compile(
    rf"(?i)^(required|likely)(?:\s+{_NAMED})?(?:\s*\([^)]*\))?\s*(?:[:：=]|\s[-–—]\s|[-–—]?$)\s*(.*)$"
)
_LED = re.compile(r"(?i)^(?:[\w']+ ){1,4}(required|likely)(?: [\w']+){0,4}\s*[:：]\s*(.*)$")
_NONE = re.compile(
    r"(?i)[\W_]*(?:none|n/?a|nothing|no (?:useful |visual )*(?:features?|attributes?)[\w\s]*|null)?[\W_]*"
)
_OVER = re.compile(r"(?i)^(?:note|notes|in summary|overall|these (?:attributes|features)|please note|i hope)\b")


def parse(reply: str, most: int = 40) -> dict[str, list[str]]:
    """{required, likely} of a reply: in its order, without repetition, at most `most` each, of 200 characters each.

    Headings in any case, with or without colon, markup, number or "attributes"; below them bullets of any kind,
    numbered or lettered lines, or plain lines; or items behind the heading, parted by ";" or ","; or a JSON or Python
    object. Without any heading, its bullets are required ones. "none" is no attribute. A sentence that closes the reply
    ("Note: ...") is none either, nor is what stands in <think>...</think>.
    """
    text = re.sub(r"(?s)<think>.*?(?:</think>|$)", "", reply[:20_000])
    found = _object(text)
    if found is None:
        found = {kind: [] for kind in KINDS}
        for kind, lines in _sections(text):
            found[kind] += _items(lines)
    return {kind: _clean(found[kind])[:most] for kind in KINDS}


def _object(text: str) -> dict[str, list[str]] | None:
    inner = text[text.find("{") : text.rfind("}") + 1]
    if not re.search(r"(?i)[\"'](?:required|likely)", inner):
        return None
    value: object = None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(inner)
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    if not isinstance(value, dict):
        return None
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for key, held in value.items():
        kind = next((kind for kind in KINDS if str(key).lower().strip().startswith(kind)), None)
        if kind:
            held = [held] if isinstance(held, str) else held
            found[kind] += [str(one) for one in held] if isinstance(held, list) else []
    return found


def _sections(text: str) -> list[tuple[str, list[str]]]:
    """The lines below each heading; the rest of a heading's own line is parted and comes as bullets."""
    found: list[tuple[str, list[str]]] = []
    lines = text.splitlines()
    for line in lines:
        bullet = _BULLET.match(line)
        bare = re.sub(r"^[\s#>]+|[*_`#]+", "", line[bullet.end() :] if bullet else line).strip().strip("\"'[]")
        head = _HEADING.match(bare) or (None if bullet else _LED.match(bare))
        if head:
            rest = [f"- {part}" for part in _parted(head[2])]
            found.append((head[1].lower(), rest))
        elif found:
            found[-1][1].append(line)
    return found or [("required", [line for line in lines if _BULLET.match(line)])]


def _parted(text: str) -> list[str]:
    """Items in one line, at ";" where there is one, else at commas outside brackets, else at bullets."""
    if not text.strip():
        return []
    text = text.strip().strip("[]")
    if re.search(r"\s[-*•]\s", f" {text}"):
        return [part for part in re.split(r"(?:^|\s)[-*•]\s+", text) if part.strip()]
    return re.split(r"\s*;\s*" if ";" in text else r"\s*,\s*(?:and\s+)?(?![^(]*\))", text)


def _items(lines: Iterable[str]) -> list[str]:
    """The bullets with what is indented below them; where there is no bullet, every line."""
    found: list[str] = []
    plain: list[str] = []
    for line in lines:
        bullet = _BULLET.match(line)
        if bullet:
            found.append(line[bullet.end() :])
        elif _OVER.match(line.strip()):
            break
        elif found and re.match(r"\s{2,}\S", line):
            found[-1] += " " + line.strip()
        elif line.strip():
            plain.append(line)
    return found or plain


def _clean(items: Iterable[str]) -> list[str]:
    found: dict[str, str] = {}
    for item in items:
        text = " ".join(re.sub(r"\*+|`|(?<!\w)_+|_+(?!\w)", "", item).split()).strip(" \"'.,;[]")
        if not _NONE.fullmatch(text):
            found.setdefault(text.casefold(), text[:200])
    return list(found.values())
