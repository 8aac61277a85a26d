"""What models are asked, with the source of the wording, and beside each question the parser of its reply.

Finedefics: arXiv 2501.15140, section 3.1. FineR: Liu et al., ICLR 2024, whose prompts Finedefics builds on. FOCI:
Geigle et al. 2024. A parser takes any text and never raises: what it cannot read becomes an empty value, and the
caller decides. Every result is bounded in length, whatever a model says. The templates are plain constants, so that a
run record can hash them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

GENERAL = "General description of the image"    # Finedefics' attribute N_0, asked before all others
UNKNOWN = "unknown"

# Finedefics' sentence (section 3.1), and the output format of FineR's "how-to" prompt
DISCOVER = (
    "Your task is to tell me what are the useful attributes for distinguishing {superclass} {class_unit} "
    "in a photo of a {superclass}.\n"
    "Output a Python list object that contains the listed useful attributes."
)
# Finedefics' P_0 for GENERAL, FineR's wording for every other attribute
EXTRACT_GENERAL = "Questions: Describe this image in details. Answer:"
EXTRACT = "Describe the {attribute} of the {superclass} in this image."
# Finedefics' sentence (section 3.1), then FineR's layout without its triple quotes
SUMMARISE = (
    "Summarize the information you get about the {superclass} from the general description and attribute description "
    "with five sentences.\n\n"
    "General Description: {general}\n\n"
    "Attributes List:\n{attributes}"
)
# ours, for the ablation of description length; the rest as above
SUMMARISE_SHORT = SUMMARISE.replace("with five sentences", "with one sentence")
NO_DESCRIPTION = "This is a {superclass}."       # ours: a description that tells nothing
# Finedefics' own wording for what a model knows of a category (section 2.2)
DESCRIBE_CATEGORY = "Give a brief description of distinguishing features of {category}"
# ours: all attributes of an image in one reply
GROUP = (
    "Look at the {superclass} in this image and do what each key asks. Reply with one JSON object that has exactly "
    'these keys, each with a short text; write "unknown" where the image does not show it.\n{questions}'
)
# FOCI's closed-set format; its own question is "Which of these {superclass}s is shown in the image?"
MULTIPLE_CHOICE = "{question}\nChoices:\n{choices}\nAnswer with the letter from the given choices directly."
CHOICES = "Which of these choices is shown in the image?"  # FOCI's default query
# FOCI's yes-or-no query, its instruction apart
YES_NO = "Does the image show a/an {option}?"
YES_OR_NO = "Answer with yes or no."
# ours: the paper gives no wording
OPEN = "What is the name of the {superclass} in this image?"
DESCRIBE = "Describe the {superclass} in this image in detail."

# ---- useful attributes (discover-attrs) ----


def discover(superclass: str, class_unit: str, template: str = DISCOVER) -> str:
    """Ask a language model which attributes tell e.g. bird species apart; `parse_attributes` reads the reply."""
    return fill(template, superclass=superclass, class_unit=class_unit)


def fill(template: str, **values: str) -> str:
    """A template with {name} replaced for the names given; other braces stay as they are, JSON included."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)


def parse_attributes(reply: str, most: int = 40) -> list[str]:
    """Attribute names of a reply: lower case, unique, in its order, at most `most`, each of 6 words or 60 characters.

    Reads a Python or JSON list or object, the longest if there are several (an object's names are its keys; two
    strings without a comma between them are two; a list that breaks off counts up to there; of a list of objects their
    "name" or "attribute" counts); else bullets and numbered lines ("- **Bill shape**: how ..." gives "bill shape");
    else short lines, or prose with a list inside ("Useful attributes are: bill shape, wing colour and size."). [] when
    nothing looks like a list of names.
    """
    reply = reply[:20_000]
    quoted = re.findall(r"""["'](?:name|attribute)["']\s*:\s*(["'])([^"'\n]{1,80})\1""", reply)
    objects = _names(name for _, name in quoted)
    if len(objects) > 1:
        return objects[:most]
    bracketed = [_names(_quoted(group)) for group in re.findall(r"[\[{][^\[\]{}]*", reply)]
    best = max(bracketed, key=len, default=[])
    lines = re.findall(r"(?m)^[ \t]*(?:[-*•–+]|\(?\d{1,3} ?[.):-])[ \t]+(.+)$", reply)
    if len(best) < 2:
        listed = _names(_head(line) for line in lines)
        best = listed if len(listed) > len(best) else best
    return (best or _names(_enumerated(reply)))[:most]


def _quoted(group: str) -> list[str]:
    """The strings of a bracketed group; of an object only the keys; bare words at commas when nothing is quoted."""
    strings = re.findall(r"""(?<!\w)(?:"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.|'(?=\w))*)')\s*(:?)""", group)
    keyed = group.startswith("{")
    found = [re.sub(r"\\(.)", r"\1", double or single) for double, single, colon in strings if bool(colon) or not keyed]
    return found if strings else group[1:].split(",")


def _head(line: str) -> str:
    """Of "**Bill shape** (long or short): its form" only "Bill shape"."""
    return re.split(r":|\s[-–—]\s|\(|\.(?:\s|$)", line.replace("*", "").replace("`", ""), maxsplit=1)[0]


def _enumerated(text: str) -> list[str]:
    """Short lines, three or more; or parts of the sentence with the most commas, from behind its colon or its verb."""
    lines = [line for line in text.splitlines() if line.strip() and not line.rstrip().endswith(":")]
    if len(lines) > 2 and all(len(line.split()) <= 4 for line in lines):
        return lines
    sentence = max(re.split(r"\.(?:\s|$)|\n", re.sub(r"\([^)]*\)", "", text)), key=lambda s: s.count(","))
    *opening, listed = re.split(r":|\b(?:are|include|includes|including|such as)\b", sentence)
    parts = re.split(r",\s*(?:and\s+|or\s+)?|\s+and\s+", listed)
    excuse = re.search(r"\b(?:sorry|i|i'm|i’m|we|you|cannot)\b", listed, re.IGNORECASE)
    return parts if not excuse and len(parts) > (1 if opening else 2) else []


def _names(found: Iterable[str]) -> list[str]:
    spaced = (re.sub(r"[\s_]+", " ", name).strip(" \"'`*.,;:").lower() for name in found)
    names = (re.sub(r"^(?:the|its|a|an) ", "", name) for name in spaced)
    return list(dict.fromkeys(n for n in names if re.search(r"[^\W\d]", n) and len(n) <= 60 and len(n.split()) <= 6))


def merged(names: Iterable[str]) -> list[str]:
    """The names without near-duplicates, the first spelling of "bill shape", "Bill-Shapes" and "shape of the bill"."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(same_name(name), name)
    return list(found.values())


def same_name(name: str) -> str:
    """What near-duplicates have in common: their words without number, order, filling words and American spelling."""
    return " ".join(sorted(w for w in _words(name) if w not in ("of", "the", "a", "an", "and", "it"))) or name.lower()


def _words(name: str) -> list[str]:
    """The words of a name in their order, singular and in British spelling."""
    words = re.findall(r"[^\W_]+", re.sub(r"['’]s?\b", "", name.lower()))
    stems = (re.sub(r"(?<=[^su])s$", "", re.sub(r"(?<=..)ies$", "y", word)) for word in words)
    return [_BRITISH.get(stem, stem) for stem in stems]


def agreed(samples: Sequence[Sequence[str]], keep: int) -> list[str]:
    """Names in at least `keep` of the samples, near-duplicates counted as one; the most often named first.

    Source: self-consistency, Wang et al. 2023 (arXiv 2203.11171), for lists.
    """
    counts = Counter(key for names in samples for key in {same_name(name) for name in names})
    return sorted(
        (name for name in merged(name for names in samples for name in names) if counts[same_name(name)] >= keep),
        key=lambda name: -counts[same_name(name)],
    )


def attribute_type(name: str) -> str:
    """ "colour", "shape", "texture", "size" (the types of Finedefics' ablation, Table 5) or "other".

    Its last telling word decides: a petal colour pattern is a texture, a tail shape a shape.
    """
    for word in reversed(_words(name)):
        if word in _TYPES:
            return _TYPES[word]
    return "other"


ATTRIBUTE_TYPES = ("colour", "shape", "texture", "size", "other")
_BRITISH = {"color": "colour", "gray": "grey", "colouration": "colour", "coloration": "colour", "colouring": "colour",
            "coloring": "colour", "center": "centre"}  # fmt: skip
_TYPES = {
    word: kind
    for kind, words in {
        "colour": "colour hue shade tint tone paint",
        "shape": "shape form silhouette outline curvature symmetry posture contour profile margin arrangement",
        "texture": "texture pattern marking stripe spot material surface finish skin fur coat plumage feather venation",
        "size": "size length width height thickness weight diameter depth proportion span wingspan",
    }.items()
    for word in words.split()
}


# ---- one attribute of one image (extract-attrs) ----


def attribute_question(attribute: str, superclass: str) -> str:
    """Ask a vision-language model for one attribute, or for GENERAL; `parse_answer` reads the reply."""
    return EXTRACT_GENERAL if attribute == GENERAL else EXTRACT.format(attribute=attribute, superclass=superclass)


def parse_answer(reply: str, most: int = 300) -> str:
    """The answer in a reply: what stands before a next "Question:" (FineR), on one line, at most `most` characters.

    A leading "Answer:" is dropped; a longer text is cut at a word; "unknown" in any spelling becomes "unknown"; ""
    stays.
    """
    text = re.sub(r"^\s*answer\s*:", "", reply, flags=re.IGNORECASE)
    text = " ".join(re.split(r"\bquestions?\s*:", text, maxsplit=1, flags=re.IGNORECASE)[0].split())
    if re.fullmatch(r"[\W_]*unknown[\W_]*", text, re.IGNORECASE):
        return UNKNOWN
    return text if len(text) <= most else text[: most + 1].rpartition(" ")[0] or text[:most]


def is_unknown(answer: str) -> bool:
    """Whether an answer says that nothing is known."""
    return re.fullmatch(_UNKNOWN, answer.strip()) is not None


_UNKNOWN = re.compile(
    r"(?is)[\W_]*(?:unknown|n/?a|not (?:visible|shown|sure|clear|known|available|applicable)|cannot (?:tell|see|say)|"
    r"i(?: do not|['’]t| don['’]t) know|(?:it )?can(?:not|['’]t) be (?:determined|seen)|unclear|unsure)[\W_]*"
)


def group_question(questions: Mapping[str, str], superclass: str) -> str:
    """Ask for several attributes of an image at once; `parse_group` reads the reply."""
    listed = "\n".join(f"{json.dumps(name, ensure_ascii=False)}: {question}" for name, question in questions.items())
    return fill(GROUP, superclass=superclass, questions=listed)


def group_schema(names: Iterable[str]) -> dict[str, Any]:
    """The JSON schema of that reply."""
    found = {name: {"type": "string"} for name in names}
    return {"type": "object", "properties": found, "required": list(found), "additionalProperties": False}


def parse_group(reply: str, names: Iterable[str]) -> dict[str, str]:
    """Attribute -> answer, all names, "" for one that the reply lacks; each answer read by `parse_answer`.

    Reads the first JSON object, with or without what stands around it; of one that is torn or damaged, and of lines
    like `- bill shape: hooked`, each name's value by itself. Names are told apart by `same_name`.
    """
    reply = reply[:100_000]
    start, end = reply.find("{"), reply.rfind("}")
    try:
        value = json.loads(reply[start : end + 1])
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        pairs = [(key, ", ".join(map(str, v)) if isinstance(v, list) else v) for key, v in value.items()]
        pairs = [(key, v) for key, v in pairs if isinstance(v, (str, int, float))]
    else:
        pairs = [(a, c) for a, _, c in re.findall(r"""["']([^"'\n]{1,80})(["'])\s*:\s*"((?:[^"\\\n]|\\.)*)""", reply)]
        pairs = pairs or re.findall(r"(?m)^[\s\-*•\d.)]*([^:\n]{1,80}?)[\s*]*:[\s*]*(\S[^\n]*)$", reply)
    found = {same_name(key): str(v) for key, v in reversed(pairs)}
    return {name: parse_answer(found.get(same_name(name), "")) for name in names}


# ---- one description out of all attributes (summarise) ----


def summarise(superclass: str, values: Mapping[str, str], template: str = SUMMARISE) -> str:
    """Ask a language model for a description; `parse_description` reads the reply.

    The general description (the value of GENERAL) stands first; its paragraph is left out when there is none.
    values: attribute -> answer; line breaks in them become spaces, so that an answer cannot start a line of its own.
    template: {superclass}, {general} and {attributes} are filled in; {attributes} becomes lines "- name: value". A
        line with {attribute} and {value} instead is repeated for every attribute, in that line's own format.
    """
    flat = {" ".join(k.split()): " ".join(str(v).split()) for k, v in values.items()}
    general = flat.pop(GENERAL, None)
    if general is None:
        template = re.sub(r"(?m)^[^\n]*\{general\}[^\n]*\n*", "", template)
    own = {
        "superclass": superclass,
        "general": general or "",
        "attributes": "\n".join(f"- {name}: {value}" for name, value in flat.items()),
    }
    lines: list[str] = []
    for line in template.split("\n"):
        each = "{attribute}" in line and "{value}" in line
        pairs = flat.items() if each else [("", "")]
        lines += [fill(line, **own, **({"attribute": name, "value": value} if each else {})) for name, value in pairs]
    return "\n".join(lines)


def describe_category(category: str) -> str:
    """Ask a language model for a category's description, without an image; `parse_description` reads the reply."""
    return fill(DESCRIBE_CATEGORY, category=category)


def first_sentence(text: str) -> str:
    """A text up to the end of its first sentence."""
    found = re.match(r"(?s).+?[.!?](?=\s|$)", text)
    return found[0] if found else text


def parse_description(reply: str, most: int = 2000) -> str:
    """The description in a reply, on one line, at most `most` characters, cut at a sentence where possible.

    What goes: everything up to "Summary:", an opening like "Sure! Here is the summary:", repeated attribute lines, list
    marks, what follows ("Three possible species: ...", "Output JSON: ...", a next question, a list of guesses), a
    sentence that guesses ("A possible species is ..."), a last sentence that ends in a colon, quotes.
    """
    text = re.split(r"(?im)^[^\w\n]*summary[^\w\n]*:\W*", reply[:20_000], maxsplit=1)[-1].strip()
    text = re.sub(r"^```\w*\s*", "", text)
    text = _TAIL.split(text, maxsplit=1)[0]
    text = _CHATTER.sub("", text.lstrip(), count=1)
    guesses = re.search(r"(?:^|(?<=[.!?\n]))[^.!?\n]+:\s{1,9}(?<=\n)[ \t]*(?:[-*•]|\d{1,2}[.)])\s", text)
    if guesses and text[: guesses.start()].strip():
        text = text[: guesses.start()]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _PAIR.match(line)]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    text = " ".join(" ".join(re.sub(r"^(?:[-*•]|\d{1,2}[.)])\s+", "", line) for line in lines).split())
    text = re.sub(r"(?:^|(?<=[.!?])\s+)[^.!?]*:$", "", _GUESS.sub("", text)).strip(" \"'`*")
    return _cut(text, most)


_TAIL = re.compile(
    r"(?im)(?:^[^\w\n]*|(?<=[.!?] ))"
    r"(?:(?:the |my )?(?:three )?possible\b[^.\n]{0,60}:|output json|json\b|questions?\s*:|note\s*:)|\{|```"
)
_CHATTER = re.compile(
    r"(?i)(?:(?:sure|certainly|of course|okay|ok|absolutely)(?: thing)?\s*[.:!,]\s*)?"
    r"(?:(?:i['’]d|i would|i['’]ll|i can)\b[^.:!\n]{0,80}[.:!]\s*)?"
    r"(?:here(?:\s+is|['’]s|\s+are)\b[^.:\n]{0,100}:\s*)?"
)
_GUESS = re.compile(
    r"(?i)(?:^|(?<=[.!?]) )[^.!?]*\bpossible (?:\w+ ){0,3}(?:names?|species|breeds?|models?|categor\w+)\b[^.!?]*[.!?]"
)
_PAIR = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])\s+[^.:]{1,60}:\s*\S")  # "- bill shape: hooked"


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    sentences = re.match(rf"(?s).{{1,{most - 1}}}[.!?](?=\s|$)", text)
    return sentences[0] if sentences else text[: most + 1].rpartition(" ")[0] or text[:most]


def leaks(text: str, category: str) -> bool:
    """Whether a text names the category, whatever the case and whether parted by space, "_" or "-"."""
    return _name(category).search(text) is not None


def hide_name(text: str, category: str, superclass: str) -> str:
    """Replace the category's name by "this <superclass>" ("This ..." at the start of a sentence), its article with it.

    A description that names the category would let alignment read the answer instead of the attributes. (Finedefics
    replaces names by pronouns in its probe, section 2.2.) A name that is part of the superclass is left: it gives
    nothing away.
    """
    if leaks(superclass, category):
        return text

    def pronoun(match: re.Match[str]) -> str:
        before = text[: match.start()].rstrip()
        word = "This" if not before or before[-1] in ".!?\n" else "this"
        return f"{word} {superclass}{match['own'] or ''}"

    return _name(category).sub(pronoun, text)


def _name(category: str) -> re.Pattern[str]:
    words = [re.sub("['’]", "['’]?", re.escape(w)) for w in re.split(r"[\s_-]+", category) if w]
    inner = r"[\s_-]*".join(words) if words else r"(?!)"            # no words: matches nothing
    return re.compile(rf"(?<!\w)(?:(?:a|an|the|this|that)\s+)?{inner}(?P<own>['’]s)?(?:e?s)?(?!\w)", re.IGNORECASE)


# ---- questions (questions, eval) ----


def open_question(superclass: str) -> str:
    """Open-set question, answered with a name; `fgvr.answers.label` reads the reply."""
    return OPEN.format(superclass=superclass)


def multiple_choice(question: str, options: Sequence[str], template: str = MULTIPLE_CHOICE) -> str:
    """Closed-set question; `fgvr.answers.read_option` reads the reply. The options stand one a line, from A.

    Raises:
        ValueError: fewer than 2 options, more than 26, or one that is blank or holds a line break.
    """
    if not 2 <= len(options) <= 26 or any("\n" in option or not option.strip() for option in options):
        raise ValueError(f"need 2 to 26 options of one line each, got {list(options)}")
    choices = "\n".join(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))
    return template.format(question=question, choices=choices)


def describe(superclass: str) -> str:
    """Ask for a description of the image: the generation task of stage I (L_G in Eq 8)."""
    return DESCRIBE.format(superclass=superclass)
