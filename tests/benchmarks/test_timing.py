"""Interleaved repeats, percentiles, and the machine's limits."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections import Counter

import pytest

from benchmarks.machine import describe_machine
from benchmarks.timing import best, interleaved, latency, read_bandwidth


def test_percentiles_are_times_that_occurred() -> None:
    found = latency([float(n) for n in range(100, 0, -1)])
    assert (found.count, found.p50, found.p95, found.p99) == (100, 50.0, 95.0, 99.0)
    few = latency([3.0, 1.0, 2.0])
    assert (few.p50, few.p95, few.p99) == (2.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="no values"):
        latency([])


def test_every_contender_has_its_turn_in_every_round() -> None:
    calls: list[str] = []
    steps = Counter[str]()
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    samples = list(interleaved(contenders, 20, warmup=2, seed=1, step=lambda: steps.update("x")))
    assert Counter(calls) == dict.fromkeys("abc", 22)
    assert steps["x"] == 60
    rounds = [[s.name for s in samples if s.round == number] for number in range(20)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 3  # nobody always comes after the same one
    again = [s.name for s in interleaved(contenders, 20, seed=1)]
    assert again == [s.name for s in samples]


def test_a_sample_holds_clock_and_processor_time() -> None:
    def compute() -> None:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    (slept, computed) = (
        next(interleaved({"": call}, 1, warmup=0)) for call in (lambda: time.sleep(0.02), compute)
    )
    assert slept.wall >= 0.02 > 2 * slept.cpu
    assert computed.wall >= 0.9 * computed.cpu >= 0.9 * 0.02
    assert gc.isenabled()


def test_the_shortest_of_several_calls() -> None:
    naps = iter((0.03, 0.0, 0.02))
    assert best(lambda: time.sleep(next(naps)), 3) < 0.01


def test_one_thread_inside_and_as_before_after() -> None:
    """In a process of its own: which libraries are loaded, and how they are set, is then known."""
    code = """
import faiss, numpy, torch
from threadpoolctl import threadpool_info
from benchmarks.timing import one_thread

def threads():
    blas = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    return [torch.get_num_threads(), faiss.omp_get_max_threads(), *blas]

torch.set_num_threads(2)
faiss.omp_set_num_threads(2)
before = threads()
assert before[:2] == [2, 2] and len(before) > 2, before
with one_thread():
    assert set(threads()) == {1}, threads()
assert threads() == before, threads()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_memory_is_read_at_a_credible_rate() -> None:
    assert 1e8 < read_bandwidth(megabytes=8, repeats=2) < 5e12


def test_the_machine_is_described() -> None:
    found = describe_machine()
    assert found["cpu"] and found["cores"] >= 1 and found["memory_gb"] > 0
    assert {"numpy", "torch", "voicevault"} <= found["packages"].keys()
