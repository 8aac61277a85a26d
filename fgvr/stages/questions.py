"""record -> questions: open-set, multiple-choice, yes-or-no questions about its category, and captions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from fgvr import answers, finer, prompts, rng
from fgvr.answers import normalise
from fgvr.errors import RecordError
from fgvr.records import Record, check, texts
from fgvr.stages.granularity import Finer, labels_at
from fgvr.stages.options import Listed, Wrong, alike, wrong_options
from fgvr.stream import Bad, Item, each

KINDS = ("open", "mcq", "yesno", "caption")
DROPPED = ("attributes", "description", "negatives")  # long, and a hint at the answer
LABELS = "`fgvr dataset --labels FILE` adds them"
OWN = ("id", "image", "kind", "question", "options", "answer", "answer_index")


def questions(
    items: Iterable[Item],
    kinds: Sequence[str],
    question: str | None = None,
    choices: int = 4,
    distractors: str = "negatives",
    seed: int = 0,
    level: str | None = None,
    listed: Listed | None = None,
    finer: Finer | None = None,
    per_class: int | None = None,
) -> Iterator[Item]:
    """One record for each kind of question, in the order of `kinds`: ids "<id>/open", "<id>/mcq", ...

    Needs the whole stream when there are options, which may be any of its categories, or labels to choose from.

    Args:
        items: records with `image` and `category`.
        question: its text without options and instruction (`final_prompt` adds them); {superclass} stands for the
            record's superclass, {option} for the name that a yesno question asks about. None: the texts of
            fgvr.prompts. Captions take none.
        choices: options of a multiple-choice question, the right one included.
        distractors: a policy of fgvr.stages.options.
        seed: with the record's id it decides what is drawn, and the order of options.
        level: open questions ask for this label of `labels`, not for the category.
        listed: options from a file, in place of `distractors` and `choices`.
        finer: how the kinds "granularity", "knowledge" and "dialogue" ask (fgvr.stages.granularity).
        per_class: most records of a category.
    """
    items = items if per_class is None else capped(items, per_class, seed)
    items = items if finer is None else finer.seen(items)
    world = _World()
    if {"mcq", "yesno"} & set(kinds):
        items = list(items)
        world = _World(item for item in items if not isinstance(item, Bad))

    def build(record: Record) -> list[Record]:
        texts(record, "aliases")
        gold: str = record["category"]
        wrong: Wrong = []
        if {"mcq", "yesno"} & set(kinds):
            if listed is not None:
                gold, wrong = listed.wrong(record)
            else:
                near = world.siblings(record) if distractors == "same-coarse" else ()
                wrong = wrong_options(record, world.categories, choices - 1, distractors, seed, near)
        made = {
            "open": lambda: _open(record, question, level),
            "mcq": lambda: _mcq(record, question, gold, wrong, seed, world),
            "yesno": lambda: _yesno(record, question, gold, wrong, seed, distractors),
            "caption": lambda: _caption(record),
        }
        found = [_question(record, kind, made[kind]()) for kind in kinds if kind in made]
        return found + [_question(record, *own) for own in (finer.made(record, kinds) if finer is not None else ())]

    return each(items, build)


class _World:
    """What the other records of the stream say: all categories, their aliases, and which share a coarse label."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.aliases: dict[str, list[str]] = {}
        self.coarse: dict[str, set[str]] = {}
        names: set[str] = set()
        for record in records:
            names.add(record["category"])
            with contextlib.suppress(RecordError):  # `build` tells of it, where the record stands
                self.aliases[normalise(record["category"])] = texts(record, "aliases")
            for label in _coarse(record):
                self.coarse.setdefault(label, set()).add(record["category"])
        self.categories = sorted(names)

    def siblings(self, record: Record) -> set[str]:
        if not isinstance(record.get("labels"), dict):
            raise RecordError(f"record has no 'labels'; {LABELS}")
        return set().union(*(self.coarse[label] for label in _coarse(record)))


def _coarse(record: Record) -> list[str]:
    labels = record.get("labels")
    found = labels.get("coarse") if isinstance(labels, dict) else None
    return [label for label in found if isinstance(label, str)] if isinstance(found, list) else []


def _open(record: Record, question: str | None, level: str | None) -> Record:
    asked = _fill(prompts.OPEN if question is None else question, record)
    own = {"question": asked, "options": None, "answer": record["category"], "answer_index": None}
    if level is None:
        return own
    names = labels_at(record, level)
    if not names:
        raise RecordError(f"record has no {level!r} label in 'labels'; {LABELS}, or leave --level out")
    more = texts(record, "aliases") if level == "fine" else []
    return {**own, "answer": names[0], "aliases": [*names[1:], *more], "level": level}


def _mcq(record: Record, question: str | None, gold: str, wrong: Wrong, seed: int, world: _World) -> Record:
    plain = prompts.OPEN if "superclass" in record else prompts.CHOICES
    pairs = [(gold, record.get("category_similarity")), *wrong]
    rng.for_record(seed, record["id"], "options").shuffle(pairs)
    options = [name for name, _ in pairs]
    own = {
        "question": _fill(plain if question is None else question, record),
        "options": options,
        "answer": gold,
        "answer_index": options.index(gold),
    }
    if any(similarity is not None for _, similarity in wrong):
        rank = record.get("category_rank")
        check(record, () if rank is None else ("category_rank",))
        own["similarities"] = [similarity for _, similarity in pairs]
        own["gold_in_top"] = None if rank is None else rank <= len(options)
    aliases = [world.aliases.get(normalise(option), []) for option in options]
    return {**own, "option_aliases": aliases} if any(aliases) else own


def _yesno(record: Record, question: str | None, gold: str, wrong: Wrong, seed: int, policy: str) -> Record:
    """Half of the questions, by a coin, ask about the right name, half about the hardest wrong option."""
    yes = rng.for_record(seed, record["id"], "yesno").random() < 0.5
    hardest = wrong[-1 if policy == "foci4" else 0][0]
    shown = gold if yes else hardest
    text = _fill(prompts.YES_NO if question is None else question, record).replace("{option}", shown)
    if "a/an" in text:
        text = text.replace("a/an", "an" if shown[:1].lower() in "aeiou" else "a")
    answer = "yes" if yes else "no"
    return {"question": text, "options": ["yes", "no"], "answer": answer, "answer_index": int(not yes), "shown": shown}


def _caption(record: Record) -> Record:
    check(record, ("description",))
    asked = _fill(prompts.DESCRIBE, record)
    return {"question": asked, "options": None, "answer": record["description"], "answer_index": None}


def _fill(question: str, record: Record) -> str:
    if "{superclass}" not in question:
        return question
    check(record, ("superclass",))
    return question.replace("{superclass}", record["superclass"])


def _question(record: Record, kind: str, own: Record) -> Record:
    head = {"id": f"{record['id']}/{kind}", "image": record["image"], "kind": kind}
    rest = {name: value for name, value in record.items() if name not in {*OWN, *DROPPED, *own}}
    made = {**head, **own, **rest}
    return {name: value for name, value in made.items() if name != "image"} if "modality" in own else made


def capped(items: Iterable[Item], most: int, seed: int) -> list[Item]:
    """In their order, at most so many records of each category, those that the seed draws; all that is bad."""
    found = list(items)
    drawn: dict[str, list[tuple[float, int]]] = {}
    for n, item in enumerate(found):
        if not isinstance(item, Bad):
            drawn.setdefault(item["category"], []).append((rng.for_record(seed, item["id"], "cap").random(), n))
    dropped = {n for own in drawn.values() for _, n in sorted(own)[most:]}
    return [item for n, item in enumerate(found) if n not in dropped]


def final_prompt(record: Record, prompting: str = "direct") -> str:
    """What a model is asked for a question record, by eval and by tune alike.

    A multiple-choice question is followed by its options and the instruction to answer with a letter, a yesno
    question by the instruction to answer with yes or no (fgvr.prompts); an open question and a caption stand alone.
    None holds a chat template or an image mark: those are the model's.

    Args:
        prompting: "cot" asks for thought before the answer; with "attr-seek" it is the question of the second turn
            (`attribute_question` is that of the first).
    Raises:
        RecordError: the kind is unknown, or the options cannot be shown or told apart.
    """
    check(record, ("kind", "question"))
    kind, asked, cot = record["kind"], record["question"], prompting == "cot"
    if record.get("steps") and "{concept}" in asked:
        raise RecordError("its question waits for a reply; ask it by `fgvr eval`, or make it with --concept gold")
    if kind == "caption":
        return asked
    if kind == "open":
        if prompting == "attr-seek" and record.get("level") and record.get("concept"):
            return finer.after_attributes(asked, record["concept"])
        return finer.think(asked) if cot else asked
    if kind == "yesno":
        return finer.THINK_YES.format(question=asked) if cot else f"{asked}\n{prompts.YES_OR_NO}"
    if kind != "mcq":
        raise RecordError(f"unknown kind {kind!r}; there are {', '.join(KINDS)}")
    check(record, ("options",))
    options = record["options"] or []
    if not all(isinstance(option, str) for option in options):
        raise RecordError("'options' must be texts; correct the record")
    if pair := alike(options):
        raise RecordError(f"options {pair[0]!r} and {pair[1]!r} read alike; correct the record")
    try:
        return prompts.multiple_choice(asked, options, finer.THINK_CHOICE if cot else prompts.MULTIPLE_CHOICE)
    except ValueError as error:
        raise RecordError(f"{error}; correct the record's options") from error


def attribute_question(record: Record) -> str | None:
    """The first turn of attribute seeking; None where it is left out: captions, questions without an image, and FINER's
    superordinate level."""
    if record["kind"] == "caption" or record.get("modality") == "text" or record.get("level") == "superordinate":
        return None
    return finer.seek(record.get("concept") or record.get("superclass") or "object")


def read_reply(record: Record, raw: str, parser: str = "strict") -> str | None:
    """What a reply to `final_prompt` says: an option's text, "yes" or "no", the cleaned name or caption; None when
    nothing can be read out of it.

    Args:
        parser: a key of fgvr.answers.STRATEGIES, for questions with options.
    """
    if record["kind"] == "mcq":
        index = answers.read_option(raw, record["options"], parser, record.get("option_aliases") or ())
        return None if index is None else record["options"][index]
    if record["kind"] == "yesno":
        return answers.read_yes_no(raw, parser)
    if record["kind"] == "caption":
        return prompts.parse_answer(raw, 2000) or None
    return prompts.parse_answer(finer.reply_after(raw)) or None
