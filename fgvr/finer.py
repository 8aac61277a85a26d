"""FINER's protocol: what a model is asked at each level of granularity, and with attributes before the name.

FINER is Kim & Ji's benchmark (`llava/serve/prompts.py`), whose wording stands here but for slips: dogs are asked for a
fine-grained label, a car's example has its year last, as the labels have, and the knowledge probe asks for the name
that is scored, not for its second half. Fields in braces are filled in by the functions; {concept} is the label one
level up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fgvr.answers import normalise

LEVELS = ("superordinate", "coarse", "fine")
ANIMALS = ("Arachnids", "Mammals", "Reptiles", "Animalia", "Mollusks", "Plants", "Amphibians", "Ray-finned Fishes",
           "Birds", "Insects", "Fungi")  # fmt: skip
WITH_DOGS = tuple("Dogs" if name == "Mammals" else name for name in ANIMALS if name != "Animalia")
OBJECTS = ("Airplane", "Car", "Train", "Bicycle", "Cell Phone", "Plants", "Dogs", "Birds", "Trucks")
NAME = "What is the name of the {concept} that appears in this image?"
MAKER = "What is the manufacturer of the {concept} that appears in this image?"
MODEL = "What is the name of the airplane model made by {concept} that appears in this image?"
EXAMPLE = " For example, if it's a picture of a {example}, give a {level}-grained label for the image '{label}'{or}."
NO_EXAMPLE = " Give a {level}-grained label for the image."  # ours, for what FINER has no example of
FREE = '\nProvide your answer after "Answer:".'
LISTED = ' Provide your answer after "Answer:" from one of the following categories: {names}.'
BINOMIAL = " or use its binomial nomenclature 'Panthera tigris tigris'"
ANSWER = ' Provide your answer after "Answer:".'
# superclass -> (thing of the example, its coarse label, its fine label)
EXAMPLES = {
    "bird": ("Owl Parrot", "Parrot", "Owl Parrot"),
    "dog": ("Golden Retriever", "Retriever", "Golden Retriever"),
    "aircraft": ("Boeing 787 Dreamliner", "Boeing", "Boeing 787 Dreamliner"),
    "car": ("Honda Civic LX Coupe 2006", "Coupe", "Honda Civic LX Coupe 2006"),
    "organism": ("bengal tiger", "Tiger", "Bengal Tiger"),
}
SEEK = (
    "What kind of external descriptive attributes do you see from the {concept} in this image? Provide the set of "
    'detailed physical attributes after "Attributes:".'
)
NOW = "Now, tell me what kind of {concept} it is."
THINK = "Let's think step by step."
# ours: choices after reasoning, where FOCI's instruction wants the letter alone
THINK_CHOICE = '{question}\nChoices:\n{choices}\nProvide the letter of your choice after "Answer:".\n' + THINK
THINK_YES = '{question}\nProvide yes or no after "Answer:".\n' + THINK
KNOWLEDGE = (
    "Can you guess the specific name (specific type) of {superclass} in the following category given its physical "
    'attributes?\nProvide your answer after "Answer:".\n\nPhysical Attributes: {attributes}\n\n{taxonomy}'
)
SYNONYMS = {"aircraft": "airplane", "flower": "plant"}  # fgvr's superclasses that FINER's lists call otherwise
TEMPLATES = (NAME, MAKER, MODEL, EXAMPLE, NO_EXAMPLE, FREE, LISTED)
PROMPTINGS = {"direct": (), "attr-seek": (SEEK, NOW), "cot": (ANSWER, THINK, THINK_CHOICE, THINK_YES)}


def superordinates(label: str) -> tuple[str, ...]:
    """FINER's list of superordinate categories that holds a label: its animals, its animals with dogs, or its objects;
    where none does, its objects and the label."""
    for names in (ANIMALS, WITH_DOGS, OBJECTS):
        if spelt(label, names) is not None:
            return names
    return (*OBJECTS, label)


def spelt(label: str, names: Iterable[str]) -> str | None:
    """How a list of names writes a label, in singular or plural; None where it does not hold it."""
    plain = normalise(SYNONYMS.get(normalise(label), label))
    wanted = {plain, plain + "s"}
    return next((name for name in names if normalise(name) in wanted), None)


def listed_by_finer(level: str, superclass: str) -> bool:
    """Whether FINER gives a list to choose from: the widest level, makers of aircraft, bodies of cars."""
    return level == "superordinate" or (level == "coarse" and superclass in ("aircraft", "car"))


def question(
    level: str, superclass: str, concept: str, names: Sequence[str] | None = None, wording: str | None = None
) -> str:
    """What is asked at a level; `reply_after` reads the answer.

    Args:
        superclass: decides the wording and the example: a key of EXAMPLES, or another one.
        concept: the label one level up; of the superordinate level nothing is said.
        names: to choose from; None: free-form.
        wording: asked alone, with {concept} filled in, in place of FINER's.
    """
    if level == "superordinate":
        living = superclass in ("bird", "dog", "organism") or bool(names and names[0] == ANIMALS[0])
        concept = "organism" if living else "object"
    asked = {("aircraft", "coarse"): MAKER, ("aircraft", "fine"): MODEL}.get((superclass, level), NAME)
    if wording is not None:
        return wording.replace("{concept}", concept)
    text = asked.replace("{concept}", concept)
    if names is not None:
        return text + LISTED.format(names=[*names])
    if level == "superordinate":
        return text + ANSWER
    return text + _example(level, superclass) + FREE


def _example(level: str, superclass: str) -> str:
    if superclass not in EXAMPLES:
        return NO_EXAMPLE.format(level=level)
    example, coarse, fine = EXAMPLES[superclass]
    label, more = (coarse, "") if level == "coarse" else (fine, BINOMIAL if superclass == "organism" else "")
    return EXAMPLE.format(example=example, level=level, label=label, **{"or": more})


def seek(concept: str) -> str:
    """The first of two turns: the attributes that can be seen."""
    return SEEK.format(concept=concept)


def after_attributes(question: str, concept: str) -> str:
    """The second turn: a question of `question` with its beginning put as FINER puts it after the attributes; words of
    the user's own stand behind that."""
    _, phrase, rest = question.partition("in this image?")
    return NOW.format(concept=concept) + (rest if phrase else f" {question}")


def think(question: str) -> str:
    """A question to be thought about before the answer (zero-shot chain of thought, Kojima et al. 2022)."""
    return f"{question}{'' if 'Answer:' in question else ANSWER}\n{THINK}"


def knowledge(superclass: str, attributes: Sequence[str], taxonomy: Mapping[str, str]) -> str:
    """Ask for a name by what is known of it, without an image.

    taxonomy: rank -> label, the widest first, none of them the name.
    """
    article = "an" if superclass[:1].lower() in "aeiou" else "a"
    ranks = "\n".join(f"{rank}: {label}" for rank, label in taxonomy.items())
    told = "; ".join(attributes) or "none"
    return KNOWLEDGE.format(superclass=f"{article} {superclass}", attributes=told, taxonomy=ranks)


def reply_after(reply: str) -> str:
    """The answer in a reply: what stands after its first "Answer:", all of it where there is none."""
    return reply.partition("Answer:")[2] if "Answer:" in reply else reply
