"""Questions, replies and images as a model's own token ids: its chat template, its image tokens, its context."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fgvr.errors import FgvrError
from fgvr.models.families import FAMILIES, PARTS, SEEN, Family, plain_format

IGNORE = -100  # the label of a token that is not in the loss
Turns = Sequence[tuple[str, str]]  # questions and replies


@dataclass(frozen=True)
class Sight:
    """How one image stands in a prompt.

    ids: the tokens that stand for it, whatever the family puts around and between its image tokens included.
    grid: frames, rows and columns of its patches (the Qwens, whose positions have three dimensions).
    """

    ids: tuple[int, ...]
    grid: tuple[int, int, int] | None = None


class Writer:
    """Writes prompts as the processor of one model does.

    Attributes:
        context: the most tokens that the model takes.
        cut: texts that were longer.
        plain: the conversation's format where there is no chat template.
    """

    def __init__(self, config: Any, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        kind, text_config = config.model_type, config.get_text_config()
        self.image_token_id: int = getattr(config, "image_token_id", -1)
        self.family = FAMILIES.get(kind, Family(kind))
        self.expands = kind in PARTS and PARTS[kind].text_expands
        self.one_reply = kind in PARTS and PARTS[kind].prefix  # what comes before the last reply is all prompt
        templated = getattr(processor, "chat_template", None) is not None
        self.plain = None if templated else plain_format(kind, text_config.model_type)
        longest = getattr(text_config, "max_position_embeddings", None) or 1 << 40
        self.context: int = min(longest, getattr(self.tokenizer, "model_max_length", None) or longest)
        self.cut: set[str] = set()
        # the same texts come again in every epoch
        self._conversation = functools.lru_cache(maxsize=1 << 14)(self._tokenised)

    def chat(self, turns: Sequence[tuple[str, str | None]], with_image: bool) -> str:
        """A conversation in the model's own template, else in its family's format; the image stands before the first
        question. A last answer of None leaves the reply to the model."""
        if self.plain is not None:
            rest = len(turns) - 1
            return "".join(self._plain_turn(*turn, with_image and not n, n == rest) for n, turn in enumerate(turns))
        messages = []
        for number, (question, answer) in enumerate(turns):
            image = [{"type": "image"}] if with_image and number == 0 else []
            messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
            if answer is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=turns[-1][1] is None)

    def _plain_turn(self, question: str, answer: str | None, with_image: bool, last: bool) -> str:
        assert self.plain is not None
        mark = self.processor.image_token if with_image and self.family.marked else ""
        asked, replied = self.plain
        if not mark:
            asked = functools.reduce(lambda text, shown: text.replace(shown, ""), SEEN, asked)
        text = asked.format(image=mark, question=question)
        if answer is None:
            return text
        end = self.tokenizer.eos_token if last or self.family.joint is None else self.family.joint
        return text + self.family.closing * last + replied.format(reply=answer, end=end)

    def text_options(self, text: str) -> dict[str, bool]:
        """Whether the tokenizer still has to add its BOS: some templates write it themselves."""
        bos = self.tokenizer.bos_token
        return {"add_special_tokens": not (bos and text.startswith(bos))}

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """BOS (where the tokenizer has one) + text + EOS, as ids. A text longer than the context ends with its last
        whole sentence that fits, and joins `cut`."""
        return [self._row(text) for text in texts]

    def _row(self, text: str) -> list[int]:
        eos = self.tokenizer.eos_token_id

        def row(part: str) -> list[int]:
            ids: list[int] = self.tokenizer(part).input_ids
            return ids if ids and ids[-1] == eos else [*ids, eos]

        found = row(text)
        if len(found) <= self.context:
            return found
        return row(self._fitting(text, lambda part: len(row(part)) <= self.context))

    def _fitting(self, text: str, fits: Callable[[str], bool]) -> str:
        """The longest start of a text that ends with a sentence and fits.

        Raises:
            FgvrError: not one sentence does.
        """
        ends = [match.end() for match in re.finditer(r"[.!?](?=\s)", text)]
        count = bisect.bisect_left(ends, True, key=lambda end: not fits(text[:end]))
        if not count:
            raise FgvrError(
                f"the text {text[:40]!r}… is longer than this model's context of {self.context} tokens, even its first "
                "sentence; shorten it"
            )
        self.cut.add(text)
        return text[: ends[count - 1]]

    def encode(
        self, question: str, answer: str, image: int | Sight | None, before: Turns = ()
    ) -> tuple[list[int], list[int]]:
        """Token ids and labels of one question and its reply, the image that it is on written as its tokens.

        Labels are IGNORE on everything but the replies and what the template puts after each (its end mark), so that a
        model is taught to answer, not to ask (the released Finedefics code trains on questions and image tokens too).
        Where a prompt is read in both directions (PaliGemma), only the last reply has labels.
        A conversation that does not fit into the context loses its last turns, and a first reply that does not fit ends
        with its last whole sentence that does; what was left out joins `cut`.

        Args:
            image: how it stands in the prompt (`sight` of its features); a number: so many image tokens; None: there is
                none.
            before: earlier turns; the image is shown in the first of all.
        Raises:
            FgvrError: the template leaves nothing of a reply, or the text holds an image mark of its own.
        """
        sight = Sight((self.image_token_id,) * image) if isinstance(image, int) else image
        most = self.context - self._spared(sight)
        turns = (*before, (question, answer))
        ids, labels = self._conversation(turns, sight is not None)
        if len(ids) > most:
            ids, labels = self._conversation(self._shortened(turns, most, sight is not None), sight is not None)
        if self.expands or sight is None:
            return ids, labels
        at = ids.index(self.image_token_id)
        written = [*ids[:at], *sight.ids, *ids[at + 1 :]]
        return written, [IGNORE] * (len(written) - len(ids)) + labels

    def _spared(self, sight: Sight | None) -> int:
        """Tokens that an image takes beyond those that `_conversation` gives it."""
        return 0 if self.expands or sight is None else len(sight.ids) - 1

    def _shortened(self, turns: Turns, most: int, seen: bool) -> Turns:
        def fits(kept: Turns) -> bool:
            return len(self._conversation(tuple(kept), seen)[0]) <= most

        while len(turns) > 1 and not self.one_reply and not fits(turns):
            self.cut.add(turns[-1][1])
            turns = turns[:-1]
        *first, (question, answer) = turns
        return turns if fits(turns) else (
            *first, (question, self._fitting(answer, lambda part: fits((*first, (question, part)))))
        )  # fmt: skip

    def _tokenised(self, turns: Turns, seen: bool) -> tuple[list[int], list[int]]:
        """`encode` with the image, if one is seen, as its one mark, or written out where the processor can do that by
        itself."""
        mark = getattr(self.processor, "image_token", None)
        if mark and (own := [text for turn in turns for text in turn if mark in text]):
            raise FgvrError(f"the text {own[0][:40]!r} holds an image mark of its own, {mark}; take it out of it")
        whole = self.written_out(self.chat(turns, seen))
        options = self.text_options(whole)

        def coded(text: str) -> list[int]:
            return self.tokenizer(self.written_out(text), **options).input_ids

        ids: list[int] = self.tokenizer(whole, **options).input_ids
        labels = [IGNORE] * len(ids)
        for n in range(len(turns) - 1 if self.one_reply else 0, len(turns)):
            question, answer = turns[n]
            start = _shared(ids, coded(self.chat([*turns[:n], (question, None)], seen) + self.family.closing))
            end = len(ids) if n == len(turns) - 1 else _shared(ids, coded(self.chat(turns[: n + 1], seen)))
            if start >= end:
                raise FgvrError(f"the reply {answer!r} is empty in this model's chat template; correct the record")
            labels[start:end] = ids[start:end]
        if not (seen and self.expands) and ids.count(self.image_token_id) != seen:
            raise FgvrError(
                f"the question {turns[0][0][:40]!r} or what follows it holds an image mark of its own; take it out of "
                "the record"
            )
        return ids, labels

    def written_out(self, text: str) -> str:
        """The text as the processor hands it to its tokenizer, but for the image's tokens."""
        if self.expands:
            ids = self.processor(text=[text], add_special_tokens=False).input_ids[0]
            return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if not self.family.closing:
            return text
        mark, bos = self.processor.image_token, self.tokenizer.bos_token
        return text.replace(mark, mark + bos, 1) if mark in text else bos + text  # as PaliGemma's processor does


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with together."""
    both = min(len(first), len(second))
    return next((i for i in range(both) if first[i] != second[i]), both)
