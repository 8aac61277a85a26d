"""questions -> adapter: stage II of Finedefics, classification-centred instruction tuning (section 3.2, Eq 9)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgvr.errors import RecordError
from fgvr.models.vlm import Vlm
from fgvr.stages.questions import final_prompt
from fgvr.training.conversations import Talk, reply_loss
from fgvr.training.gradcache import Step, Yielded
from fgvr.training.trainer import Losses
from fgvr.training.vision import Vision

Record = dict[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def talk(record: Record, choice_reply: str = "letter") -> Talk:
    """What is asked and what is learnt: for a multiple-choice question the right option, else the answer.

    Args:
        choice_reply: how the option is named: by its "letter" (FOCI's instruction) or its "text".
    Raises:
        RecordError: a multiple-choice question whose answer_index points to no option.
    """
    if record["kind"] != "mcq":
        return Talk(final_prompt(record), record["answer"])
    prompt, options, index = final_prompt(record), record["options"], record.get("answer_index")
    if not isinstance(index, int) or not 0 <= index < len(options):
        raise RecordError(f"answer_index {index!r} is none of its {len(options)} options; run `fgvr questions` again")
    return Talk(prompt, LETTERS[index] if choice_reply == "letter" else options[index])


def objective(
    vlm: Vlm,
    image_root: str | Path,
    micro_batch: int | None = None,
    choice_reply: str = "letter",
    vision: Vision | None = None,
) -> Losses:
    """The generation loss of a batch of questions on its reply tokens (Eq 9); each token of the batch counts the same.

    Args:
        micro_batch: records that go through the model at once; their gradients add up to the whole batch's. Records
            of like length go together.
        choice_reply: see `talk`.
        vision: where object tokens come from.
    """
    sight = vision or Vision(vlm, image_root)

    def step(records: Sequence[Record], now: Step | None = None) -> Yielded:
        now = now or Step.alone(micro_batch)
        talks = [talk(record, choice_reply) for record in records]
        coded = [vlm.encode(t.question, t.answer, 1) for t in talks]
        labelled = [sum(label >= 0 for label in labels) for _, labels in coded]
        order = sorted(range(len(records)), key=lambda n: (-len(coded[n][0]), n))
        size, ranks = now.size(len(records)), now.ranks
        starts = list(enumerate(range(0, len(records), size)))
        for number, start in starts[ranks.rank :: ranks.world]:
            rows = order[start : start + size]
            now.draw(number)
            features = sight.show([records[n]["image"] for n in rows]).features()
            tokens = sum(labelled[n] for n in rows)
            found = reply_loss(vlm, [talks[n] for n in rows], features) * (tokens / sum(labelled))
            yield found, {"loss": found.detach(), "tokens": tokens}

    return step
