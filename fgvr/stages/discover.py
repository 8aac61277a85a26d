"""A super-category -> attribute records: what a language model says tells its categories apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fgvr import prompts
from fgvr.errors import FgvrError, UsageError
from fgvr.models.base import Answerer, Ask
from fgvr.records import Record
from fgvr.rng import for_record


def discover(
    model: Answerer,
    superclass: str,
    class_unit: str,
    max_new_tokens: int,
    template: str = prompts.DISCOVER,
    samples: int = 1,
    keep: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    add: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> Iterator[Record]:
    """Attribute records {id, superclass, attribute, question, type}: the general description first, then the model's
    attributes without near-duplicates, then those added.

    Args:
        superclass: "bird". class_unit: what its categories are called: "species", "models".
        max_new_tokens: longest reply.
        template: the question, with {superclass} and {class_unit}.
        samples: replies; one is greedy, several are drawn at `temperature`.
        keep: in how many of them an attribute must be named (default: more than half), the most named first.
        add: further attributes. drop: names, or types (prompts.attribute_type), of which none is kept.
    Raises:
        FgvrError: no reply lists attributes, `keep` leaves none, or `drop` names what is not there.
        UsageError: the model draws no samples.
    Source: Finedefics (arXiv 2501.15140), section 3.1.
    """
    prompt = prompts.discover(superclass, class_unit, template)
    if samples == 1:
        replies = model.reply([Ask(prompt)], max_new_tokens)
    elif not hasattr(model, "sample"):
        raise UsageError(f"model {model.about['name']} draws no samples; leave --samples out")
    else:
        seeds = [for_record(seed, f"{superclass}/{n}", "sample").getrandbits(31) for n in range(samples)]
        replies = [model.sample(Ask(prompt), max_new_tokens, temperature, own) for own in seeds]
    listed = [prompts.parse_attributes(reply) for reply in replies]
    if not any(listed):
        raise FgvrError(f"the reply lists no attributes: {shortened(replies[0])}; name another --model")
    least = keep if keep is not None else samples // 2 + 1
    agreed = prompts.agreed(listed, least) if samples > 1 else listed[0]
    if not agreed:
        raise FgvrError(f"no attribute is named in {least} of {samples} samples; lower --keep")
    _, *names = prompts.merged([prompts.GENERAL, *agreed, *add])
    for name in [prompts.GENERAL, *_without(names, drop)]:
        question = prompts.attribute_question(name, superclass)
        kind = prompts.attribute_type(name)
        yield {"id": f"{superclass}/{name}", "superclass": superclass, "attribute": name, "question": question,
               "type": kind}  # fmt: skip


def _without(names: Sequence[str], drop: Sequence[str]) -> list[str]:
    for word in drop:
        fits = [
            n for n in names if word == prompts.attribute_type(n) or prompts.same_name(word) == prompts.same_name(n)
        ]
        if not fits and word not in prompts.ATTRIBUTE_TYPES:
            there = ", ".join([*prompts.ATTRIBUTE_TYPES, *names])
            raise FgvrError(f"--drop {word!r} is neither a type nor an attribute; there are {there}")
        names = [name for name in names if name not in fits]
    return list(names)


def shortened(reply: str, width: int = 200) -> str:
    """A model's reply on one line, quoted, for an error message."""
    text = " ".join(reply.split())
    return repr(text if len(text) <= width else text[: width - 1] + "…")
