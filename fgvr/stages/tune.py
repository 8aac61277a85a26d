"""questions and dialogues -> adapter: stage II of Finedefics, classification-centred instruction tuning (section 3.2,
Eq 9); instruction tuning on conversations of several turns; and, on captions, pretraining of a connector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgvr.errors import RecordError
from fgvr.models.vlm import Vlm
from fgvr.records import check
from fgvr.stages.convert import talks as turns_of
from fgvr.stages.questions import final_prompt
from fgvr.training.conversations import Talk, lessons, reply_loss
from fgvr.training.gradcache import Step, Yielded
from fgvr.training.trainer import Losses
from fgvr.training.vision import Vision

Record = dict[str, Any]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def talk(record: Record, choice_reply: str = "letter") -> Talk:
    """What is asked and what is learnt: of a multiple-choice question the right option, of a dialogue every reply, else
    the answer.

    Args:
        choice_reply: how the option is named: by its "letter" (FOCI's instruction) or its "text".
    Raises:
        RecordError: a field is missing, or a multiple-choice question's answer_index points to no option.
    """
    check(record, ("kind",))
    if record["kind"] == "dialogue":
        *before, (question, answer) = turns_of(record)
        return Talk(question, answer, tuple(before))
    check(record, ("question", "answer"))
    if not record["answer"].strip():
        raise RecordError("'answer' is empty; correct the record, or leave it out")
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
        talked = [(r["image"], lesson) for r in records for lesson in lessons(vlm, talk(r, choice_reply))]
        coded = [lesson.encode(vlm, 1) for _, lesson in talked]
        labelled = [sum(label >= 0 for label in labels) for _, labels in coded]
        order = sorted(range(len(talked)), key=lambda n: (-len(coded[n][0]), n))
        size, ranks = now.size(len(talked)), now.ranks
        starts = list(enumerate(range(0, len(talked), size)))
        for number, start in starts[ranks.rank :: ranks.world]:
            rows = order[start : start + size]
            now.draw(number)
            features = sight.show([talked[n][0] for n in rows]).features()
            tokens = sum(labelled[n] for n in rows)
            found = reply_loss(vlm, [talked[n][1] for n in rows], features) * (tokens / sum(labelled))
            yield found, {"loss": found.detach(), "tokens": tokens}

    return step
