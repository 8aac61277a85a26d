"""The contrastive part of an align step without images: 64 names against their descriptions and those of all their hard
negatives, with a gradient cache. fgvr, each different text encoded once beside texts of like length, against
sentence-transformers' CachedMultipleNegativesRankingLoss (extra `fgvr[bench]`) on the same model. Seconds; compared
first: the loss and the gradient. BATCH=N and MICRO=N (16) set the batch and what is in memory at once; POOL=N (256)
from how many descriptions the negatives are, so how often texts come twice."""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgvr.models.vlm import Vlm
from fgvr.records import Record
from fgvr.training.conversations import distinct
from fgvr.training.gradcache import Chunk, Step, buckets, cached
from tests.bench import training
from tests.bench.harness import Benchmark

BATCH, MICRO, POOL, TAU = *(int(os.environ.get(*o)) for o in (("BATCH", "64"), ("MICRO", "16"), ("POOL", "256"))), 0.07
Found = tuple[float, Tensor]  # loss, gradient


@functools.cache
def material() -> tuple[Vlm, list[list[str]]]:
    """The model, and the texts by column: names, their descriptions, those of the first, second, … negatives."""
    records: list[Record] = training.triples(BATCH, POOL)
    negatives = [[r["negatives"][k]["description"] for r in records] for k in range(training.NEGATIVES)]
    return training.opened(), [[r["category"] for r in records], [r["description"] for r in records], *negatives]


def gradient(vlm: Vlm) -> Tensor:
    return torch.cat([p.grad.flatten() for p in vlm.model.parameters() if p.grad is not None])


@functools.cache
def loss() -> nn.Module:
    """Theirs, on a model that embeds as ours does."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss

    vlm, _ = material()

    class Embeds(nn.Module):
        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            ids, mask = features["input_ids"], features["attention_mask"]
            return {**features, "sentence_embedding": vlm._pool(vlm.hidden(ids, mask), mask, "eos")}

    model = SentenceTransformer(modules=[Embeds()], device="cpu")
    return CachedMultipleNegativesRankingLoss(model, scale=1 / TAU, mini_batch_size=MICRO)


def theirs() -> Found:
    vlm, columns = material()
    vlm.model.zero_grad()
    features = [dict(zip(("input_ids", "attention_mask"), vlm.tokens(column), strict=True)) for column in columns]
    found = loss()(features, None)
    found.backward()
    return found.item(), gradient(vlm)


def ours() -> Found:
    vlm, columns = material()
    vlm.model.zero_grad()
    texts, at = distinct([text for column in columns for text in column])
    lengths = vlm.tokens(texts)[1].sum(1).tolist()

    def chunk(group: list[int]) -> Chunk:
        return Chunk(group, "texts", lambda more: (vlm.pool_texts([texts[n] for n in group]), None, {}))

    def contrast(embedded: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        rows = F.normalize(embedded[at], dim=1)
        logits = rows[:BATCH] @ rows[BATCH:].T / TAU
        return F.cross_entropy(logits, torch.arange(BATCH)), {}

    width = vlm.model.get_input_embeddings().weight.shape[1]
    chunks = [chunk(group) for group in buckets(lengths, MICRO * max(lengths))]
    values = []
    for value, _ in cached(chunks, contrast, (len(texts), width), vlm.device, Step(0, "", MICRO)):
        value.backward()
        values.append(value.item())
    return values[0], gradient(vlm)


def same(baseline: Found, mine: Found) -> None:
    assert abs(baseline[0] - mine[0]) < 1e-4, f"losses {baseline[0]:.6f} and {mine[0]:.6f}"
    error = ((baseline[1] - mine[1]).norm() / baseline[1].norm()).item()
    assert error < 1e-3, f"gradients differ by {error:.1e}"


def benchmark() -> Benchmark:
    label = f"fgvr's gradient cache, batch {BATCH}, {len(set().union(*material()[1]))} texts of {BATCH * 5}"
    return Benchmark(("sentence-transformers' cached loss", theirs), (label, ours), same, bar=1)
