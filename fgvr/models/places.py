"""Features from inside a vision-language model: of its vision tower, behind its connector, of any layer of its language
model; and of a CLIP's output. One forward pass gives all places and pools.

    tower      what the connector is given: the tower's patch tokens
    connector  the connector's output, the object tokens
    layer N    hidden states after N layers of the language model (0: its input), of object tokens + EOS or text + EOS
    output     the language model's output, which is its last layer after the norm; of a CLIP its projected features

Pools (fgvr.models.vlm): eos, last, mean; at the tower last, mean and cls, its class token where it has one; at the
connector last and mean.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fgvr.errors import UsageError
from fgvr.models import open_encoder
from fgvr.models.vlm import Vlm, open_vlm

if TYPE_CHECKING:
    from PIL.Image import Image

POOLS = {"tower": ("last", "mean", "cls"), "connector": ("last", "mean"), "": ("eos", "last", "mean")}


def open_places(spec: str, at: Sequence[str], pools: Sequence[str], adapter: str | None, device: str) -> Any:
    """Places of a vision-language model, or the output of a CLIP (`clip:NAME` or its folder)."""
    if spec.startswith("clip:") or os.path.isfile(os.path.join(spec, "open_clip_config.json")):
        if adapter is not None or list(at) != ["output"]:
            raise UsageError(f"model {spec}: a CLIP has features at its output only; leave --at and --adapter out")
        return ClipPlaces(open_encoder(spec, device=device))
    return Places(open_vlm(spec, adapter=adapter, device=device), at, pools)


class ClipPlaces:
    """The output of a CLIP as Places."""

    vlm = None

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.about, self.at = encoder, encoder.about, ["output"]

    def images(self, images: Sequence[Image]) -> dict[str, Tensor]:
        return {"output/eos": self.encoder.images(images)}

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        return {"output/eos": self.encoder.texts(texts)}


class Places:
    """Features of a vision-language model at several places.

    Args:
        at: tower, connector, output, layers (every layer), a layer's number (negative: from the end).
        pools: those wanted; a place gives those of them that it has.
    Raises:
        UsageError: there is no such place or layer, or no place has such a pool.
    """

    def __init__(self, vlm: Vlm, at: Sequence[str], pools: Sequence[str]) -> None:
        self.vlm, self.about, self.pools = vlm, vlm.about, tuple(pools)
        self.layers: list[int] = []
        count = vlm.model.config.get_text_config().num_hidden_layers
        self.at: list[str] = []
        for place in at:
            if place in ("tower", "connector", "output"):
                self.at.append(place)
            elif place == "layers":
                self.at += [f"layer {n}" for n in range(count + 1)]
            elif place.lstrip("-").isdigit() and -count - 1 <= int(place) <= count:
                self.at.append(f"layer {int(place) % (count + 1)}")
            else:
                raise UsageError(
                    f"--at {place}: name tower, connector, output, layers, or a layer from {-count - 1} to {count}"
                )
        self.at = list(dict.fromkeys(self.at))
        self.layers = [int(place.split()[1]) for place in self.at if place.startswith("layer")]
        for place in self.at:
            if not self._pools(place):
                has = ", ".join(POOLS.get(place, POOLS[""]))
                raise UsageError(f"--pool {','.join(pools)}: there is none of them at {place!r}; it has {has}")

    def _pools(self, place: str) -> list[str]:
        return [pool for pool in POOLS.get(place, POOLS[""]) if pool in self.pools and (pool != "cls" or self._class())]

    def _class(self) -> bool:
        """Whether the tower has a class token."""
        return any(name.endswith("class_embedding") for name, _ in self.vlm.part("tower").named_parameters())

    @torch.no_grad()
    def images(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """ "tower/mean" -> (N, D) float32 on the CPU."""
        found: dict[str, Tensor] = {}
        with self._watched() as seen:
            features = self.vlm.features(self.vlm.pixels(images))
        if "tower" in self.at:
            tokens, mask = seen["tokens"], seen.get("mask")
            mask = torch.ones(tokens.shape[:2], device=tokens.device) if mask is None else mask.float()
            last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
            made = {"last": tokens[torch.arange(len(tokens)), last], "cls": seen.get("class")}
            made["mean"] = (tokens * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            found |= {f"tower/{pool}": made[pool].float().cpu() for pool in self._pools("tower")}
        if "connector" in self.at:
            rows = {"last": [row[-1] for row in features], "mean": [row.float().mean(0) for row in features]}
            found |= {f"connector/{pool}": torch.stack(rows[pool]).float().cpu() for pool in self._pools("connector")}
        if self.layers or "output" in self.at:
            eos = torch.tensor([self.vlm.tokenizer.eos_token_id], device=self.vlm.device)
            end = self.vlm.model.get_input_embeddings()(eos)
            found |= self._language([torch.cat([row.to(end.dtype), end]) for row in features])
        return found

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """ "output/eos" -> (N, D) float32 on the CPU, at the places that texts have: the language model's."""
        if not self.layers and "output" not in self.at:
            return {}
        ids, mask = self.vlm.tokens(texts)
        embeds = self.vlm.model.get_input_embeddings()(ids)
        return self._language([row[: int(length)] for row, length in zip(embeds, mask.sum(1), strict=True)])

    def _language(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """Rows (T_i, D) that end in EOS, through the language model."""
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        embeds = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        mask = (torch.arange(embeds.shape[1], device=embeds.device)[None, :] < lengths[:, None]).long()
        made = self.vlm.part("decoder")(
            inputs_embeds=embeds, attention_mask=mask, use_cache=False, output_hidden_states=bool(self.layers)
        )
        states = {f"layer {n}": made.hidden_states[n] for n in self.layers}
        states |= {"output": made.last_hidden_state} if "output" in self.at else {}
        every = torch.arange(len(rows), device=embeds.device)
        found: dict[str, Tensor] = {}
        inner = mask.clone()
        inner[every, lengths - 1] = 0
        for place, hidden in states.items():
            pooled = {"eos": hidden[every, lengths - 1], "last": hidden[every, lengths - 2]}
            pooled["mean"] = (hidden * inner[:, :, None]).sum(1) / inner.sum(1, keepdim=True)
            found |= {f"{place}/{pool}": pooled[pool].float().cpu() for pool in self._pools(place)}
        return found

    @contextlib.contextmanager
    def _watched(self) -> Iterator[dict[str, Any]]:
        """What the connector is given, and the tower's class token, of the forward pass inside."""
        seen: dict[str, Any] = {}

        def given(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            seen["tokens"] = args[0] if args else next(iter(options.values()))
            mask = options.get("attention_mask")
            seen["mask"] = mask.flatten(1) if mask is not None else None

        def seen_class(module: nn.Module, args: Any, output: Any) -> None:
            seen["class"] = output.last_hidden_state[:, 0]

        hooks = [self.vlm.part("connector").register_forward_pre_hook(given, with_kwargs=True)]
        if "cls" in self.pools and self._class():
            hooks.append(self.vlm.part("tower").register_forward_hook(seen_class))
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()
