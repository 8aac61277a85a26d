"""The benchmark harness: equal outputs before any measurement, interleaving, the report, the exit statuses."""

from __future__ import annotations

import pytest

from tests.bench import __main__ as bench
from tests.bench.harness import Benchmark, line, ratios


def two(calls: list[str], bar: float = 2, answers: tuple[int, int] = (1, 1)) -> Benchmark:
    def run(name: str, answer: int) -> int:
        calls.append(name)
        return answer

    def same(baseline: int, ours: int) -> None:
        assert baseline == ours, "other answers"

    baseline = lambda: run("baseline", answers[0])  # noqa: E731  a contender is any callable
    ours = lambda: run("ours", answers[1])  # noqa: E731
    costs = {baseline: 6.0, ours: 2.0}

    def measure(work: object) -> float:
        work()  # type: ignore[operator]
        return costs[work]  # type: ignore[index]

    return Benchmark(("plain", baseline), ("fgvr", ours), same, bar, measure)


def test_rounds_are_interleaved_and_the_ratio_is_baseline_by_ours() -> None:
    calls: list[str] = []
    assert ratios(two(calls)) == [3.0] * 5
    assert calls[:2] == ["baseline", "ours"], "outputs are compared first"
    assert "".join(name[0] for name in calls[2:]) == "boobboobbo"


@pytest.mark.parametrize(("bar", "verdict"), [(3, "holds"), (3.01, "short")])
def test_the_line_names_contenders_ratio_spread_bar_and_verdict(bar: float, verdict: str) -> None:
    text = line("name", two([], bar), [3.0, 2.0, 9.0, 3.0, 4.0])
    assert text == f"name: fgvr vs plain: 3.00x (2.00 to 9.00, 5 rounds), bar {bar:g}x: {verdict}"


def test_different_outputs_are_not_measured() -> None:
    calls: list[str] = []
    with pytest.raises(AssertionError, match="other answers"):
        ratios(two(calls, answers=(1, 2)))
    assert calls == ["baseline", "ours"]


def test_fewer_than_five_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be >= 5"):
        Benchmark(("a", int), ("b", int), lambda a, b: None, 1, rounds=4)


@pytest.mark.parametrize(("bar", "answers", "status"), [(1, (1, 1), 0), (99, (1, 1), 0), (1, (1, 2), 1)])
def test_status(monkeypatch: pytest.MonkeyPatch, capsys, bar: float, answers: tuple[int, int], status: int) -> None:
    module = type("module", (), {"benchmark": staticmethod(lambda: two([], bar, answers))})
    monkeypatch.setattr(bench.importlib, "import_module", lambda name: module)
    assert bench.main(["startup"]) == status
    out, err = capsys.readouterr()
    assert ("outputs differ" in err and not out) if status else ("startup: fgvr vs plain: 3.00x" in out and not err)


def test_an_unknown_name_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["nope"]) == 2
    assert capsys.readouterr().err == f"bench: no benchmark 'nope'; there are: {', '.join(bench.names())}\n"
    assert {"jsonl", "startup", "topk", "topk_memory"} <= set(bench.names())
