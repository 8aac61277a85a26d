"""questions -> adapter: stage II of Finedefics, classification-centred instruction tuning (section 3.2, Eq 9)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fgvr.errors import RecordError
from fgvr.images import open_image
from fgvr.models.vlm import Vlm
from fgvr.stages.questions import final_prompt
from fgvr.training.conversations import Talk, reply_loss
from fgvr.training.trainer import Losses

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


def objective(vlm: Vlm, image_root: str | Path, micro_batch: int, choice_reply: str = "letter") -> Losses:
    """The generation loss of a batch of questions on its reply tokens, each token of the batch counting the same.

    Args:
        micro_batch: records that go through the model at once; their gradients add up to the whole batch's.
        choice_reply: see `talk`.
    """

    def step(records: Sequence[Record]) -> Iterator[tuple[Tensor, dict[str, float]]]:
        talks = [talk(record, choice_reply) for record in records]
        lengths = [sum(label >= 0 for label in vlm.encode(t.question, t.answer, 1)[1]) for t in talks]
        for start in range(0, len(records), micro_batch):
            part = slice(start, start + micro_batch)
            features = vlm.features(vlm.pixels([open_image(image_root, record["image"]) for record in records[part]]))
            yield reply_loss(vlm, talks[part], features) * (sum(lengths[part]) / sum(lengths)), {}

    return step
