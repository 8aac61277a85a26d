"""A super-category -> attribute records: what a language model says tells its categories apart."""

from __future__ import annotations

from collections.abc import Iterator

from fgvr import prompts
from fgvr.errors import FgvrError
from fgvr.models.base import Answerer, Ask
from fgvr.records import Record


def discover(model: Answerer, superclass: str, class_unit: str, max_new_tokens: int) -> Iterator[Record]:
    """Attribute records {id, superclass, attribute, question}: the general description first, then the model's
    attributes.

    Args:
        superclass: "bird". class_unit: what its categories are called: "species", "models".
        max_new_tokens: longest reply.
    Raises:
        FgvrError: the reply lists no attributes.
    Source: Finedefics (arXiv 2501.15140), section 3.1.
    """
    (reply,) = model.reply([Ask(prompts.discover(superclass, class_unit))], max_new_tokens)
    names = prompts.parse_attributes(reply)
    if not names:
        raise FgvrError(f"the reply lists no attributes: {shortened(reply)}; name another --model")
    for name in dict.fromkeys([prompts.GENERAL, *names]):
        question = prompts.attribute_question(name, superclass)
        yield {"id": f"{superclass}/{name}", "superclass": superclass, "attribute": name, "question": question}


def shortened(reply: str, width: int = 200) -> str:
    """A model's reply on one line, quoted, for an error message."""
    text = " ".join(reply.split())
    return repr(text if len(text) <= width else text[: width - 1] + "…")
