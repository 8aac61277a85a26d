"""A vision-language model of any family as an Answerer and Scorer: replies, next-token and option likelihoods.

A prompt is always read by the model's own `generate`, which knows each family's positions, masks and image inputs:
next-token likelihoods are those of its first step, and the key-value cache that this step leaves is what all options
of a question go on from.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fgvr.errors import FgvrError, RecordError
from fgvr.models import conversing, loading, shared_prefix
from fgvr.models.base import Ask, Said
from fgvr.models.families import FAMILIES
from fgvr.models.generating import replies
from fgvr.models.vlm import Vlm

if TYPE_CHECKING:
    from transformers import Cache

# what a processor gives for each token, and the value of a new token of text
PER_TOKEN = {"input_ids": 0, "attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 0}
Turns = Sequence[tuple[str, str]]
ROWS = 4  # options in memory at once, for each question of a call


def _encodes(model: Any) -> bool:
    """Whether the language model is an encoder-decoder (BLIP-2 on FLAN-T5): replies do not follow on the prompt."""
    return bool(model.config.is_encoder_decoder or model.config.get_text_config().is_encoder_decoder)


class VlmAnswerer:
    """Images and text in, text or scores out. Idefics2 encodes one image object once a call."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm, self.about, self.model = vlm, vlm.about, vlm.model
        kind = vlm.model.config.model_type
        self.family, self.plain = vlm.family, vlm.writer.plain
        self.shares = kind in FAMILIES and not _encodes(self.model)
        if self.plain is None and getattr(vlm.processor, "chat_template", None) is None:
            raise FgvrError(
                f"model {vlm.about['name']}: has no chat template and is of no known family ({kind}); copy its "
                "chat_template file there"
            )
        # before a reply that follows on the prompt; else behind, where an encoder's relative positions do not see it
        vlm.tokenizer.padding_side = "right" if _encodes(self.model) else "left"
        if vlm.tokenizer.pad_token_id is None:
            vlm.tokenizer.pad_token = vlm.tokenizer.eos_token
        self._counts: list[int] = []
        self._watch()
        self.rests = functools.lru_cache(maxsize=1 << 12)(self._rests)

    # --- Answerer ---

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        return [text for text, _ in self.reply_scored(asks, max_new_tokens)]

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        (said,) = self._reply([ask], ask.image is not None, max_new_tokens, temperature=temperature, seed=seed)
        return said.text

    def reply_scored(self, asks: Sequence[Ask], max_new_tokens: int) -> list[Said]:
        found: dict[int, Said] = {}
        for with_image in (True, False):
            chosen = [i for i, ask in enumerate(asks) if (ask.image is not None) == with_image]
            if chosen and with_image and self.plain is None:
                found.update(self._shared([asks[i] for i in chosen], chosen, max_new_tokens))
                chosen = [i for i in chosen if i not in found]
            if chosen:
                said = self._reply([asks[i] for i in chosen], with_image, max_new_tokens)
                found.update(zip(chosen, said, strict=True))
        return [found[i] for i in range(len(asks))]

    def _shared(self, asks: list[Ask], places: list[int], max_new_tokens: int) -> dict[int, Said]:
        """Replies to the questions that share an image object with another one (shared_prefix)."""
        prompts = [self._chat(ask.prompt, None, True, ask.before) for ask in asks]
        found = shared_prefix.reply(
            self.vlm,
            prompts,
            [id(ask.image) for ask in asks],
            lambda rows: self._inputs([asks[row] for row in rows]),
            max_new_tokens,
        )
        return {places[row]: said for row, said in found.items()}

    def _reply(self, asks: list[Ask], with_image: bool, max_new_tokens: int, **draw: Any) -> list[Said]:
        vlm, model = self.vlm, self.model
        if with_image and vlm.parts is not None and vlm.parts.text_expands and self.plain is None:
            inputs = self._encoded_once(asks)
        else:
            inputs = self._inputs(asks, with_image)
        if not with_image and self.family.language_model:
            model = model.get_submodule(self.family.language_model)
        return replies(model, vlm.tokenizer, max_new_tokens, **draw, **inputs)

    def _encoded_once(self, asks: list[Ask]) -> dict[str, Any]:
        vlm = self.vlm
        unique = {id(ask.image): ask.image for ask in asks}
        prompts = [self._chat(ask.prompt, None, True, ask.before) for ask in asks]
        with torch.inference_mode():
            pixels = vlm.pixels(list(unique.values()))  # type: ignore[arg-type]
            features = dict(zip(unique, vlm.features(pixels), strict=True))
            inputs = vlm.processor(text=prompts, **self._options(prompts[0])).to(vlm.device)
            embeds = vlm.embed(inputs["input_ids"], [features[id(ask.image)] for ask in asks])
        return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}

    def converse(
        self, asks: Sequence[Ask], openings: Sequence[str], opening_tokens: int, max_new_tokens: int
    ) -> list[tuple[str, str]]:
        return conversing.converse(self, asks, openings, opening_tokens, max_new_tokens)

    # --- Scorer ---

    def letters(self, asks: Sequence[Ask], letters: Sequence[Sequence[str]]) -> list[list[float]]:
        told = {i: self._told(ask, tuple(own)) for i, (ask, own) in enumerate(zip(asks, letters, strict=True))}
        whole = [i for i, found in told.items() if found is None]  # a tokenizer without these letters
        sums = self.likelihood([asks[i] for i in whole], [letters[i] for i in whole]) if whole else []
        scores = {i: [total for total, _ in row] for i, row in zip(whole, sums, strict=True)}
        one = [(i, found) for i, found in told.items() if found is not None]
        if one:
            inputs = self._inputs([asks[i] for i, _ in one])
            inputs = self._extended(inputs, [cut for _, (cut, _, _) in one], [lead for _, (_, lead, _) in one])
            likely = self._first(inputs).logits[0].float().log_softmax(-1)
            scores.update((i, row[ids].tolist()) for row, (i, (_, _, ids)) in zip(likely, one, strict=True))
        return [scores[i] for i in range(len(asks))]

    def _told(self, ask: Ask, letters: tuple[str, ...]) -> tuple[int, list[int], list[int]] | None:
        """(tokens to take from the end of the prompt, tokens to put there, the one token that tells each letter)."""
        cut, rests = self.rests(ask.prompt, letters, ask.before)
        lead = shared_prefix.common(rests)
        ids = [rest[lead] for rest in rests if len(rest) > lead]
        alike = len({tuple(rest[lead + 1 :]) for rest in rests}) == 1  # else a token may only begin its letter
        return (cut, rests[0][:lead], ids) if alike and len(set(ids)) == len(rests) else None

    def likelihood(self, asks: Sequence[Ask], replies: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        found = [self.rests(ask.prompt, tuple(own), ask.before) for ask, own in zip(asks, replies, strict=True)]
        if not self.shares:
            return self._one_by_one(asks, found)
        inputs = self._extended(self._inputs(asks), [cut for cut, _ in found], [[] for _ in asks])
        prompt = self._first(inputs)
        first = prompt.logits[0].float().log_softmax(-1)
        flat = [(i, rest) for i, (_, rests) in enumerate(found) for rest in rests]
        scores: list[tuple[float, int]] = []
        for start in range(0, len(flat), ROWS * len(asks)):
            scores += self._go_on(inputs, prompt.past_key_values, first, flat[start : start + ROWS * len(asks)])
        each = iter(scores)
        return [[next(each) for _ in rests] for _, rests in found]

    @torch.inference_mode()
    def _go_on(
        self, inputs: dict[str, Any], cache: Cache, first: Tensor, flat: Sequence[tuple[int, Sequence[int]]]
    ) -> list[tuple[float, int]]:
        """Sum of log-probabilities and count of each row's tokens after its cached prompt.

        first: (prompts, vocabulary) log-probabilities of the first token.
        flat: (prompt, tokens) a row.
        """
        rows = torch.tensor([i for i, _ in flat], device=first.device)
        ids, mask = self.vlm.pad([rest for _, rest in flat])
        likely = first[rows].gather(1, ids[:, :1])
        if ids.shape[1] > 1:  # what the last token leads to is of no interest
            fed, before = ids[:, :-1], inputs["attention_mask"][rows]
            places = before.sum(1, keepdim=True) + self.family.first_position + torch.arange(fed.shape[1]).to(before)
            deltas = getattr(getattr(self.model, "model", None), "rope_deltas", None)
            if deltas is not None:  # Qwen: an image takes fewer positions than tokens, in three dimensions
                places = (places + deltas[rows]).expand(3, *places.shape)
            inner = self.family.language_model
            logits = (self.model.get_submodule(inner) if inner else self.model)(
                input_ids=fed,
                attention_mask=torch.cat([before, mask[:, :-1]], 1),
                position_ids=places,
                past_key_values=_selected(cache, rows),
                use_cache=True,
            ).logits
            after = logits.float().log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
            likely = torch.cat([likely, after], 1)
        sums = likely.masked_fill(mask == 0, 0).double().sum(1).tolist()
        return list(zip(sums, mask.sum(1).tolist(), strict=True))

    def _one_by_one(
        self, asks: Sequence[Ask], found: Sequence[tuple[int, Sequence[Sequence[int]]]]
    ) -> list[list[tuple[float, int]]]:
        """The same without sharing: each option is the one reply that `generate` may give."""
        flat = [(ask, cut, rest) for ask, (cut, rests) in zip(asks, found, strict=True) for rest in rests]
        scores: list[tuple[float, int]] = []
        for start in range(0, len(flat), len(asks)):
            part = flat[start : start + len(asks)]
            cuts = [cut for _, cut, _ in part]
            inputs = self._extended(self._inputs([ask for ask, _, _ in part]), cuts, [[]] * len(part))
            steps = self._forced(inputs, [rest for _, _, rest in part])
            for i, (_, _, rest) in enumerate(part):
                own = [steps[t][i].float().log_softmax(-1)[token].item() for t, token in enumerate(rest)]
                scores.append((sum(own), len(own)))
        each = iter(scores)
        return [[next(each) for _ in rests] for _, rests in found]

    def _forced(self, inputs: dict[str, Any], rests: Sequence[Sequence[int]]) -> Sequence[Tensor]:
        """The (rows, vocabulary) logits of each step when the rows can only reply `rests`."""
        step = 0

        def only(row: int, ids: Tensor) -> list[int]:
            nonlocal step
            step += row == 0
            rest = rests[row]
            return [rest[min(step - 1, len(rest) - 1)]]

        return self._first(inputs, max(map(len, rests)), prefix_allowed_tokens_fn=only, eos_token_id=-1).logits

    @torch.inference_mode()
    def _first(self, inputs: dict[str, Any], steps: int = 1, **options: Any) -> Any:
        return self.model.generate(
            **inputs,
            max_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            cache_implementation="dynamic",
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )

    # --- prompts ---

    def _chat(self, question: str, reply: str | None, with_image: bool, before: Turns = ()) -> str:
        turns = [*before, (question, reply)]
        mark = str(getattr(self.vlm.processor, "image_token", None) or "")  # some keep it as an AddedToken
        if mark and any(mark in text for turn in turns for text in turn if text):
            raise RecordError(f"its text holds {mark!r}, which stands for an image here; take it out")
        text = self.vlm.chat(turns, with_image)
        context = self.vlm.writer.context
        if reply is None and len(text.encode()) > context:  # a token is a byte or more
            count = len(self.vlm.tokenizer(text).input_ids)
            if count > context:
                raise RecordError(f"the prompt has {count} tokens, this model's context {context}; shorten it")
        return text

    def _options(self, prompt: str) -> dict[str, Any]:
        return {"padding": True, "return_tensors": "pt", **self.vlm.text_options(prompt)}

    def _inputs(self, asks: Sequence[Ask], with_image: bool = True) -> dict[str, Any]:
        """What the model takes for some questions, left-padded."""
        vlm = self.vlm
        if with_image and any(ask.image is None for ask in asks):
            raise FgvrError(f"model {self.about['name']}: likelihoods need an image in every question")
        prompts = [self._chat(ask.prompt, None, with_image, ask.before) for ask in asks]
        if not with_image:
            if closing := self.family.closing:  # what PaliGemma's processor writes, which takes no text alone
                prompts = [vlm.writer.written_out(prompt + closing) for prompt in prompts]
            made = vlm.tokenizer(prompts, **self._options(prompts[0])).to(vlm.device)
            return {**made, **({"token_type_ids": torch.zeros_like(made["input_ids"])} if closing else {})}
        try:
            made = vlm.processor(text=prompts, images=[[ask.image] for ask in asks], **self._options(prompts[0]))
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError) as error:
            raise FgvrError(
                f"model {self.about['name']}: its processor cannot join image and prompt "
                f"({loading.first_line(error)}); processor and model do not belong together"
            ) from error
        made.pop("labels", None)  # PaliGemma's
        self._counts = (made["input_ids"] == vlm.image_token_id).sum(1).tolist()
        queries = getattr(self.model.config, "num_query_tokens", None)
        if queries is not None and not self.family.marked:  # the BLIPs' `generate` takes features by itself
            self._check([queries] * len(asks))
        return {
            key: value.to(vlm.device, self.model.dtype) if value.is_floating_point() else value.to(vlm.device)
            for key, value in made.items()
        }

    def _rests(self, question: str, replies: tuple[str, ...], before: Turns = ()) -> tuple[int, list[list[int]]]:
        """How many tokens of the prompt's end to take away, and what follows then in each conversation: the reply and
        what the template puts after it (its end mark, so that no reply gains by being the start of another).

        A tokenizer may join the end of a prompt to a reply; the image, written out or not, is never part of the end.
        """
        tokenizer, asked = self.vlm.tokenizer, self._chat(question, None, True, before) + self.family.closing
        options = self.vlm.text_options(asked)
        if _encodes(self.model):
            return 0, [tokenizer(reply).input_ids for reply in replies]
        prompt: list[int] = tokenizer(asked, **options).input_ids
        rows: list[list[int]] = [tokenizer(self._chat(question, r, True, before), **options).input_ids for r in replies]
        shared = shared_prefix.common([prompt, *rows])
        for row, reply in zip(rows, replies, strict=True):
            if len(row) == shared:
                raise FgvrError(f"the reply {reply!r} is empty in this model's chat template; correct the record")
        return len(prompt) - shared, [row[shared:] for row in rows]

    def _extended(
        self, inputs: dict[str, Any], cuts: Sequence[int], leads: Sequence[Sequence[int]]
    ) -> dict[str, Any]:
        """The inputs with `cut` tokens less at the end of each prompt and then those of `lead` more, left-padded."""
        if not any(cuts) and not any(map(len, leads)):
            return inputs
        mask = inputs["attention_mask"].bool()
        made = dict(inputs)
        for key, new in PER_TOKEN.items():
            if key not in inputs:
                continue
            rows = []
            for row, real, cut, lead in zip(inputs[key], mask, cuts, leads, strict=True):
                added = list(lead) if key == "input_ids" else [new] * len(lead)
                kept = row[real]
                rows.append(torch.cat([kept[: len(kept) - cut], torch.tensor(added).to(kept)]).flip(0))
            fill = self.vlm.pad_id if key == "input_ids" else 0
            made[key] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill).flip(1)
        return made

    # --- image tokens ---

    def _watch(self) -> None:
        """Have image tokens and features of each question compared whenever the model takes features: several families
        would silently shift features that are too many into the next question."""
        owner = getattr(self.model, "model", self.model)
        original = getattr(owner, "get_image_features", None)
        if original is None:
            return

        @functools.wraps(original)
        def watched(*args: Any, **options: Any) -> Any:
            found = original(*args, **options)
            if self._counts:
                self._check(_sizes(getattr(found, "pooler_output", found), self._counts))
                self._counts = []
            return found

        owner.get_image_features = watched  # an instance attribute; the class keeps its own

    def _check(self, features: Sequence[int]) -> None:
        for tokens, found in zip(self._counts, features, strict=True):
            if tokens != found:
                raise FgvrError(
                    f"model {self.about['name']}: the prompt has {tokens} image tokens for {found} features; "
                    "processor and model do not belong together"
                )


def _sizes(features: Tensor | Sequence[Tensor], tokens: Sequence[int]) -> list[int]:
    """How many features each question has.

    features: one (n, D) an image; or (images, n, D); or (parts, n, D), several a question; or (images * n, D).
    """
    if not isinstance(features, Tensor):
        return [len(feature) for feature in features]
    if features.ndim == 2 or len(features) == len(tokens):
        return [features.shape[:-1].numel() // len(tokens)] * len(tokens)
    parts, each = features.shape[:2]
    if sum(tokens) == parts * each and all(count % each == 0 for count in tokens):
        return list(tokens)
    return [parts * each // len(tokens)] * len(tokens)


def _selected(cache: Cache, rows: Tensor) -> Cache:
    """A cache with the given rows of another one, which stays as it is."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    made.batch_select_indices(rows)
    return made
