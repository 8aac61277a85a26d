"""questions and dialogues -> adapter: stage II of Finedefics, classification-centred instruction tuning (section 3.2,
Eq 9); instruction tuning on conversations of several turns; and, on captions, pretraining of a connector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fgvr.errors import FgvrError, RecordError
from fgvr.models.vlm import Vlm
from fgvr.models.writing import Sight
from fgvr.records import check, image_of
from fgvr.stages.convert import IMAGE
from fgvr.stages.convert import talks as turns_of
from fgvr.stages.questions import final_prompt
from fgvr.training.conversations import ROOM, Talk, coded, lessons, reply_loss
from fgvr.training.gradcache import Step, Yielded, alike
from fgvr.training.trainer import Losses
from fgvr.training.vision import Vision

Record = dict[str, Any]
TEMPLATE = 256  # tokens that a chat template may put around a turn
OBJECT = 256  # tokens of an image, about; only conversations without one need to know
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def talk(record: Record, choice_reply: str = "letter") -> Talk:
    """What is asked and what is learnt: of a multiple-choice question the right option, of a dialogue every reply, else
    the answer.

    Args:
        choice_reply: how the option is named: by its "letter" (FOCI's instruction) or its "text".
    Raises:
        RecordError: a field is missing, a multiple-choice question's answer_index points to no option, or what says
            that it has no image shows one or is a caption.
    """
    check(record, ("kind",))
    if record.get("modality") == "text":
        _without_image(record)
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
    if options[index] != record["answer"]:
        said = f"answer_index {index} is {options[index]!r}, but its answer is {record['answer']!r}"
        raise RecordError(f"{said}; correct one of them")
    return Talk(prompt, LETTERS[index] if choice_reply == "letter" else options[index])


def _without_image(record: Record) -> None:
    """Raises RecordError where an image is meant after all."""
    if record["kind"] == "caption":
        raise RecordError("a caption is of an image; add it, and take \"modality\" out")
    turns = turns_of(record) if record["kind"] == "dialogue" else [(record.get("question"), record.get("answer"))]
    if any(IMAGE in str(text) for turn in turns for text in turn):
        raise RecordError(f"its text holds {IMAGE!r}, but it has no image; add the image, or take {IMAGE!r} out")


def looking(sight: Vision, image: str | None) -> Callable[[], Sight] | None:
    """How an image stands in a prompt, on request; None where there is none."""
    return None if image is None else lambda: sight.sight(image)


def fits(sight: Vision, record: Record, choice_reply: str = "letter") -> None:
    """Find a record that cannot be learnt before training meets it. Only what may be too long, holds the model's own
    image mark or may leave nothing of a reply is tokenised for that.

    Raises:
        RecordError: as `talk`; not even its first reply's first sentence fits into the context; or see Writer.encode.
    """
    vlm, said, image = sight.vlm, talk(record, choice_reply), image_of(record)
    turns, mark = (*said.before, (said.question, said.answer)), vlm.tokenizer.convert_ids_to_tokens(vlm.image_token_id)
    first = turns if vlm.writer.one_reply else turns[:1]  # later turns are left out where there is no room
    size = sum(len(text.encode()) for turn in first for text in turn)  # bytes: a token is one or more
    plain = all(text.strip() and mark not in text for turn in turns for text in turn)
    if plain and size + TEMPLATE < vlm.writer.context * ROOM:
        return
    try:
        for lesson in lessons(vlm, said):
            coded(vlm, lesson, looking(sight, image))
    except FgvrError as error:
        raise RecordError(str(error)) from error


def objective(
    vlm: Vlm,
    image_root: str | Path,
    micro_batch: int | None = None,
    choice_reply: str = "letter",
    vision: Vision | None = None,
) -> Losses:
    """The generation loss of a batch of questions on its reply tokens (Eq 9); each token of the batch counts the same.

    Args:
        micro_batch: records that go through the model at once, at most; their gradients add up to the whole batch's.
            Records of like length go together (gradcache.alike).
        choice_reply: see `talk`.
        vision: where object tokens come from.
    """
    sight = vision or Vision(vlm, image_root)

    def step(records: Sequence[Record], now: Step | None = None) -> Yielded:
        now = now or Step.alone(micro_batch)
        talked = [(image_of(r), lesson) for r in records for lesson in lessons(vlm, talk(r, choice_reply))]
        written = [coded(vlm, lesson, looking(sight, image)) for image, lesson in talked]
        labelled = [sum(label >= 0 for label in labels) for _, labels in written]
        lengths = [len(i) + OBJECT * (image is not None) for (i, _), (image, _) in zip(written, talked, strict=True)]
        groups = alike(lengths, now.size(len(talked)))
        for number, counts in now.ranks.deal(len(groups)):
            rows = groups[number]
            now.draw(number)
            features = sight.features([talked[n][0] for n in rows])
            tokens = sum(labelled[n] for n in rows)
            found = reply_loss(vlm, [talked[n][1] for n in rows], features) * (tokens / sum(labelled))
            yield (found, {"loss": found.detach(), "tokens": tokens}) if counts else (found * 0, {})

    return step
