"""A vision-language model taken apart: vision tower, modality connector, language model; and its three embeddings.

Finedefics (section 2 and 3.2) compares an object, an attribute description and a category name in the last layer of
the language model: the connector's output plus the EOS embedding, or a text plus EOS, goes through the language model
*by itself*, and the hidden state of one position stands for the whole (`pool`):

    eos   the appended EOS token (stage I, Eqs 5-7);
    last  the last token before it (Eq 1, probing);
    mean  the mean of all tokens before it (probing).

A decoder is causal, so the EOS that comes after changes neither `last` nor `mean`. PaliGemma, which reads a prompt in
both directions, reads the object tokens so, and what follows on them (as all texts here) as it reads a reply: causally.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fgvr.errors import FgvrError
from fgvr.models import loading, split_spec
from fgvr.models.families import FAMILIES, PARTS
from fgvr.models.writing import IGNORE, Sight, Writer

if TYPE_CHECKING:
    from PIL.Image import Image

POOLS = ("eos", "last", "mean")
# families whose images stand in a prompt as their image tokens and nothing else
TOLD_BY_NUMBER = ("Idefics2", "LLaVA-1.5", "LLaVA-NeXT", "LLaVA-OneVision", "PaliGemma")


def open_vlm(
    spec: str, adapter: str | None = None, device: str = "auto", trainable: bool = False, quantise: str = "none",
    dtype: str = "auto",
) -> Vlm:  # fmt: skip
    """Open a vision-language model that can be taken apart, with an adapter of align or tune or without.

    Args:
        quantise, dtype: see fgvr.models.loading.opened; "nf4" keeps the language model's linear layers in 4 bits.
    Raises:
        FgvrError: it cannot be opened, takes no images, is of a family not in PARTS, its processor writes an image
            otherwise than is done here, or the adapter does not fit.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as VLMS

    _, name, revision = split_spec(spec, {"hf": ""}, "hf")
    kind = loading.from_pretrained(AutoConfig, name, revision).model_type
    if kind not in VLMS:
        raise FgvrError(f"model {name}: type {kind!r} takes no images; name a vision-language model")
    if kind not in PARTS:
        what = f"{FAMILIES[kind].name} ({kind}) can answer but not" if kind in FAMILIES else f"family {kind!r} cannot"
        raise FgvrError(f"model {name}: {what} be taken apart for training; use one of {', '.join(PARTS)}")
    vlm = Vlm.load(name, revision, device, adapter, trainable, quantise=quantise, dtype=dtype)
    vlm.check_prompts()
    return vlm


class Vlm:
    """An open vision-language model. The model's own classes stay as transformers has them; this only names their
    parts.

    model: the base model; with an adapter its layers are already the adapted ones.
    peft: the PeftModel around it, to save and train the adapter, or None.
    """

    def __init__(self, model: Any, processor: Any, about: dict[str, Any], peft: Any = None) -> None:
        self.model, self.processor, self.about, self.peft = model, processor, about, peft
        self.tokenizer = processor.tokenizer
        self.writer = Writer(model.config, processor)
        self.chat, self.encode, self.text_options = self.writer.chat, self.writer.encode, self.writer.text_options
        self.family, self.parts = self.writer.family, PARTS.get(model.config.model_type)
        self.device: torch.device = model.device

    @classmethod
    def load(
        cls,
        name: str,
        revision: str | None,
        device: str,
        adapter: str | None = None,
        trainable: bool = False,
        templated: bool = True,
        quantise: str = "none",
        dtype: str = "auto",
    ) -> Vlm:
        """templated: insist on a chat template, but for PaliGemma, which has none."""
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        loading.quiet()
        processor = loading.from_pretrained(AutoProcessor, name, revision)
        kind = loading.from_pretrained(AutoConfig, name, revision).model_type
        unwritten = kind in PARTS and PARTS[kind].prefix
        lacks = templated and not unwritten and getattr(processor, "chat_template", None) is None
        if getattr(processor, "tokenizer", None) is None or lacks:
            raise FgvrError(
                f"model {name}: has no processor with a chat template; copy processor and chat_template files there"
            )
        if type(processor).__name__.startswith("Idefics2"):
            processor.image_processor.do_image_splitting = False  # off in Finedefics' training and evaluation
        if quantise != "none" and kind not in PARTS:
            raise FgvrError(f"model {name}: family {kind!r} cannot be quantised here; leave out --quantise")
        decoder = PARTS[kind].decoder if kind in PARTS else None
        model = loading.opened(AutoModelForImageTextToText, name, revision, device, dtype, quantise, decoder)
        about = loading.about(name, revision, model, quantise)
        peft = loading.attach_adapter(model, adapter, trainable, about) if adapter is not None else None
        return cls(model, processor, about, peft)

    def part(self, name: str) -> nn.Module:
        """ "tower", "connector" or "decoder"; a list where a family keeps it in several modules (the Qwens, whose
        connector lies within the vision model)."""
        found = [self.model.get_submodule(path) for path in getattr(self.parts, name).split()]
        return found[0] if len(found) == 1 else nn.ModuleList(found)

    @property
    def learner(self) -> nn.Module:
        """What is trained and saved: the PeftModel, or the model itself where all of it is trained."""
        return self.model if self.peft is None else self.peft

    @property
    def image_token_id(self) -> int:
        return self.model.config.image_token_id

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the model and its processor as transformers loads them, chat template and all; `weights` in place of
        its own, where it has only a part of them here.

        Raises:
            OSError, with the folder's name; FgvrError: it cannot be written.
        """
        try:
            self.model.save_pretrained(folder, state_dict=weights)
            self.processor.save_pretrained(folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(error.filename or folder)) from error
        except SafetensorError as error:
            raise FgvrError(f"cannot write {folder}: {loading.first_line(error)}; make room and run again") from error
        mask = os.umask(0)
        os.umask(mask)
        for path in folder.iterdir():  # the library's files are for their owner alone
            if path.is_file():
                path.chmod(0o666 & ~mask)

    # --- text ---

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """BOS (where the tokenizer has one) + text + EOS: (N, T) ids and (N, T) mask, right-padded (Writer.rows)."""
        return self.pad(self.writer.rows(texts))

    def pad(self, rows: Sequence[Sequence[int]], value: int | None = None) -> tuple[Tensor, Tensor]:
        """Right-padded (N, T) ids and mask on the model's device; `value` is the pad token unless given."""
        fill = value if value is not None else self.pad_id
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        return ids.to(self.device), mask.long().to(self.device)

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id

    def check_prompts(self) -> None:
        """Raise FgvrError unless `encode` writes a prompt as the model's own processor does."""
        from PIL import Image

        image = Image.new("RGB", (96, 64), (120, 90, 60))
        ids, labels = self.encode("What is this?", "Kite", self.sights(self.pixels([image]))[0])
        prompt = self.chat([("What is this?", None)], True)
        inputs = self.processor(text=[prompt], images=[[image]], **self.text_options(prompt))
        wanted = list(inputs["input_ids"][0])
        shared = labels.count(IGNORE)
        if ids[:shared] != wanted[:shared] or len(wanted) - shared > 2:  # a token may join prompt and reply
            raise FgvrError(
                f"model {self.about['name']}: its processor writes a prompt otherwise than is known of "
                f"{self.family.name}; it cannot be trained"
            )

    # --- objects ---

    def pixels(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """The model's image inputs, and how each image stands in a prompt: `sight`, (N, tokens), -1 behind."""
        mark = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        rows = [[image] for image in images]
        try:
            made = self.processor(text=[mark] * len(rows), images=rows, add_special_tokens=False)
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError) as error:
            raise FgvrError(
                f"model {self.about['name']}: its processor cannot prepare an image ({loading.first_line(error)}); "
                "processor and model do not belong together"
            ) from error
        ids = [list(row) for row in made.pop("input_ids")]
        if self.family.closing:  # what the processor puts behind the image
            ids = [row[: len(row) - row[::-1].index(self.image_token_id)] for row in ids]
        for key in ("attention_mask", "token_type_ids", "mm_token_type_ids", "labels"):
            made.pop(key, None)
        dtype = self.model.get_input_embeddings().weight.dtype
        found = {key: value for key, value in made.convert_to_tensors("pt").items() if isinstance(value, Tensor)}
        inputs = {
            key: value.to(self.device, dtype if value.is_floating_point() else None) for key, value in found.items()
        }
        sight = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True, padding_value=-1)
        return {**inputs, "sight": sight}

    def sights(self, pixels: dict[str, Tensor]) -> list[Sight]:
        """How each image stands in a prompt."""
        rows = [tuple(token for token in row if token >= 0) for row in pixels["sight"].tolist()]
        grids = pixels["image_grid_thw"].tolist() if "image_grid_thw" in pixels else [None] * len(rows)
        return [Sight(row, tuple(grid) if grid else None) for row, grid in zip(rows, grids, strict=True)]

    def features(self, pixels: dict[str, Tensor]) -> list[Tensor]:
        """The connector's output: for each image (m, D), m object tokens. Differentiable in the connector, never in
        the tower. Each carries its `sight`, which a copy (detach, to) would lose.

        Qwen3-VL's are (m, (1 + L) * D): what joins the states of its first L layers stands behind.

        Raises:
            FgvrError: the processor gave an image another number of image tokens.
        """
        with frozen(self.part("tower")):
            out = self.model.get_image_features(**{k: v for k, v in pixels.items() if k != "sight"}, return_dict=True)
        every = [out.pooler_output, *(getattr(out, "deepstack_features", None) or [])]
        flat = torch.cat([x.flatten(0, -2) if isinstance(x, Tensor) else torch.cat(list(x)) for x in every], -1)
        sights = self.sights(pixels)
        counts = [sight.ids.count(self.image_token_id) for sight in sights]
        if sum(counts) != len(flat):
            raise FgvrError(_mismatch(counts[0], len(flat) // len(counts)))
        found = list(flat.split(counts))
        for feature, sight in zip(found, sights, strict=True):
            feature.sight = sight
        return found

    def sight(self, feature: Tensor) -> Sight:
        """How the image of these features stands in a prompt.

        Raises:
            ValueError: a copy of features of a family where their number does not tell.
        """
        found: Sight | None = getattr(feature, "sight", None)
        if found is None and (self.parts is None or self.family.name in TOLD_BY_NUMBER):
            return Sight((self.image_token_id,) * len(feature))
        if found is None:
            raise ValueError(f"features of {self.family.name} must come from Vlm.features as they are")
        return found

    def embed(self, ids: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(N, T, D) embeddings of token ids, with row i's image tokens replaced by features[i].

        Raises:
            FgvrError: a row has another number of image tokens than features; some models would shift features into
                the next row.
        """
        image = self._counted(ids, features)
        embeds = self.model.get_input_embeddings()(ids)
        return embeds.masked_scatter(image.unsqueeze(-1), torch.cat(list(features)).to(embeds.dtype))

    def _counted(self, ids: Tensor, features: Sequence[Tensor | None]) -> Tensor:
        """(N, T) bool: where the image tokens are, as many in each row as features."""
        image = ids == self.image_token_id
        for row, found in zip(image.sum(1).tolist(), features, strict=True):
            if row != (0 if found is None else len(found)):
                raise FgvrError(_mismatch(row, 0 if found is None else len(found)))
        return image

    def hidden(
        self, ids: Tensor, mask: Tensor, features: Sequence[Tensor | None] = (), replies: Tensor | None = None
    ) -> Tensor:
        """(N, T, D) last states of the language model, by the model's own forward: its positions, masks and all.

        Args:
            ids, mask: (N, T), right-padded.
            features: of each row's image, for the image tokens among `ids`; None: a row of text; empty: all are.
            replies: (N, T) bool, the tokens that a `prefix` family reads causally; all unless given.
        Raises:
            FgvrError: a row has another number of image tokens than features.
        """
        more: dict[str, Any] = {}
        found = None
        assert self.parts is not None
        if shown := [feature for feature in features if feature is not None]:
            image = self._counted(ids, features)
            width = self.model.get_input_embeddings().weight.shape[1]
            own, *deep = torch.cat(shown).split(width, -1)
            pooled, deepstack = own if self.parts.joined else [own], [[x] for x in deep]
            found = SimpleNamespace(pooler_output=pooled, deepstack_features=deepstack)
            grids = [self.sight(feature).grid for feature in shown]
            if None not in grids:
                more["image_grid_thw"] = torch.tensor(grids, device=self.device)
                more["mm_token_type_ids"] = image.int()
        if self.parts.prefix:  # without it PaliGemma would read a row in both directions, but not where it is padded
            more["token_type_ids"] = (torch.ones_like(ids) if replies is None else replies | (mask == 0)).long()
        with _given(self.model.model, found) as given:
            return self.model.model(
                input_ids=ids, attention_mask=mask, use_cache=False, **given, **more
            ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, V) float32 scores of the next token from last states, as the model's own forward makes them."""
        found = self.model.get_output_embeddings()(hidden).float()
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return found if cap is None else torch.tanh(found / cap) * cap

    # --- the three embeddings ---

    def pool_features(self, features: Sequence[Tensor], pool: str = "eos") -> Tensor:
        """Object embeddings (N, D): object tokens + EOS through the language model. Differentiable."""
        eos = self.tokenizer.eos_token_id
        ids, mask = self.pad([[self.image_token_id] * len(feature) + [eos] for feature in features])
        return self._pool(self.hidden(ids, mask, features, ids != self.image_token_id), mask, pool)

    def pool_texts(self, texts: Sequence[str], pool: str = "eos") -> Tensor:
        """Embeddings (N, D) of descriptions or category names + EOS. Differentiable."""
        ids, mask = self.tokens(texts)
        return self._pool(self.hidden(ids, mask), mask, pool)

    def _pool(self, hidden: Tensor, mask: Tensor, pool: str) -> Tensor:
        rows, end = torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1
        if pool == "eos":
            return hidden[rows, end]
        if pool == "last":
            return hidden[rows, end - 1]
        if pool == "mean":
            inner = mask.clone()
            inner[rows, end] = 0
            return (hidden * inner.unsqueeze(-1)).sum(1) / inner.sum(1, keepdim=True).clamp(min=1)
        raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")

    @torch.no_grad()
    def objects(self, images: Sequence[Image], pool: str = "eos") -> Tensor:
        """(N, D) float32 on the CPU, not normalised."""
        return self.pool_features(self.features(self.pixels(images)), pool).float().cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str], pool: str = "eos") -> Tensor:
        """(N, D) float32 on the CPU, not normalised."""
        return self.pool_texts(texts, pool).float().cpu()


@contextmanager
def _given(model: Any, features: Any) -> Iterator[dict[str, Any]]:
    """What the model's forward is told so that it takes these features for its images'."""
    import transformers

    if features is None:
        yield {}
    elif tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 18):
        yield {"mm_encoder_outputs": {"image": features}}
    else:  # it would compute them; the pixels are not looked at then
        features.deepstack_features = [level for (level,) in features.deepstack_features]
        model.get_image_features = lambda *args, **options: features
        try:
            yield {"pixel_values": features.pooler_output[0].new_zeros(1)}
        finally:
            del model.get_image_features


def _mismatch(tokens: int, features: int) -> str:
    return f"the prompt has {tokens} image tokens for {features} features; processor and model do not belong together"


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Run a module's forward (of a list: each one's) under no_grad, whatever is around it: nothing of it enters the
    graph, also not when peft hooks its embeddings (which would back-propagate through the frozen tower)."""
    with ExitStack() as stack:
        for inner in _runnable(module):
            stack.callback(_without_grad(inner))
        yield


def _runnable(module: nn.Module) -> list[nn.Module]:
    return [x for inner in module for x in _runnable(inner)] if isinstance(module, nn.ModuleList) else [module]


def _without_grad(module: nn.Module) -> Callable[[], None]:
    """Put no_grad around a module's forward; what comes back undoes it."""
    before, forward = module.__dict__.get("forward"), module.forward

    @functools.wraps(forward)
    def without_grad(*args: Any, **options: Any) -> Any:
        with torch.no_grad():
            return forward(*args, **options)

    def undo() -> None:
        del module.forward  # an instance attribute; the class keeps its own
        if before is not None:
            module.forward = before

    module.forward = without_grad
    return undo
