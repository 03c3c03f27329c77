"""Callers in several threads: who shares a pass with whom, who waits, and whose error is whose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from voicevault.encoder import BatchingEncoder, load_encoder
from voicevault.errors import RequestError
from voicevault.types import SAMPLE_RATE, Float32Array

WAIT = 10.0


class GatedEncoder:
    """Answers with the mean and the length of each waveform, once the test lets a pass go on."""

    name, model_id, dim = "gated", "gated-1", 2

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.unshared = 0
        self.entered, self.gate = Event(), Event()

    def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
        self.passes.append(len(waveforms))
        self.entered.set()
        assert self.gate.wait(WAIT)
        if any(not len(w) for w in waveforms):
            raise RequestError("empty")
        if any(len(w) == 13 for w in waveforms):
            raise KeyboardInterrupt
        return np.array([(w.mean(), len(w)) for w in waveforms], np.float32).reshape(-1, 2)

    @contextmanager
    def one_thread_per_call(self) -> Iterator[None]:
        self.unshared += 1
        yield
        self.unshared -= 1


Submit = Callable[..., Future[Float32Array]]


@pytest.fixture
def gated() -> GatedEncoder:
    return GatedEncoder()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def waveform(value: float, length: int = 100) -> Float32Array:
    return np.full(length, value, np.float32)


def occupied(gated: GatedEncoder, shared: BatchingEncoder, pool: ThreadPoolExecutor) -> Future[Float32Array]:
    """A first call, which is in its pass now and stays there until the gate opens."""
    first = pool.submit(shared.embed, [waveform(-1)])
    assert gated.entered.wait(WAIT)
    return first


def gathered(shared: BatchingEncoder, count: int) -> None:
    """Returns once so many calls wait."""
    for _ in range(1000):
        with shared._lock:
            if len(shared._waiting) == count:
                return
        Event().wait(0.005)
    pytest.fail(f"{len(shared._waiting)} calls wait, not {count}")


def test_a_lone_call_runs_at_once_and_alone(gated: GatedEncoder) -> None:
    gated.gate.set()
    shared = BatchingEncoder(gated)
    for value in (0.25, 0.5):
        np.testing.assert_array_equal(shared.embed([waveform(value)]), [[value, 100]])
    assert gated.passes == [1, 1]
    assert shared.embed([]).shape == (0, 2)
    assert (shared.name, shared.model_id, shared.dim) == ("gated", "gated-1", 2)


def test_calls_that_come_during_a_pass_share_the_next(gated: GatedEncoder, pool: ThreadPoolExecutor) -> None:
    shared = BatchingEncoder(gated)
    first = occupied(gated, shared, pool)
    others = [pool.submit(shared.embed, [waveform(i / 8, 20 + k) for k in range(i)]) for i in range(1, 6)]
    gathered(shared, 5)
    assert gated.passes == [1]
    gated.gate.set()
    assert first.result(WAIT)[0, 0] == -1
    for i, other in enumerate(others, 1):
        np.testing.assert_array_equal(other.result(WAIT), [[i / 8, 20 + k] for k in range(i)])
    assert gated.passes == [1, 15]


def test_a_pass_has_a_size(gated: GatedEncoder, pool: ThreadPoolExecutor) -> None:
    shared = BatchingEncoder(gated, most=250)
    first = occupied(gated, shared, pool)
    others = []
    for i, length in enumerate((100, 100, 1000, 100)):  # 1000 is more than a pass takes, and runs by itself
        others.append(pool.submit(shared.embed, [waveform(i, length)]))
        gathered(shared, i + 1)
    gated.gate.set()
    assert [other.result(WAIT)[0, 0] for other in (first, *others)] == [-1, 0, 1, 2, 3]
    assert gated.passes == [1, 2, 1, 1]


def test_an_error_reaches_its_own_caller(gated: GatedEncoder, pool: ThreadPoolExecutor) -> None:
    shared = BatchingEncoder(gated)
    first = occupied(gated, shared, pool)
    good = pool.submit(shared.embed, [waveform(0.5)])
    gathered(shared, 1)
    bad = pool.submit(shared.embed, [waveform(0, 0)])
    gathered(shared, 2)
    late = pool.submit(shared.embed, [waveform(0.75)])
    gathered(shared, 3)
    gated.gate.set()
    first.result(WAIT)
    with pytest.raises(RequestError, match="empty"):
        bad.result(WAIT)
    assert good.result(WAIT)[0, 0] == 0.5
    assert late.result(WAIT)[0, 0] == 0.75
    with pytest.raises(RequestError):
        shared.embed([waveform(0, 0)])
    assert shared.embed([waveform(0.125)])[0, 0] == 0.125


def test_an_interrupted_pass_leaves_nobody_behind(gated: GatedEncoder, pool: ThreadPoolExecutor) -> None:
    shared = BatchingEncoder(gated)
    first = occupied(gated, shared, pool)
    interrupted = pool.submit(shared.embed, [waveform(0, 13)])
    gathered(shared, 1)
    others = [pool.submit(shared.embed, [waveform(i)]) for i in range(3)]
    gathered(shared, 4)
    gated.gate.set()
    first.result(WAIT)
    with pytest.raises(KeyboardInterrupt):
        interrupted.result(WAIT)
    assert [other.result(WAIT)[0, 0] for other in others] == [0, 1, 2]


def test_one_thread_per_call_is_not_gathered(gated: GatedEncoder, pool: ThreadPoolExecutor) -> None:
    shared = BatchingEncoder(gated)
    with shared.one_thread_per_call():
        assert gated.unshared == 1
        calls = [pool.submit(shared.embed, [waveform(i)]) for i in range(4)]
        gated.gate.set()
        assert [call.result(WAIT)[0, 0] for call in calls] == [0, 1, 2, 3]
    assert gated.unshared == 0
    assert gated.passes == [1] * 4


def test_many_threads_get_their_own_embeddings(
    tiny_model: Path, pool: ThreadPoolExecutor, speech: list[Float32Array]
) -> None:
    encoder = load_encoder(tiny_model)
    shared = BatchingEncoder(encoder, most=8 * SAMPLE_RATE)
    alone = np.concatenate([encoder.embed([samples]) for samples in speech])
    turns = [int(i) for i in np.random.default_rng(0).integers(0, len(speech), 120)]
    calls = [pool.submit(shared.embed, [speech[i]]) for i in turns]
    for i, call in zip(turns, calls, strict=True):
        np.testing.assert_allclose(call.result(WAIT)[0], alone[i], atol=1e-5)
