"""Read an option or a label out of a model's reply. Named strategies, none of which ever guesses.

`strict` (the default) takes, in this order:

1. the declared answer, the last one if there are several: "Answer: B", "the correct option is (C)", "I choose B",
   "\\boxed{B}", "B is correct"; a declaration may give the option's text instead of its letter;
2. the letter that the reply starts with or consists of: "B", "(B)", "B.", "b)", "**B**", "B: Blue Jay";
3. the one letter that stands alone in the rest: "This bird matches (B)";
4. the one option whose text stands in the reply as whole words; of nested texts ("petunia" in "mexican petunia") the
   longest.

Two candidates at the rule that decides, a letter beside another option's text ("B. <text of A>"), or nothing at all:
None. What is denied ("not B", "A is not right") is no candidate. Only letters of real choices count; words do not
("American Crow" is not A, "I think" is not I, "a bird" is not A). What a model thinks aloud (<think>...</think>) is no
answer. An option's aliases stand for its text.

The other strategies are kept to compare with published figures; what each lets through is in docs/evaluation.md. None
of them draws at random where its source does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache

Strategy = Callable[[str, Sequence[str]], "int | None"]

UNDECIDED = -1  # what a rule returns when it finds nothing; None is a decision: the reply names no single option
WINDOW = 400    # characters read after "answer:"; keeps the time linear in the reply's length

_MARKUP = re.compile(r"</?s>|<end_of_utterance>|<\|im_end\|>|[*`$]|\\(?:text|mathrm|mathbf)\b")
_END = r"(?!\w|['’&/-]\w)"  # no letter of "I'm", "C/V", "C-Class", "R&D"
_LETTER = rf"[(\[{{]?\s*([A-Za-z]){_END}(?:\s*[)\]}}])?"
_IS = r"(?:\s*[\"']?\s*[:=>]+\s*|\s+(?:is|are|was|would be|should be|must be|will be)\b\s*[:=]?\s*)"
_HEDGE = (
    r"(?:(?:most|likely|probably|clearly|therefore|thus|definitely|simply|the|option|choice|letter|answer)\b:?\s*)*"
)
_NOUN = r"(?:answer|choice|selection|pick|solution|identification|match|fit|guess|prediction|conclusion)"
_VERB = r"(?:answer|choose|chose|select|selected|pick|picked|go with|going with)"
# each match ends where the declared thing begins
_DECLARED = re.compile(
    rf"\b{_NOUN}\b(?:\s+(?:here|(?:to|for)\b[^.:\n]{{0,60}}))?{_IS}{_HEDGE}"
    rf"|\b{_VERB}\s+(?=[(\[{{]?[A-Z]\b|option|choice|letter){_HEDGE}"
    r"|\\boxed\s*",
    re.IGNORECASE,
)
_RIGHT = re.compile(
    rf"(?<![\w'’]){_LETTER}(?:(?!\b(?-i:[A-Z])\b)[^\n]){{0,60}}?\b(?:is|seems|appears|looks)\s+(?:to be\s+)?"
    r"(?:(?:the|most|likely|probably|best|clearly|only)\s+)*(?:correct|right|answer|match|fit)\b",
    re.IGNORECASE,
)
_REASON = re.compile(r"\s*(?:because|since|as|given|due|based|and|or|for|with|is|seems|appears|looks|matches|fits)\b")
_AND = r"\s*(?:[,;:./&]|\bor\b|\band\b)\s*(?:option|choice|letter)?\s*"
_ANOTHER = re.compile(_AND + _LETTER + r"\s*(?:$|[.,;:\n)])")
_NEVER = r"(?:cannot|(?:is|was|are|were|ca|wo|do|does|did|could|would|should)n['’]?t)"
_IS_NOT = re.compile(rf"\s*(?:{_NEVER}|(?:is|was|are|were|can|could|would)\s+not)\b", re.IGNORECASE)
_DENIED = re.compile(
    rf"\b(?:not|{_NEVER}|neither|nor|unlike|rather than|instead of|except)(?: be)?"
    r"(?: (?:a|an|the|option|choice))*\s*[(\[]?$",
    re.IGNORECASE,
)


def normalise(text: str) -> str:
    """The form in which labels are compared: case, punctuation, `_`, `-` and white space folded, articles dropped.

    "Black_footed-Albatross." -> "black footed albatross"; "Wilson's" -> "wilsons"; accents are kept; a text of
    nothing but articles or punctuation keeps its articles or becomes "".
    """
    return _fold(text) if len(text) <= 200 else _fold.__wrapped__(text)


@lru_cache(maxsize=32768)  # names come again and again, long replies do not
def _fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"['’`´]", "", text)
    words = re.sub(r"[\W_]+", " ", text).split()
    return " ".join([w for w in words if w not in ("a", "an", "the")] or words)


def label(reply: str, names: Sequence[str]) -> str | None:
    """The name that a reply is, after `normalise` on both; None when it is none of them, or two at once.

    A leading "Answer:" and chat-end markers are dropped, nothing else: a sentence that contains a name is not the
    name.
    """
    said = normalise(re.sub(r"^\s*answer\s*:", "", _MARKUP.sub("", reply), flags=re.IGNORECASE))
    found = [name for name in names if normalise(name) == said] if said else []
    return found[0] if len(found) == 1 else None


def read_option(
    reply: str, options: Sequence[str], strategy: str = "strict", aliases: Sequence[Sequence[str]] = ()
) -> int | None:
    """Index of the option that a reply names, None when it names none.

    Args:
        reply: the raw text. options: 1 to 26 texts, shown to the model as A, B, ...
        strategy: a key of STRATEGIES.
        aliases: other names of each option, for `strict`; a name that fits two options is nobody's.
    Raises:
        ValueError: an unknown strategy, or no options or too many.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}; there are {', '.join(STRATEGIES)}")
    if not 1 <= len(options) <= 26:
        raise ValueError(f"need 1 to 26 options, got {len(options)}")
    if strategy == "strict" and any(aliases):
        reply = _without_aliases(reply, options, aliases)
    return STRATEGIES[strategy](reply, options)


def read_yes_no(reply: str, strategy: str = "strict") -> str | None:
    """ "yes" or "no", None when the reply says neither.

    strict: the last declared answer ("the answer is no"), else the first word, unless the other one follows as an
    alternative ("yes or no"). "foci-prefix": what the lower-cased reply starts with, "Nobody" included (FOCI).
    Raises:
        ValueError: an unknown strategy. All but foci-prefix read as strict does.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}; there are {', '.join(STRATEGIES)}")
    if strategy == "foci-prefix":
        return next((word for word in ("yes", "no") if reply.lower().startswith(word)), None)
    text = _clean(reply)
    said = [m[1] for m in re.finditer(rf"(?i)\banswer\b{_IS}[\"'(]*(yes|no)\b(?!\s*(?:or|and|/))", text)]
    said = said or re.findall(r"(?i)^[\W_]*(yes|no)\b(?![-'’]\w|\s*(?:or|and|/)\s*(?:yes|no)\b)", text)
    return said[-1].lower() if said else None


def _without_aliases(reply: str, options: Sequence[str], aliases: Sequence[Sequence[str]]) -> str:
    """The reply with each alias replaced by its option's text, the longest names first, each place once."""
    owners: dict[str, set[int]] = {}
    for i, names in enumerate(aliases):
        for name in (options[i], *names):
            owners.setdefault(normalise(name), set()).add(i)
    known = {normalise(option) for option in options}
    names = sorted((name for name, own in owners.items() if name and len(own) == 1), key=len, reverse=True)
    words = [r"[\W_]+".join(r"['’`´]?".join(map(re.escape, word)) for word in name.split()) for name in names]

    def shown(match: re.Match[str]) -> str:
        name = normalise(match[0])
        return match[0] if name in known or name not in owners else options[min(owners[name])]

    return re.sub(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", shown, reply, flags=re.IGNORECASE) if words else reply


def foci_prefix(reply: str, options: Sequence[str]) -> int | None:
    """What FOCI's released code does: the first letter of A, B, ... that the lower-cased reply starts with.

    Kept to compare with its figures: "American Crow" and "Answer: B" are A, "(B)" and " B" are failures.
    """
    letters = "abcdefghijklmnopqrstuvwxyz"[: len(options)]
    return next((i for i, letter in enumerate(letters) if reply.lower().startswith(letter)), None)


def finedefics(reply: str, options: Sequence[str]) -> int | None:
    """`foci_prefix` of what stands behind "Assistant:", every "Answer: " deleted: FOCI's way with Idefics2, which
    Finedefics' figures went."""
    return foci_prefix(reply.rpartition("Assistant:")[2].replace("Answer: ", "").strip(), options)


def vlmevalkit(reply: str, options: Sequence[str]) -> int | None:
    """VLMEvalKit's exact matching, before it asks a language model or draws a letter: the only option letter among
    the words, whatever word it is ("A bird" is A); else the only option whose text the reply contains, unless the
    reply is more than twice as long as all options."""
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    letters = {i for i in range(len(options)) if chr(ord("A") + i) in words}
    if letters:
        return _only(letters)
    return substring(reply, options) if len(reply) <= 2 * sum(map(len, options)) else None


def mmmu(reply: str, options: Sequence[str]) -> int | None:
    """MMMU's rule, which many tasks of lmms-eval share, without its random letter: the last "(B)", else the last "B "
    that stands alone, else, in more than five words, the option text that comes last."""
    text = " " + reply.strip(",.!?;:'") + " "
    letters = [chr(ord("A") + i) for i in range(len(options))]
    for form in ("({})", " {} "):
        places = [text.rfind(form.format(letter)) for letter in letters]
        if max(places) >= 0:
            return places.index(max(places))
    if len(text.split()) > 5:
        places = [text.lower().rfind(option.lower()) for option in options]
        if max(places) >= 0:
            return places.index(max(places))
    return None


def substring(reply: str, options: Sequence[str]) -> int | None:
    """The only option whose lower-case text stands anywhere in the lower-case reply, inside words too: VLMClassifier's
    score, which looks at the right label alone."""
    return _only({i for i, option in enumerate(options) if option and option.lower() in reply.lower()})


def strict(reply: str, options: Sequence[str]) -> int | None:
    """See the module's text."""
    text = _clean(reply)
    whole = {i for i, option in enumerate(options) if normalise(text) and normalise(option) == normalise(text)}
    if whole:
        return _only(whole)
    for rule in (_declared, _leading, _standing):
        choice = rule(text, options)
        if choice != UNDECIDED:
            return choice
    return _only(_mentioned(text, options))


STRATEGIES: dict[str, Strategy] = {
    "strict": strict,
    "foci-prefix": foci_prefix,
    "finedefics": finedefics,
    "vlmevalkit": vlmevalkit,
    "mmmu": mmmu,
    "substring": substring,
}


def _clean(reply: str) -> str:
    """Without markup and thinking aloud; what breaks off while thinking says nothing."""
    text = unicodedata.normalize("NFKC", reply).rpartition("</think>")[2].partition("<think>")[0]
    return re.sub(r"[ \t]+", " ", _MARKUP.sub("", text)).strip()


def _declared(text: str, options: Sequence[str]) -> int | None:
    """Rule 1: the last answer that is declared as such, by letter or by text."""
    found: list[tuple[int, int | None]] = []
    for match in _DECLARED.finditer(text):
        rest = text[match.end() : match.end() + WINDOW]
        choice = _letter_at(rest, options)
        texts = _mentioned(_sentence(rest), options)
        if choice != UNDECIDED or texts:
            found.append((match.end(), choice if choice != UNDECIDED else _only(texts)))
    for match in _RIGHT.finditer(text):
        choice = _index(match[1], options)
        if choice is not None and not _is_word(match[1], text[match.end(1) : match.end(1) + 20]):
            found.append((match.end(), choice))
    return max(found, key=lambda place: place[0])[1] if found else UNDECIDED


def _leading(text: str, options: Sequence[str]) -> int | None:
    """Rule 2: a letter at the very start; not when lines start with several letters, which only repeat the choices."""
    heads = {_index(m[1], options) for m in re.finditer(r"(?m)^\s*[(\[]?([A-Za-z])[)\].:]", text)} - {None}
    text = re.sub(r"^(?:option|choice|letter)\s+", "", text, flags=re.IGNORECASE)
    return _letter_at(text[:WINDOW], options) if len(heads) < 2 else UNDECIDED


def _standing(text: str, options: Sequence[str]) -> int | None:
    """Rule 3: capitals that stand alone outside the options' texts, letters in brackets; not the denied ("not B")."""
    for option in sorted(options, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", text, flags=re.IGNORECASE)
    letters = set()
    for match in re.finditer(rf"([(\[]\s*)?(?<![\w'’.&/-])([A-Za-z]){_END}(\s*[)\]])?", text):
        choice = _index(match[2], options)
        bracketed = match[1] is not None and match[3] is not None
        upper = match[2].isupper() and not _is_word(match[2], text[match.end(2) : match.end(2) + 20])
        if choice is not None and (bracketed or upper) and not _denied(text, match.start(2), match.end()):
            letters.add(choice)
    return _only(letters) if letters else UNDECIDED


def _letter_at(text: str, options: Sequence[str]) -> int | None:
    """The option whose letter `text` begins with; None when what follows contradicts it, UNDECIDED for no letter.

    A letter counts when it is set off ("B.", "(B)", end of line), when its own option's text follows, or a reason
    does ("B because"). Another capital counts as it is ("the answer is B here"), unless it may be a word: A, I.
    """
    match = re.match(r"[\s\"'“]*" + _LETTER, text)
    choice = _index(match[1], options) if match else None
    if match is None or choice is None or _denied(text, match.start(1), match.end()):
        return UNDECIDED
    rest = text[match.end() :]
    set_off = match[0][-1] in ")]}" or bool(re.match(r"\s*(?:$|[.:,;(\n\"'”/=<–—-])", rest))
    named = normalise(rest).startswith(normalise(options[choice]))
    capital = match[1].isupper() and match[1] not in "AI"
    if not (set_off or named or capital or _REASON.match(rest)):
        return UNDECIDED
    other = _ANOTHER.match(rest)
    if other and _index(other[1], options) not in (None, choice):
        return None
    beside = _mentioned(_sentence(rest), options)
    return None if set_off and len(beside) == 1 and choice not in beside else choice


def _sentence(text: str) -> str:
    """Up to the end of the line or sentence, without the punctuation it starts with."""
    return re.split(r"\n|\.\s|;", text.lstrip(" .:)-–—"), maxsplit=1)[0]


def _is_word(letter: str, rest: str) -> bool:
    """Whether a lone "A" or "I" is an article or a pronoun: a word follows it."""
    return letter in "AIai" and re.match(r"[^\S\n]*\w", rest) is not None and not _REASON.match(rest)


def _index(letter: str, options: Sequence[str]) -> int | None:
    """0 for A or a, 1 for B ...; None when there is no such choice."""
    index = ord(letter.upper()) - ord("A")
    return index if index < len(options) else None


def _mentioned(text: str, options: Sequence[str]) -> set[int]:
    """Options whose text stands in `text` as whole words, not denied ("not a jay"), not inside a longer option's."""
    padded = f" {normalise(text)} "
    places: list[tuple[int, int, int]] = []
    for i, option in enumerate(options):
        wanted = normalise(option)
        start = padded.find(f" {wanted} ") if wanted else -1
        while start >= 0:
            places.append((start, -(start + 1 + len(wanted)), i))
            start = padded.find(f" {wanted} ", start + 1)
    found, reach, last = set(), 0, (0, 0)
    for start, end, i in sorted(places):                     # the longest first: what ends within reach is nested
        if -end > reach or (start, end) == last:
            reach, last = max(reach, -end), (start, end)
            if not _denied(padded, start, -end):
                found.add(i)
    return found


def _denied(text: str, start: int, end: int) -> bool:
    """Whether "not" stands just before text[start:end], or "is not" just behind it."""
    before, behind = text[max(0, start - 40) : start], text[end : end + 20]
    return _DENIED.search(before) is not None or _IS_NOT.match(behind) is not None


def _only(found: set[int]) -> int | None:
    return next(iter(found)) if len(found) == 1 else None
