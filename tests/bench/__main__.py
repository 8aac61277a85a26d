"""python -m tests.bench [NAME]: every benchmark, or one. Status 0 also when a bar is missed, 1 when outputs differ."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tests.bench import harness


def names() -> list[str]:
    """A benchmark is a module bench_NAME.py here with a function benchmark() -> harness.Benchmark."""
    return sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main(wanted: list[str]) -> int:
    unknown = [name for name in wanted if name not in names()]
    if unknown:
        print(f"bench: no benchmark {unknown[0]!r}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    status = 0
    for name in wanted or names():
        benchmark = importlib.import_module(f"tests.bench.bench_{name}").benchmark()
        try:
            found = harness.ratios(benchmark)
        except ModuleNotFoundError as error:
            print(f"bench: {name}: skipped: {error}", file=sys.stderr)
            continue
        except AssertionError as error:
            print(f"bench: {name}: outputs differ, not measured: {error}", file=sys.stderr)
            status = 1
            continue
        print(harness.line(name, benchmark, found), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
