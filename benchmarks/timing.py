"""Clocks: interleaved repeats, percentiles, and the machine's limits measured beside."""

from __future__ import annotations

import gc
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed call: whose, in which round, and what it took in seconds, by the clock and of the process'
    processors (all threads)."""

    name: str
    round: int
    wall: float
    cpu: float


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    seed: int = 0,
    step: Callable[[], object] | None = None,
) -> Iterator[Sample]:
    """Times every contender once per round, in an order drawn anew for each round.

    What disturbs the machine for a while then hits all of them alike, so that ratios of medians hold where
    absolute times move. The garbage collector is off while a call is timed.

    Args:
        contenders: Name -> the call.
        rounds: Timed calls of each.
        warmup: Untimed calls of each before the first round.
        seed: Of the order.
        step: Called after each timed call, to advance a progress bar.
    """
    for call in contenders.values():
        for _ in range(warmup):
            call()
    order = list(contenders)
    shuffler = random.Random(seed)
    for number in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            yield timed(name, number, contenders[name])
            if step is not None:
                step()


def timed(name: str, number: int, call: Callable[[], object]) -> Sample:
    """One call with the garbage collector off."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        if collecting:
            gc.enable()
    return Sample(name, number, wall, cpu)


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of one kind of call, in the unit of what was given."""

    count: int
    p50: float
    p95: float
    p99: float


def latency(values: Sequence[float]) -> Latency:
    """Nearest-rank percentiles, so that each is a time which occurred; below 100 values p99 is the longest.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values to take percentiles of")
    ordered = sorted(values)

    def rank(share: float) -> float:
        return ordered[max(math.ceil(share * len(ordered)), 1) - 1]

    return Latency(len(ordered), rank(0.50), rank(0.95), rank(0.99))


def best(call: Callable[[], object], repeats: int) -> float:
    """The shortest of several calls in seconds: what the machine can do when nothing disturbs it."""
    return min(timed("", number, call).wall for number in range(repeats))


def read_bandwidth(megabytes: int = 256, repeats: int = 5) -> float:
    """Bytes per second at which one core reads memory, the best of several passes over a large array.

    The array must be larger than the caches; the pass is numpy's vectorised maximum, on one thread.
    """
    block = np.ones(megabytes * 1_000_000 // 4, dtype=np.float32)
    return block.nbytes / best(lambda: block.max(), repeats + 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS, and torch and FAISS where they are loaded by now, compute on one thread inside; as before after it.

    torch is told by itself: with a single OpenMP thread behind its back, its Fourier transforms, which have
    threads of their own, take thirty times as long.
    """
    from threadpoolctl import threadpool_limits

    torch, faiss = sys.modules.get("torch"), sys.modules.get("faiss")
    before = [torch.get_num_threads() if torch else 1, faiss.omp_get_max_threads() if faiss else 1]
    with threadpool_limits(limits=1, user_api="blas"):
        if torch:
            torch.set_num_threads(1)
        if faiss:
            faiss.omp_set_num_threads(1)
        try:
            yield
        finally:
            if faiss:
                faiss.omp_set_num_threads(before[1])
            if torch:
                torch.set_num_threads(before[0])
