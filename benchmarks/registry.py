"""The benchmarks by name. A module loads when its benchmark is asked for."""

from __future__ import annotations

from importlib import import_module

from benchmarks.benchmark import Benchmark
from voicevault.errors import RequestError

NAMES = ("stages", "http", "bulk", "search", "index", "approximate", "encoders", "accuracy", "corpus")
"""In the order in which they run; each is a module of this package with a `Benchmark` called BENCHMARK."""


def find(name: str) -> Benchmark:
    """The benchmark of a name. Raises RequestError where there is none."""
    if name not in NAMES:
        raise RequestError(f"There is no benchmark {name!r}; there are: {', '.join(NAMES)}.", name=name)
    found = import_module(f"benchmarks.{name}").BENCHMARK
    assert isinstance(found, Benchmark) and found.name == name
    return found


def all_benchmarks() -> list[Benchmark]:
    return [find(name) for name in NAMES]
