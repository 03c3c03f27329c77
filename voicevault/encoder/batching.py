"""Concurrent callers of an encoder share its forward passes, which is what keeps a GPU busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock

from voicevault.types import SAMPLE_RATE, Encoder, Float32Array

MOST = 300 * SAMPLE_RATE
"""Samples that share a pass; it bounds how long one caller waits for the others of its pass."""


@dataclass(slots=True, eq=False)
class _Call:
    """One caller's recordings; `woken` when there is an answer, or when it is this caller's turn to run the next pass."""

    waveforms: Sequence[Float32Array]
    woken: Event = field(default_factory=Event)
    rows: Float32Array | None = None
    error: Exception | None = None

    @property
    def samples(self) -> int:
        return sum(len(waveform) for waveform in self.waveforms)


class BatchingEncoder:
    """An encoder for many threads; implements `types.Encoder`.

    A call that finds the encoder idle runs at once, by itself. Calls that come while it computes gather, and the next pass takes
    them all, up to `most` samples, first come first served: nobody ever waits for company. A pass runs in the thread of one
    of its callers. If it fails, each of its calls is run by itself, so that an error reaches the caller whose recording
    caused it.
    """

    def __init__(self, encoder: Encoder, *, most: int = MOST) -> None:
        self._encoder = encoder
        self._most = most
        self._lock = Lock()
        self._waiting: deque[_Call] = deque()
        self._running = False
        self._unshared = 0

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def model_id(self) -> str:
        return self._encoder.model_id

    @property
    def dim(self) -> int:
        return self._encoder.dim

    def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
        """See `types.Encoder`; raises what the encoder raises for these waveforms."""
        if self._unshared:
            return self._encoder.embed(waveforms)
        call = _Call(waveforms)
        with self._lock:
            self._waiting.append(call)
            mine = not self._running
            self._running = True
        if not mine:
            self._wait(call)
        if call.rows is None and call.error is None:
            self._run_pass(call)
        if call.error is not None:
            raise call.error
        assert call.rows is not None
        return call.rows

    @contextmanager
    def one_thread_per_call(self) -> Iterator[None]:
        """See `types.Encoder`; within it calls are not gathered."""
        with self._lock:
            self._unshared += 1
        try:
            with self._encoder.one_thread_per_call():
                yield
        finally:
            with self._lock:
                self._unshared -= 1

    def _wait(self, call: _Call) -> None:
        """Until the call has its answer, or its turn. An interrupted caller gives its place to the next."""
        try:
            call.woken.wait()
        except BaseException:
            with self._lock:
                if call in self._waiting:
                    self._waiting.remove(call)
                    if call.woken.is_set():
                        self._pass_on()
            raise

    def _run_pass(self, leader: _Call) -> None:
        """Runs the next pass, with `leader`, the first of those that wait, in it. Then it is the next one's turn."""
        calls: list[_Call] = []
        with self._lock:
            samples = 0
            while self._waiting and (not calls or samples + self._waiting[0].samples <= self._most):
                calls.append(self._waiting.popleft())
                samples += calls[-1].samples
        assert calls[0] is leader
        try:
            self._answer(calls)
        finally:
            with self._lock:
                # Only an interrupt of this thread leaves others without an answer: they go first in the next pass.
                for call in reversed(calls[1:]):
                    if call.rows is None and call.error is None:
                        self._waiting.appendleft(call)
                    else:
                        call.woken.set()
                self._pass_on()

    def _pass_on(self) -> None:
        """Wakes the first of those that wait, to run the next pass; under the lock."""
        self._running = bool(self._waiting)
        if self._waiting:
            self._waiting[0].woken.set()

    def _answer(self, calls: Sequence[_Call]) -> None:
        try:
            rows = self._encoder.embed([waveform for call in calls for waveform in call.waveforms])
        except Exception as error:
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:
                self._answer([call])
            return
        start = 0
        for call in calls:
            call.rows = rows[start : start + len(call.waveforms)]
            start += len(call.waveforms)
