"""The sweep of linear probes, from memory and from disk, and the other probes, on synthetic features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fgvr.analysis import linear, probes, rows
from fgvr.analysis.rows import Rows
from fgvr.analysis.sweep import Swept, statistics, sweep
from fgvr.errors import FgvrError

Pair = tuple[torch.Tensor, torch.Tensor]


def world(count: int, width: int = 48, kinds: int = 12, noise: float = 2.6, seed: int = 0) -> Pair:
    """Gaussian blobs along directions of unlike scale, off centre, as features of networks are."""
    centres = torch.randn(kinds, width, generator=torch.Generator().manual_seed(9))
    codes = torch.arange(count) % kinds
    x = centres[codes] + noise * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return x * torch.linspace(0, -3, width).exp() + 5, codes


NAMES = [f"kind {i:02}" for i in range(12)]


def named(codes: torch.Tensor) -> list[str]:
    return [NAMES[i] for i in codes.tolist()]


def accuracy(probe: linear.Probe, x: torch.Tensor, codes: torch.Tensor) -> float:
    return linear.evaluate(probe, x, named(codes)).accuracy


@pytest.fixture(scope="module")
def parts() -> tuple[torch.Tensor, ...]:
    x, codes = world(2400)
    order = torch.randperm(2400, generator=torch.Generator().manual_seed(1))
    return x, codes, order[:1800].sort().values, order[1800:].sort().values


@pytest.fixture(scope="module")
def swept(parts: tuple[torch.Tensor, ...]) -> Swept:
    x, codes, train, val = parts
    return sweep(Rows(x), codes, train, val, NAMES, epochs=20, batch=128, refit=False)


def test_as_good_as_scikit_learn_at_its_best(parts: tuple[torch.Tensor, ...], swept: Swept) -> None:
    """±0.3 points of LogisticRegression with the C that is best on the same validation rows."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, codes, train, val = parts
    test, gold = world(6000, seed=5)
    mean, scale = x[train].mean(0), x[train].std(0)
    best = (0.0, 0.0)
    for c in (0.001, 0.01, 0.1):
        fitted = sklearn.LogisticRegression(C=c, max_iter=2000).fit((x[train] - mean) / scale, codes[train])
        scores = [float(fitted.score((part - mean) / scale, y)) for part, y in ((x[val], codes[val]), (test, gold))]
        best = max(best, (scores[0], scores[1]))
    assert 0.6 < best[1] < 0.95, "neither easy nor hopeless"
    assert accuracy(swept.probe, test, gold) > best[1] - 0.003
    newton = linear.fit(x[train], named(codes[train]), x[val], named(codes[val]), weights=[0.1, 0.02], steps=50)
    assert accuracy(newton, test, gold) > best[1] - 0.003


def test_the_best_setting_is_chosen_on_the_validation_rows(parts: tuple[torch.Tensor, ...], swept: Swept) -> None:
    x, codes, _, val = parts
    assert len(swept.settings) == 52
    whole = [setting for setting in swept.settings if setting.epochs == 20]
    assert 1 < len(whole) < 26 and all(setting.epochs >= 1 for setting in swept.settings)
    assert swept.best.validation == max(setting.validation for setting in whole)
    assert accuracy(swept.probe, x[val], codes[val]) == pytest.approx(swept.best.validation, abs=0.002)


def test_the_best_setting_is_trained_again_on_all_rows(parts: tuple[torch.Tensor, ...], swept: Swept) -> None:
    """It is the probe of that setting on all rows, better for them, and was chosen without looking at more."""
    x, codes, train, val = parts
    found = sweep(Rows(x), codes, train, val, NAMES, epochs=20, batch=128)
    assert (found.best, found.settings) == (swept.best, swept.settings)
    assert found.probe.validation == swept.probe.validation
    alone = sweep(Rows(x), codes, torch.arange(2400), val, NAMES, [found.best.rate], [found.best.decay], 20, 128,
                  refit=False)  # fmt: skip
    assert torch.equal(found.probe.weight, alone.probe.weight) and torch.equal(found.probe.mean, alone.probe.mean)
    test, gold = world(20_000, seed=6)
    assert accuracy(found.probe, test, gold) > accuracy(swept.probe, test, gold) + 0.003


def test_a_setting_alone_ends_where_it_ends_among_others(parts: tuple[torch.Tensor, ...]) -> None:
    x, codes, train, val = parts
    together = sweep(Rows(x), codes, train, val, NAMES, [3.0, 30.0], [0.0, 1e-3], epochs=1)
    for setting in together.settings:
        alone = sweep(Rows(x), codes, train, val, NAMES, [setting.rate], [setting.decay], epochs=1)
        assert alone.best.validation == pytest.approx(setting.validation, abs=0.002)


def test_a_step_is_the_gradient_of_the_loss() -> None:
    """One step from zero against autograd on the same standardised rows; Nesterov's first is 1.9 times the rate."""
    x, codes = world(60, width=6, kinds=3)
    index = torch.arange(60)
    found = sweep(Rows(x), codes, index, index, NAMES[:3], [0.7], [0.0], epochs=1, batch=64).probe
    z = (x.double() - found.mean) / found.scale
    weight, bias = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 6), (3,)))
    torch.nn.functional.cross_entropy(z @ weight.T + bias, codes).backward()
    assert weight.grad is not None and bias.grad is not None
    assert torch.allclose(found.weight, -0.7 * 1.9 * weight.grad, atol=1e-5)
    assert torch.allclose(found.bias, -0.7 * 1.9 * bias.grad, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_from_disk_as_from_memory(tmp_path: Path, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", 64)
    x, codes = world(700, width=12)
    save_file({"features": x.to(kind), "other": torch.zeros(3)}, tmp_path / "f.safetensors")
    disk, memory = Rows(tmp_path / "f.safetensors"), Rows(x.to(kind))
    index = torch.arange(700)[torch.arange(700) % 7 != 3]
    assert disk.shape == (700, 12) and torch.equal(disk.take(index), memory.take(index))
    train, val = index[:400], index[400:]
    found = [sweep(one, codes, train, val, NAMES, [10.0], [0.0], epochs=2, batch=50).probe for one in (disk, memory)]
    assert torch.equal(found[0].weight, found[1].weight)


def test_groups_hold_every_row_once_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", 10)
    source = Rows(torch.arange(200.0)[:, None])
    index = torch.arange(0, 200, 2)
    groups = list(source.groups(index, 4, seed=3))
    assert torch.equal(torch.cat([some for some, _ in groups]).sort().values, index)
    assert all(torch.equal(some.float(), block[:, 0]) for some, block in groups)
    first = groups[0][0]
    assert int(first.max() - first.min()) > 60 and not torch.equal(first, first.sort().values)
    assert torch.equal(first, next(iter(source.groups(index, 4, seed=3)))[0])


def test_statistics_of_rows_far_from_zero() -> None:
    x = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.01 + 1000
    x[:, 2] = 7
    mean, scale = statistics(Rows(x.float()), torch.arange(5000))
    assert torch.allclose(mean, x.float().double().mean(0)) and scale[2] == 1
    assert torch.allclose(scale[:2], x.float().double().std(0, correction=0)[:2])


def test_useless_features() -> None:
    x, codes = world(60)
    parts = torch.arange(48), torch.arange(48, 60)
    assert sweep(Rows(torch.ones(60, 5)), codes, *parts, NAMES).best.validation <= 1 / 6, "chance"
    with pytest.raises(FgvrError, match="no validation rows"):
        sweep(Rows(x), codes, torch.arange(60), torch.arange(0), NAMES)
    x[5, 2] = float("nan")
    with pytest.raises(FgvrError, match="row 5 of the features is not finite"):
        sweep(Rows(x), codes, *parts, NAMES)


def test_files_that_are_none(tmp_path: Path) -> None:
    whole = tmp_path / "a.safetensors"
    save_file({"features": torch.ones(50, 8)}, whole)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-9])
    save_file({"features": torch.ones(50, 8, dtype=torch.int32)}, tmp_path / "int.safetensors")
    for name, words in (("cut", "cut short"), ("int", "no floating")):
        with pytest.raises(FgvrError, match=words):
            Rows(tmp_path / f"{name}.safetensors")


# --- the other probes ---


def test_neighbours_against_a_loop() -> None:
    x, codes = world(120, width=6, kinds=4, noise=1.0)
    test, gold = world(40, width=6, kinds=4, noise=1.0, seed=3)
    score, k = probes.knn(x[:90], named(codes[:90]), x[90:], named(codes[90:]), test, named(gold), [7])
    right = 0
    unit = [row / row.norm() for row in x[:90].double()]
    for row, name in zip(test.double(), named(gold), strict=True):
        near = sorted(((float(other @ row / row.norm()), i) for i, other in enumerate(unit)), reverse=True)[:7]
        votes: dict[str, float] = {}
        for cosine, i in near:
            votes[NAMES[codes[i]]] = votes.get(NAMES[codes[i]], 0) + torch.tensor(cosine / 0.07).exp().item()
        right += max(votes, key=lambda key: votes[key]) == name
    assert (k, score.accuracy, score.n) == (7, right / 40, 40) and score.low < score.accuracy < score.high


def test_more_shots_are_better() -> None:
    x, codes = world(90, width=5, kinds=3)
    test, gold = world(300, width=5, kinds=3, seed=4)
    ids = [str(i) for i in range(90)]
    few, many = (probes.few_shot(x, named(codes), ids, test, named(gold), shots, 3) for shots in (1, 16))
    assert few.accuracy < many.accuracy and few.low < few.accuracy < few.high
    assert probes.few_shot(x, named(codes), ids, test, named(gold), 1, 3) == few
    with pytest.raises(FgvrError, match="more than 100 training images"):
        probes.few_shot(x, named(codes), ids, test, named(gold), 100, 1)


@pytest.mark.parametrize("seeds", [2, 3, 11, 40])
def test_the_interval_over_seeds_is_students(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import stats

    found = [0.5 + 0.01 * (n % 3) for n in range(seeds)]
    drawn = iter(found)
    monkeypatch.setattr(probes.linear, "fit", lambda *_: None)
    monkeypatch.setattr(probes.linear, "evaluate", lambda *_: probes.Score(next(drawn), 0, 1, 10))
    score = probes.few_shot(torch.eye(4), ["a", "a", "b", "b"], ["1", "2", "3", "4"], torch.eye(4), [], 1, seeds)
    want = stats.t.interval(0.95, seeds - 1, sum(found) / seeds, stats.sem(found))
    assert (score.low, score.high) == pytest.approx(want)


def test_the_best_test_epoch_is_no_lower_than_the_last() -> None:
    x, codes = world(300, noise=1.0)
    test, gold = world(300, noise=1.0, seed=4)
    scores = [probes.best_test_epoch(x, named(codes), test, named(gold), epochs).accuracy for epochs in (1, 5, 30)]
    assert scores == sorted(scores) and scores[-1] > 0.4


def test_categories_of_one_image() -> None:
    assert probes.alone(["b", "a", "b", "c"]) == ["a", "c"]
