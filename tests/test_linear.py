"""The linear probe: it finds the optimum, looks at the right split and repeats itself."""

import math

import pytest
import torch

from fgvr.analysis import linear
from fgvr.analysis.linear import Probe, evaluate, fit, predict, split
from fgvr.errors import FgvrError


def world(count, width=8, kinds=4, noise=1.0, seed=0, centres_seed=99):
    """Gaussian blobs: features (count, width) and names."""
    centres = torch.randn(kinds, width, generator=torch.Generator().manual_seed(centres_seed)) * 2
    draw = torch.Generator().manual_seed(seed)
    codes = torch.arange(count) % kinds
    features = centres[codes] + noise * torch.randn(count, width, generator=draw)
    return features, [f"kind {i}" for i in codes.tolist()]


def objective(probe, features, names):
    """Plain re-computation of what fit() minimises."""
    x = (features.double() - probe.mean) / probe.scale
    scores = (x @ probe.weight.T + probe.bias).tolist()
    loss = 0.0
    for row, name in zip(scores, names, strict=True):
        top = max(row)
        loss += top + math.log(sum(math.exp(s - top) for s in row)) - row[probe.categories.index(name)]
    return loss / len(names) + probe.l2 / 2 * sum(w * w for row in probe.weight.tolist() for w in row)


def test_separable_blobs_are_told_apart():
    probe = fit(*world(80, noise=0.3), *world(40, noise=0.3, seed=1))
    score = evaluate(probe, *world(200, noise=0.3, seed=2))
    assert score.accuracy == 1 and score.n == 200 and score.high == 1 and 0.97 < score.low < 1
    assert probe.categories == [f"kind {i}" for i in range(4)] and probe.validation == 1


def test_features_without_information_stay_at_chance():
    names = [f"kind {i % 4}" for i in range(400)]
    noise = torch.randn(1200, 8, generator=torch.Generator().manual_seed(0)).split(400)
    score = evaluate(fit(noise[0], names, noise[1], names), noise[2], names)
    assert score.low < 0.25 < score.high and score.high - score.low < 0.1


def test_the_solution_is_the_minimum():
    train, names = world(60, noise=2.5)
    for l2 in (1.0, 0.01):
        probe = fit(train, names, *world(20, seed=1), weights=[l2])
        best = objective(probe, train, names)
        for step in (1e-3, -1e-3):
            for i in range(4):
                for j in range(8):
                    weight, bias = probe.weight.clone(), probe.bias.clone()
                    weight[i, j] += step
                    moved = Probe(probe.categories, weight, bias, probe.mean, probe.scale, l2, 0)
                    assert objective(moved, train, names) > best
                bias[i] += step
                moved = Probe(probe.categories, probe.weight, bias, probe.mean, probe.scale, l2, 0)
                assert objective(moved, train, names) > best


def test_the_weight_is_chosen_on_the_validation_split():
    train, names = world(24, width=40, noise=6.0)
    val, val_names = world(400, width=40, noise=6.0, seed=1)
    grid = (1e3, 1.0, 1e-4)
    alone = {l2: fit(train, names, val, val_names, weights=[l2]) for l2 in grid}
    chosen = fit(train, names, val, val_names, weights=grid)
    assert chosen.validation == max(p.validation for p in alone.values()) == alone[chosen.l2].validation
    assert len({p.validation for p in alone.values()}) > 1
    assert torch.allclose(chosen.weight, alone[chosen.l2].weight, atol=1e-4)
    # another validation split asks for another weight: labels that only a constant guess gets right
    constant = ["kind 0"] * 399 + ["kind 1"]
    assert fit(train, names, val, constant, weights=grid).l2 != fit(train, names, train, names, weights=grid).l2


def test_the_same_data_gives_the_same_probe_and_scales_do_not_matter():
    train, names = world(60)
    val = world(20, seed=1)
    first, again = fit(train, names, *val), fit(train, names, *val)
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)
    moved = fit(train * 1000 + 5, names, val[0] * 1000 + 5, val[1])
    test, test_names = world(100, seed=2)
    assert predict(moved, test * 1000 + 5) == predict(first, test)
    assert evaluate(first, test, test_names) == evaluate(again, test, test_names)


def test_features_that_do_not_vary_are_harmless():
    (train, names), (val, val_names) = world(40), world(20, seed=1)
    odd = torch.full((40, 2), 0.1), torch.full((20, 2), 0.1)
    odd[1][:, 1] = 7.0                                    # constant in training only
    probe = fit(torch.cat([train, odd[0]], 1), names, torch.cat([val, odd[1]], 1), val_names)
    assert probe.weight.isfinite().all() and probe.validation > 0.9
    assert probe.weight[:, 8:].abs().max() < 1e-6


def test_fitting_works_where_gradients_are_off():
    with torch.no_grad():
        probe = fit(*world(40, noise=0.3), *world(20, noise=0.3, seed=1))
    assert probe.validation == 1


def test_unknown_categories_are_named():
    train, names = world(40)
    probe = fit(train, names, train, names)
    with pytest.raises(FgvrError, match="1 of the test categories have no training image, the first is 'newcomer'"):
        evaluate(probe, train[:2], ["kind 0", "newcomer"])
    with pytest.raises(FgvrError, match="validation categories have no training image"):
        fit(train, names, train[:1], ["newcomer"])
    with pytest.raises(FgvrError, match="two training categories"):
        fit(train, ["same"] * 40, train, ["same"] * 40)


def test_wrong_features_are_refused():
    train, names = world(40)
    probe = fit(train, names, train, names)
    broken = train.clone()
    broken[3, 3] = math.nan
    with pytest.raises(FgvrError, match="training: features are not finite"):
        fit(broken, names, train, names)
    with pytest.raises(FgvrError, match="test: features are not finite"):
        evaluate(probe, broken, names)
    for features, labels in ((train[:-1], names), (train[:0], [])):
        with pytest.raises(ValueError, match="test: features"):
            evaluate(probe, features, labels)
    for weights in ((), (0.0, 1.0)):
        with pytest.raises(ValueError, match="must be positive"):
            fit(train, names, train, names, weights=weights)


def test_split_is_stratified_and_does_not_depend_on_order():
    ids = [f"img{i}" for i in range(53)]
    names = ["a"] * 20 + ["b"] * 30 + ["c"] * 2 + ["d"]
    train, val = split(ids, names, 0.2)
    assert sorted(train + val) == list(range(53)) and not set(train) & set(val)
    assert [sum(names[i] == c for i in val) for c in "abcd"] == [4, 6, 1, 0]
    turned = split(ids[::-1], names[::-1], 0.2)
    assert {ids[::-1][i] for i in turned[1]} == {ids[i] for i in val}
    assert split(ids, names, 0.2, seed=1)[1] != val
    assert [sum(names[i] == "c" for i in split(ids, names, 0.99)[1])] == [1]
    for share in (0, 1, -0.1):
        with pytest.raises(ValueError, match="share"):
            split(ids, names, share)


@pytest.mark.gpu
def test_a_gpu_finds_the_same_probe():
    (train, names), (val, val_names) = world(200, noise=2.0), world(80, noise=2.0, seed=1)
    cpu, gpu = fit(train, names, val, val_names), fit(train.cuda(), names, val.cuda(), val_names)
    assert cpu.l2 == gpu.l2 and torch.allclose(cpu.weight, gpu.weight.cpu(), atol=1e-4)
    assert predict(gpu, val) == predict(cpu, val)


def test_importing_the_module_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, fgvr.analysis.linear, fgvr.analysis.alignment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert linear.WEIGHTS[0] > linear.WEIGHTS[-1] > 0
