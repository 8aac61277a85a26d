"""Which records make a batch: every one once an epoch, and with groups those together that share texts."""

from __future__ import annotations

import itertools

import pytest

from fgvr.errors import FgvrError
from fgvr.names import Aliases
from fgvr.stages import align
from fgvr.training.order import Grouping, Order


def mined(categories: int = 12, each: int = 6) -> list[dict]:
    """Categories 0 and 1, 2 and 3, … are each other's negatives; each record's is one record of its twin."""
    every = [
        {"id": f"{c}/{n}", "category": f"bird {c}", "description": f"Bird {n} of {c}: " + "long " * 9}
        for c in range(categories)
        for n in range(each)
    ]
    twins = {record["id"]: record for record in every}
    return [
        {**record, "negatives": [twins[f"{c ^ 1}/{n}"]]}
        for record in every
        for c, n in [map(int, record["id"].split("/"))]
    ]


GROUPS = [{"group": n, "categories": [f"bird {c}" for c in (2 * n, 2 * n + 1)]} for n in range(5)]  # 10, 11: in none


def texts(records: list[dict], batches: list[list[int]]) -> float:
    """Different texts a batch, in the mean."""
    kept = [align.Batch([records[n] for n in batch], Aliases()).texts for batch in batches]
    return sum(map(len, kept)) / len(kept)


@pytest.mark.parametrize("size", [4, 5, 7, 100])
@pytest.mark.parametrize("pairs", ["attribute", "object-category"])
def test_every_record_once_an_epoch_and_texts_are_shared(size: int, pairs: str) -> None:
    records = mined()
    grouping = align.grouping(records, GROUPS, pairs)
    plain, grouped = (Order(len(records), size, 0, one) for one in (None, grouping))
    epochs = []
    for epoch in range(2):
        for order in (plain, grouped):
            order.set_epoch(epoch)
            batches = list(order)
            assert sorted(n for batch in batches for n in batch) == list(range(72))
            assert [len(batch) for batch in batches] == [size] * (72 // size) + [72 % size] * (72 % size > 0)
            assert len(batches) == len(order) and list(order) == batches
        epochs.append(batches)
        assert size > 72 or texts(records, batches) < 0.8 * texts(records, list(plain))
    assert epochs[0] != epochs[1]
    assert list(Order(72, size, 1, grouping)) == epochs[1], "as plain batches: (seed, epoch) decide by their sum"


def test_batches_stay_in_a_group_and_bring_pairs_together() -> None:
    """Four records are two pairs of two categories: 4 descriptions, 2 names."""
    records, groups = mined(), [*GROUPS, {"categories": ["bird 10", "bird 11"]}]
    batches = list(Order(72, 4, 3, align.grouping(records, groups, "attribute")))
    inside = [sorted({records[n]["category"] for n in batch}) for batch in batches]
    assert all(names in [group["categories"] for group in groups] for names in inside)
    assert all(len(align.Batch([records[n] for n in batch], Aliases()).texts) == 6 for batch in batches)
    assert any(first != second for first, second in zip(inside[::3], inside[1::3], strict=True)), "groups come mixed"


def test_the_next_record_is_the_one_that_shares_most() -> None:
    shares = [{"a"}, {"bb"}, {"a", "bb", "c"}, {"ddd"}, {"ddd", "c"}]
    grouping = Grouping([0] * 5, range(5), shares)
    assert grouping.batches([0, 1, 2, 3, 4], 3) == [[0, 2, 1], [3, 4]]
    assert grouping.batches([4, 3, 2, 1, 0], 2) == [[4, 3], [2, 1], [0]]
    assert Grouping([0, 1, 0, 1, 1], range(5), shares).batches([0, 1, 2, 3, 4], 2) == [[0, 2], [1, 3], [4]]
    assert Grouping([0] * 5, "ababa", shares).batches([0, 1, 2, 3, 4], 4) == [[0, 1, 2, 3], [4]], "kinds in turn"


def test_a_category_of_two_groups_is_named() -> None:
    with pytest.raises(FgvrError, match="'bird 3' is in two groups"):
        align.grouping(mined(), [*GROUPS, {"categories": ["bird 3"]}], "attribute")


def test_what_comes_next_is_told_before_a_batch_is_handed_out() -> None:
    told: list[list[int]] = []
    handed = [(batch, list(told)) for batch in Order(7, 3, 0, ahead=told.append)]
    assert told == [batch for batch, _ in handed[1:]] + [[]]
    assert all(said[-1] == following for (_, said), (following, _) in itertools.pairwise(handed))
