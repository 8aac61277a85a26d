"""An align step on 64 triples: fgvr, one contrastive batch of 64, against the procedure of Finedefics' released code:
micro-batches of 2, which are also its contrastive batches, with gradients accumulated; the whole model over the padded
descriptions, names, negative descriptions and negative names, one after the other, logits of every token, the vision
tower in the graph (as peft's preparation for 4-bit training leaves it). Seconds; compared first: the losses of both on
one batch of 2 in the released form, the labels being the reply's in both. MICRO=N bounds our memory (4, which takes
about as much as theirs; 0: none); POOL=N (256) is from how many triples the negatives come: about 96 is like batches of
`--groups`; KEPT=1 takes the vision tower's output from a folder, which our first run fills.

`python -m tests.bench.bench_align released|ours [MICRO]` runs one contender and prints its peak memory."""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fgvr import losses, prompts
from fgvr.images import open_image
from fgvr.models.vlm import IGNORE, Vlm
from fgvr.records import Record
from fgvr.stages import align
from fgvr.training.gradcache import Step
from fgvr.training.reports import peak
from fgvr.training.vision import Vision
from tests.bench import training
from tests.bench.harness import Benchmark

BATCH, THEIRS, TAU = int(os.environ.get("BATCH", "64")), 2, 0.07
KEPT, POOL = bool(os.environ.get("KEPT")), int(os.environ.get("POOL", "256"))
MICRO = int(os.environ.get("MICRO", "4")) or None


@functools.cache
def material() -> tuple[Vlm, Vlm, list[Record]]:
    """A model for each contender, and the triples."""
    theirs = training.opened()
    theirs.part("tower").embeddings.register_forward_hook(lambda module, args, output: output.requires_grad_())
    return theirs, training.opened(), training.triples(BATCH, POOL)


@functools.cache
def vision() -> Vision | None:
    """With KEPT=1, the tower's outputs, in a folder that the first run fills."""
    return Vision(material()[1], training.folder(), training.folder() / "kept") if KEPT else None


def texts(vlm: Vlm, some: list[str]) -> Tensor:
    """The hidden state of each text's EOS."""
    ids, mask = vlm.tokens(some)
    hidden = vlm.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states[-1]
    return hidden[torch.arange(len(ids)), mask.sum(1) - 1]


def released(vlm: Vlm, records: list[Record]) -> Tensor:
    """The loss of one micro-batch."""
    pixels = vlm.pixels([open_image(training.folder(), record["image"]) for record in records])
    features = vlm.model.get_image_features(**pixels).pooler_output
    asked = prompts.describe("bird")
    rows = [vlm.encode(asked, r["description"], len(f)) for r, f in zip(records, features, strict=True)]
    ids, mask = vlm.pad([row[0] for row in rows])
    labels = vlm.pad([row[1] for row in rows], value=IGNORE)[0]
    logits = vlm.model(inputs_embeds=vlm.embed(ids, features), attention_mask=mask, use_cache=False).logits
    generation = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE)
    negatives = [n for record in records for n in record["negatives"]]
    o = vlm.pool_features(features)
    a, c = (texts(vlm, [r[field] for r in records]) for field in ("description", "category"))
    neg_a, neg_c = (
        texts(vlm, [n[field] for n in negatives]).view(len(records), training.NEGATIVES, -1)
        for field in ("description", "category")
    )
    how: dict[str, Any] = {"temperature": TAU, "form": "released"}
    return losses.total(
        generation,
        losses.object_attribute(o, a, neg_a, **how),
        losses.attribute_category(a, c, neg_a, neg_c, **how),
        losses.category_category(c, neg_c, **how),
    )


def baseline() -> tuple[float, float]:
    """Loss of the first two rows, and the norm of the batch's gradient."""
    vlm, _, records = material()
    vlm.model.zero_grad()
    first = 0.0
    for start in range(0, len(records), THEIRS):
        loss = released(vlm, records[start : start + THEIRS])
        first = first or loss.item()
        (loss * THEIRS / len(records)).backward()
    return first, training.gradients(vlm)


def step(vlm: Vlm, records: list[Record], form: str, micro: int | None) -> float:
    loss = 0.0
    for part, told in align.objective(vlm, training.folder(), form, TAU, "mean", vision=vision())(
        records, Step(0, "", micro)
    ):
        part.backward()
        loss += float(told.get("loss", 0.0))
    return loss


def ours() -> tuple[float, float]:
    _, vlm, records = material()
    vlm.model.zero_grad()
    step(vlm, records, "paper", MICRO)
    return 0.0, training.gradients(vlm)


def same(theirs: tuple[float, float], mine: tuple[float, float]) -> None:
    _, vlm, records = material()
    found = step(vlm, records[:THEIRS], "released", None)
    assert abs(found - theirs[0]) < 1e-3, f"losses of a batch of {THEIRS}: {theirs[0]:.5f} and {found:.5f}"
    assert theirs[1] > 0 and mine[1] > 0, "no gradient"


def benchmark() -> Benchmark:
    label = f"contrastive batch {BATCH}, negatives of {POOL}"
    label += f", micro-batch {MICRO}" * bool(MICRO) + ", tower kept" * KEPT
    return Benchmark((f"released procedure, {THEIRS}", baseline), (label, ours), same, bar=3)


if __name__ == "__main__":
    MICRO = int(sys.argv[2]) if len(sys.argv) > 2 else MICRO
    material()
    before, began = peak(torch.device("cpu")), time.perf_counter()
    {"released": baseline, "ours": ours}[sys.argv[1]]()
    took = time.perf_counter() - began
    after = peak(torch.device("cpu"))
    print(f"{sys.argv[1]}: {BATCH / took:.2f} triples/s, peak {after:.0f} MiB ({before:.0f} before)")
