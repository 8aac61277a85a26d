"""The conversation that teaches a model to look at attributes before it names: the plan of FINER's tuning mixture (Kim
& Ji: superordinate -> coarse label, attributes, fine label), in wordings of our own, drawn for each record."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

ASK_KIND = (
    "Which kind of {x} can be seen here?", "Look at the {x} in this picture. What sort of {x} is it, roughly?",
    "This picture shows a {x}. To which group does it belong?", "Into which broad group would you put this {x}?",
    "What type of {x} has been photographed?", "In general terms, what {x} is this?",
    "Name the group of {x} that you see.", "Roughly speaking, which {x} are we looking at?",
)  # fmt: skip
SAY = (
    "This is a {x}.", "It is a {x}.", "The picture shows a {x}.", "I see a {x}.", "{x}.", "That is a {x}.",
    "What can be seen is a {x}.", "It belongs to the group {x}.",
)  # fmt: skip
ASK_LOOKS = (
    "Which visible features does this {x} have?", "Describe what the {x} looks like, part by part.",
    "List the outward marks by which one can tell this {x}.", "What stands out about the look of this {x}?",
    "By which visible traits would you recognise the {x}?", "Tell me the colours, shapes and patterns of this {x}.",
    "What do you notice on the {x} in the picture?", "Which traits of the {x} help to name it?",
)  # fmt: skip
SAY_LOOKS = (
    "The {x} has these features: {list}.", "One can see {list}.", "It can be told by {list}.", "Visible are {list}.",
    "The marks of this {x} are {list}.", "This {x} shows {list}.", "What stands out: {list}.", "I notice {list}.",
)  # fmt: skip
ASK_NAME = (
    "Given these features, which {x} is it exactly?", "So what is the precise name of this {x}?",
    "With that in mind, name the {x}.", "Which {x} fits all of that?", "What do these traits make it?",
    "Now give the exact name of the {x}.", "Taken together, which {x} must this be?", "Which one is it, then?",
)  # fmt: skip
SAY_NAME = (
    "It is {x}.", "This is {x}.", "{x}.", "That must be {x}.", "Its name is {x}.", "These traits are those of {x}.",
    "The exact name is {x}.", "I would name it {x}.",
)  # fmt: skip
ASK_DIRECT = (
    "What is the exact name of the {x} in this picture?", "Which {x} is this, precisely?", "Name this {x} exactly.",
    "Give the precise name of the {x} that you see.", "What {x} is shown here? Be specific.",
    "Identify the {x} as precisely as you can.", "Which particular {x} has been photographed?",
    "Look closely and name the {x}.",
)  # fmt: skip
VARIANTS = ("full", "no-answer", "direct")


def turns(
    variant: str, wide: str, coarse: str, fine: str, attributes: Sequence[str], draw: Random
) -> list[dict[str, str]]:
    """Questions and answers in order: "full" asks for the coarse label, the attributes and the name; "no-answer" leaves
    the name out; "direct" asks for nothing else.

    Args:
        wide, coarse, fine: the record's labels. attributes: what tells its category apart.
    """

    def turn(ask: Sequence[str], say: Sequence[str], about: str, label: str) -> dict[str, str]:
        listed = ", ".join(attributes)
        return {
            "question": draw.choice(ask).replace("{x}", about),
            "answer": draw.choice(say).replace("{x}", label).replace("{list}", listed),
        }

    if variant == "direct":
        return [turn(ASK_DIRECT, SAY_NAME, wide, fine)]
    found = [turn(ASK_KIND, SAY, wide, coarse), turn(ASK_LOOKS, SAY_LOOKS, coarse, coarse)]
    return [*found, turn(ASK_NAME, SAY_NAME, coarse, fine)] if variant == "full" else found
