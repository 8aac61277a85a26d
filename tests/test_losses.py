"""The contrastive losses against a worked example, plain loops and finite differences."""

import json
import math
import os
import random
from pathlib import Path

import pytest
import torch

from fgvr import losses

# Two rows, three negatives each, three dimensions: the inputs and a few results of a computation by hand.
O = [[1, 0, 0], [0, 1, 0]]  # noqa: E741
A = [[1, 1, 0], [0, 1, 1]]
C = [[1, 0, 1], [1, 1, 1]]
NEG_A = [[[0, 0, 1], [1, 0, 1], [1, 1, 1]], [[1, 0, 0], [0, 1, 0], [1, -1, 0]]]
NEG_C = [[[0, 1, 0], [1, 1, 0], [0, 1, 1]], [[1, 0, 0], [0, 0, 1], [1, 0, -1]]]


def tensors(*lists):
    return [torch.tensor(x, dtype=torch.float64) for x in lists]


def three(form, temperature, reduction):
    """OAC, ACC and CCC of the worked example."""
    o, a, c, neg_a, neg_c = tensors(O, A, C, NEG_A, NEG_C)
    how = {"temperature": temperature, "reduction": reduction, "form": form}
    return (
        losses.object_attribute(o, a, neg_a, **how),
        losses.attribute_category(a, c, neg_a, neg_c, **how),
        losses.category_category(c, neg_c, **how),
    )


def test_paper_form_gives_the_worked_example():
    oac, acc, ccc = three("paper", 1.0, "sum")
    assert [oac.item(), acc.item(), ccc.item()] == pytest.approx([1.92551716, 3.13023554, 2.97591806], abs=1e-8)
    assert losses.total(torch.tensor(2.0), oac, acc, ccc).item() == pytest.approx(2 + 4.01583538, abs=1e-8)
    weights = losses.Weights(3, 0.25, 0, 2)
    want = 6 + 0.25 * 1.92551716 + 2 * 2.97591806
    assert losses.total(torch.tensor(2.0), oac, acc, ccc, weights).item() == pytest.approx(want, abs=1e-7)


def test_released_form_gives_the_worked_example():
    oac, acc, ccc = three("released", 0.07, "mean")
    assert [oac.item(), acc.item(), ccc.item()] == pytest.approx([2.28521671, 5.00802215, 1.46211791], abs=1e-8)


def test_forms_agree_with_the_shared_worked_example():
    shared = os.environ.get("FGVR_SHARED")
    if not shared:
        pytest.skip("FGVR_SHARED is not set")
    example = json.loads((Path(shared) / "reference/derived/loss_worked_example.json").read_text())
    inputs = example["inputs_unnormalised"]
    assert [inputs[k] for k in ("o", "a", "c")] == [O, A, C]
    assert inputs["neg_a"] == NEG_A[0] + NEG_A[1] and inputs["neg_c"] == NEG_C[0] + NEG_C[1]
    runs = {
        "code_tau_0.07": ("released", 0.07, "mean", "ccc_code", "half_sum_code", ("oac", "acc")),
        "code_tau_0.001": ("released", 0.001, "mean", "ccc_code", "half_sum_code", ("oac", "acc")),
        "paper_eq5_8_sum_no_temperature": ("paper", 1.0, "sum", "CCC", "half_sum", ("OAC", "ACC")),
    }
    assert set(runs) == set(example["values"])
    for key, (form, temperature, reduction, ccc_key, half_key, keys) in runs.items():
        oac, acc, ccc = three(form, temperature, reduction)
        half = losses.total(torch.zeros((), dtype=torch.float64), oac, acc, ccc)
        want = [example["values"][key][k] for k in (*keys, ccc_key, half_key)]
        assert [x.item() for x in (oac, acc, ccc, half)] == pytest.approx(want, abs=1e-7), key


# ---- the same formulas, spelt out for one row at a time in plain Python ----


def cosine(x, y):
    return sum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


def slow_direction(x, y, negatives, same, temperature):
    """One -log(...) a row; negatives[i] is the list that stands in row i's denominator besides the batch."""
    rows = []
    for i in range(len(x)):
        own = math.exp(cosine(x[i], y[i]) / temperature)
        batch = sum(math.exp(cosine(x[i], y[j]) / temperature) for j in range(len(y)) if j == i or not same[i][j])
        hard = sum(math.exp(cosine(x[i], n) / temperature) for n in negatives[i])
        rows.append(-math.log(own / (batch + hard)))
    return rows


def slow(o, a, c, neg_a, neg_c, mask, same, temperature, form):
    """Row terms of OAC, ACC and CCC."""
    def real(negatives, i):
        return [n for n, m in zip(negatives[i], mask[i], strict=True) if m]

    own = [(real(neg_a, i), real(neg_c, i)) for i in range(len(o))]
    if form == "released":
        every = ([n for pair in own for n in pair[0]], [n for pair in own for n in pair[1]])
        own = [every] * len(o)
    none = [[]] * len(o)
    hard_a, hard_c = [pair[0] for pair in own], [pair[1] for pair in own]
    oa = slow_direction(o, a, hard_a, same, temperature)
    ao = slow_direction(a, o, none, same, temperature)
    ac = slow_direction(a, c, hard_c, same, temperature)
    ca = slow_direction(c, a, hard_a, same, temperature)
    ccc = []
    for i in range(len(o)):
        if form == "paper":
            terms = [math.exp(cosine(c[i], n) / temperature) for n in hard_c[i]]
            ccc.append(math.log(sum(terms)) if terms else 0.0)
        else:
            terms = [math.exp(cosine(c[i], n) / temperature) for n in c + hard_c[i]]
            ccc.append(-math.log(terms[0] / sum(terms)))
    return [(p + q) / 2 for p, q in zip(oa, ao, strict=True)], [(p + q) / 2 for p, q in zip(ac, ca, strict=True)], ccc


@pytest.mark.parametrize("form", losses.FORMS)
@pytest.mark.parametrize("reduction", losses.REDUCTIONS)
@pytest.mark.parametrize("seed", range(6))
def test_losses_equal_plain_loops(form, reduction, seed):
    draw = random.Random(seed)
    rows, negatives, width = draw.randint(1, 6), draw.randint(1, 4), draw.randint(2, 7)
    temperature = draw.choice([1.0, 0.07, 0.5])

    def vectors(*shape):
        return [vectors(*shape[1:]) for _ in range(shape[0])] if shape else draw.gauss(0, 1)

    o, a, c = vectors(rows, width), vectors(rows, width), vectors(rows, width)
    neg_a, neg_c = vectors(rows, negatives, width), vectors(rows, negatives, width)
    mask = [[draw.random() < 0.6 for _ in range(negatives)] for _ in range(rows)]
    categories = [draw.choice("xyz") for _ in range(rows)]
    same = [[p == q and form == "paper" for q in categories] for p in categories]
    want = slow(o, a, c, neg_a, neg_c, mask, same, temperature, form)

    to, ta, tc, tna, tnc = tensors(o, a, c, neg_a, neg_c)
    how = {"mask": torch.tensor(mask), "temperature": temperature, "reduction": reduction, "form": form}
    alike = losses.same_category(categories) if form == "paper" else None
    got = [
        losses.object_attribute(to, ta, tna, same=alike, **how),
        losses.attribute_category(ta, tc, tna, tnc, same=alike, **how),
        losses.category_category(tc, tnc, **how),
    ]
    scale = rows if reduction == "mean" else 1
    pairs, *_ = slow(o, c, c, neg_c, neg_c, mask, same, temperature, form)  # objects against names: OAC's loop
    occ = losses.object_category(to, tc, tnc, same=alike, **how)
    assert occ.item() == pytest.approx(sum(pairs) / scale, abs=1e-6)
    assert [x.item() for x in got] == pytest.approx([sum(terms) / scale for terms in want], abs=1e-6)


@pytest.mark.parametrize("form", losses.FORMS)
def test_gradients_equal_finite_differences(form):
    torch.manual_seed(0)
    rows, negatives, width = 4, 3, 5
    inputs = [torch.randn(rows, width, dtype=torch.float64) for _ in range(3)]
    inputs += [torch.randn(rows, negatives, width, dtype=torch.float64) for _ in range(2)]
    inputs.append(torch.tensor(0.5, dtype=torch.float64))                # the temperature may be learnt
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=torch.bool)
    same = losses.same_category(["x", "y", "x", "z"]) if form == "paper" else None

    def objective(o, a, c, neg_a, neg_c, temperature):
        how = {"mask": mask, "temperature": temperature, "form": form}
        return losses.total(
            (o * o).sum(),
            losses.object_attribute(o, a, neg_a, same=same, **how),
            losses.attribute_category(a, c, neg_a, neg_c, same=same, **how),
            losses.category_category(c, neg_c, **how),
        )

    assert torch.autograd.gradcheck(objective, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("form", losses.FORMS)
def test_what_stands_in_a_missing_slot_is_not_read(form):
    o, a, c, neg_a, neg_c = tensors(O, A, C, NEG_A, NEG_C)
    mask = torch.tensor([[True, False, False], [True, True, False]])
    results = []
    for junk in (0.0, math.nan):
        na, nc = (x.masked_fill(~mask[:, :, None], junk) for x in (neg_a, neg_c))
        leaves = [x.clone().requires_grad_() for x in (o, a, c)]
        loss = losses.total(
            leaves[0].sum() * 0,
            losses.object_attribute(leaves[0], leaves[1], na, mask=mask, form=form),
            losses.attribute_category(leaves[1], leaves[2], na, nc, mask=mask, form=form),
            losses.category_category(leaves[2], nc, mask=mask, form=form),
        )
        loss.backward()
        results.append([loss.detach(), *(x.grad for x in leaves)])
    for clean, junk in zip(*results, strict=True):
        assert torch.equal(clean, junk) and clean.isfinite().all()


def test_a_row_without_negatives_contributes_nothing_to_ccc():
    _, _, c, _, neg_c = tensors(O, A, C, NEG_A, NEG_C)
    c.requires_grad_()
    first_only = torch.tensor([[True, True, True], [False, False, False]])
    full = losses.category_category(c[:1], neg_c[:1], reduction="sum")
    assert losses.category_category(c, neg_c, mask=first_only, reduction="sum").item() == pytest.approx(full.item())
    assert losses.category_category(c, neg_c, mask=first_only).item() == pytest.approx(full.item() / 2)
    for neg, mask in ((None, None), (neg_c, torch.zeros(2, 3, dtype=torch.bool)), (neg_c[:, :0], None)):
        nothing = losses.category_category(c, neg, mask=mask)
        (gradient,) = torch.autograd.grad(nothing, c)
        assert nothing.item() == 0 and torch.equal(gradient, torch.zeros_like(c))


def test_rows_of_one_category_are_not_each_others_negatives():
    o, a, *_ = tensors(O, A, C, NEG_A, NEG_C)
    pair = losses.object_attribute(o, a, same=losses.same_category(["x", "x"]))
    assert pair.item() == pytest.approx(0, abs=1e-12)                    # only the positives are left
    assert losses.object_attribute(o, a, same=losses.same_category(["x", "y"])) == losses.object_attribute(o, a)
    assert losses.object_attribute(o, a).item() > 0.1


def test_scale_of_a_vector_does_not_matter():
    a, c, neg_a, neg_c = tensors(A, C, NEG_A, NEG_C)
    plain = losses.attribute_category(a, c, neg_a, neg_c).item()
    assert losses.attribute_category(a * 7, c * 0.01, neg_a * 3, neg_c * 1e4).item() == pytest.approx(plain, abs=1e-12)


def test_half_precision_and_autocast_compute_in_float32():
    torch.manual_seed(0)
    o, a, neg = torch.randn(8, 64), torch.randn(8, 64), torch.randn(8, 3, 64)
    want = losses.object_attribute(o, a, neg, temperature=0.07)
    exact = losses.object_attribute(*(x.double() for x in (o, a, neg)), temperature=0.07)
    assert exact.dtype == torch.float64 and want.item() == pytest.approx(exact.item(), abs=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(losses.object_attribute(o, a, neg, temperature=0.07), want)
    half = [x.bfloat16() for x in (o, a, neg)]
    got = losses.object_attribute(*half, temperature=0.07)
    assert got.dtype == torch.float32
    assert torch.equal(got, losses.object_attribute(*(x.float() for x in half), temperature=0.07))


def bad(**changes):
    o, a, _, neg_a, _ = tensors(O, A, C, NEG_A, NEG_C)
    given = {"o": o, "a": a, "neg_a": neg_a, **changes}
    return losses.object_attribute(given.pop("o"), given.pop("a"), given.pop("neg_a"), **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": torch.zeros(3, 3, dtype=torch.float64)}, "a must be floating"),
        ({"o": torch.zeros(2, 3, dtype=torch.long)}, "o must be floating"),
        ({"o": torch.zeros(0, 3), "a": torch.zeros(0, 3), "neg_a": None}, "B >= 1"),
        ({"neg_a": torch.zeros(6, 3, dtype=torch.float64)}, "neg_a must be"),
        ({"neg_a": torch.zeros(1, 3, 3, dtype=torch.float64)}, "neg_a must be"),
        ({"mask": torch.ones(2, 3)}, "mask must be bool"),
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, "mask must be bool"),
        ({"same": torch.ones(1, 2, dtype=torch.bool)}, "same must be bool"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"temperature": math.nan}, "temperature must be > 0"),
        ({"reduction": "none"}, "reduction must be one of"),
        ({"form": "code"}, "form must be one of"),
        ({"form": "released", "same": torch.eye(2, dtype=torch.bool)}, "masks no false negatives"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        bad(**changes)
