"""ECAPA-TDNN on the CPU, by OpenVINO.

A single recording has all cores for itself. Of several, each core takes one at a time: nothing is padded to the length of
another, and the activations of one recording stay in the core's cache, which a batch's do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch

from voicevault.cores import available_cores, cores_of_the_process
from voicevault.encoder.checkpoint import SpeakerModel
from voicevault.encoder.engine import torch_threads
from voicevault.encoder.engine_graph import EcapaGraph, Ranges, grid, saturation_probe
from voicevault.encoder.quiet_openvino import openvino
from voicevault.types import SAMPLE_RATE, Float32Array

IN_FLIGHT = 60 * SAMPLE_RATE
"""Samples whose features or activations are in memory at a time, unless a single recording is longer."""
KNOWN_SHAPES = 24
"""Whose kernels a copy of a graph surely still has: OpenVINO keeps 5,000 of them, and a graph has 175 steps."""
_MAKING_KERNELS = Lock()
"""Of the process, as the caches are in which OpenVINO and oneDNN keep kernels."""
TAIL = 0.001
"""Share of the values at either end of a recording's that need not fit into its range."""


class OpenVinoEngine:
    """Implements `engine.Engine`.

    A call may use several threads, and then calls take turns; calls of one thread each run side by side, each on the thread that
    makes it. So there are never more threads computing than `threads`, or callers.

    Args:
        model: With an `EcapaTdnn`.
        threads: Most threads of one call; None is one per core.
        ranges: See `engine_graph`; None computes in float32.
    """

    def __init__(self, model: SpeakerModel, threads: int | None = None, ranges: Ranges | None = None) -> None:
        self.name = "openvino" if ranges is None else "openvino-int8"
        self.threads = threads if threads is not None else available_cores()
        self._graph = EcapaGraph(model.network, ranges)
        self._features = Features(model, self._graph)
        self._turn, self._building = Lock(), Lock()
        self._callers = 0

    def embed(self, pieces: Sequence[Float32Array]) -> Float32Array:
        """See `engine.Engine`."""
        if self._callers or self.threads == 1:
            return self._one_by_one(pieces)
        with self._turn:
            if len(pieces) == 1:
                return self._run(self._whole, pieces[0])[None]
            return self._side_by_side(pieces)

    @contextmanager
    def one_thread_per_call(self) -> Iterator[None]:
        """See `types.Encoder`."""
        with self._building:
            self._callers += 1
        try:
            yield
        finally:
            with self._building:
                self._callers -= 1

    def _one_by_one(self, pieces: Sequence[Float32Array]) -> Float32Array:
        """The features of several before the network sees the first: by turns, each would push the other's data out of the
        core's cache, which takes a sixth longer, and a third where two threads do it."""
        rows: list[Float32Array] = []
        for some in _minutes(pieces):
            rows += [_embedding(self._parallel, inputs) for inputs in [self._features(p)[1] for p in some]]
        return np.stack(rows)

    def _side_by_side(self, pieces: Sequence[Float32Array]) -> Float32Array:
        """Longest first, so that no core is left with a long one at the end."""
        rows: list[Float32Array | None] = [None] * len(pieces)
        running: deque[tuple[int, Future[Float32Array]]] = deque()
        samples = 0
        for i in sorted(range(len(pieces)), key=lambda i: -len(pieces[i])):
            while running and samples + len(pieces[i]) > IN_FLIGHT:
                done, future = running.popleft()
                rows[done] = future.result()
                samples -= len(pieces[done])
            running.append((i, self._pool.submit(self._run, self._parallel, pieces[i])))
            samples += len(pieces[i])
        for i, future in running:
            rows[i] = future.result()
        return np.stack([row for row in rows if row is not None])

    def _run(self, compiled: Compiled, piece: Float32Array) -> Float32Array:
        return _embedding(compiled, self._features(piece)[1])

    @cached_property
    def _whole(self) -> Compiled:
        """All threads for one recording."""
        return Compiled(self._graph.model, self.threads)

    @property
    def _parallel(self) -> Compiled:
        """One thread for each of several recordings."""
        with self._building:
            return self._compiled_parallel

    @cached_property
    def _compiled_parallel(self) -> Compiled:
        return Compiled(self._graph.model, 1)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="embed")


def _embedding(compiled: Compiled, inputs: list[Any]) -> Float32Array:
    (rows,) = compiled.infer(inputs)
    row: Float32Array = rows[0, 0]
    return row


def _minutes(pieces: Sequence[Float32Array]) -> Iterator[list[Float32Array]]:
    """In order, `IN_FLIGHT` samples at a time, or a single longer piece."""
    some: list[Float32Array] = []
    for piece in pieces:
        if some and sum(map(len, some)) + len(piece) > IN_FLIGHT:
            yield some
            some = []
        some.append(piece)
    yield some


class Compiled:
    """A graph, compiled as often as it was ever needed at once: each copy has one stream, and serves one caller at a time."""

    def __init__(self, model: openvino.Model, threads: int) -> None:
        self._model, self._threads = model, threads
        self._idle: deque[_Copy] = deque()  # whose ends are safe among threads

    def infer(self, inputs: list[Any]) -> list[Float32Array]:
        """Inputs in order -> outputs in order."""
        try:
            copy = self._idle.pop()
        except IndexError:
            copy = _Copy(self._model, self._threads)
        outputs = copy.infer(inputs)
        self._idle.append(copy)
        return outputs


class _Copy:
    """One compiled graph and its request.

    Two threads that make kernels for one shape at the same moment now and then get one that computes something else, and
    the process keeps it: 3 processes of 57 did, under load. So kernels are made by one thread at a time. That is why a copy
    has one stream: only then is it known which shapes it has kernels for.
    """

    def __init__(self, model: openvino.Model, threads: int) -> None:
        with _MAKING_KERNELS:
            compiled = openvino.Core().compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    "INFERENCE_PRECISION_HINT": "f32",  # or a processor with bfloat16 computes in it
                    # A thread for each core stays on it: free to move, after a rest both were often found on one. Fewer are
                    # free, for two processes must not share a core while another idles.
                    "ENABLE_CPU_PINNING": threads > 1 and threads == cores_of_the_process(),
                },
            )
            self._request = compiled.create_infer_request()
        self._given: list[Any] = [None] * len(compiled.inputs)
        self._outputs = range(len(compiled.outputs))
        self._known: deque[tuple[int, ...]] = deque(maxlen=KNOWN_SHAPES)

    def infer(self, inputs: list[Any]) -> list[Float32Array]:
        # Every call into OpenVINO takes up to 0.05 ms after a rest. Given to `infer`, inputs are looked at by type in Python
        # first, and outputs not shared are copied; and most inputs are those of the last recording of this length.
        for place, values in enumerate(inputs):
            if values is not self._given[place]:
                self._request.set_input_tensor(place, openvino.Tensor(values, shared_memory=True))
                self._given[place] = values
        shape = inputs[0].shape
        if shape in self._known:
            self._request.infer(share_outputs=True)
        else:
            with _MAKING_KERNELS:
                self._request.infer(share_outputs=True)
            self._known.append(shape)
        return [np.array(self._request.get_output_tensor(i).data, np.float32) for i in self._outputs]


class Features:
    """A recording to the inputs of the graph."""

    def __init__(self, model: SpeakerModel, graph: EcapaGraph) -> None:
        self._frontend = model.frontend
        self._graph = graph

    def __call__(self, piece: Float32Array) -> tuple[int, list[Any]]:
        """float32 [n] -> frames, and features and positions for that many."""
        with torch_threads(1), torch.inference_mode():
            features = self._frontend(torch.from_numpy(_own(piece)[None]))[0].numpy()
        frames = features.shape[2]
        padded = np.zeros((1, grid(frames), features.shape[1]), np.float32)
        padded[:, :frames] = features.transpose(0, 2, 1)
        return frames, [padded, *self._graph.positions(frames)]


def _own(piece: Float32Array) -> Float32Array:
    """As `np.require`, which takes longer to see that nothing is to be done: what torch may share the memory of."""
    if piece.dtype == np.float32 and piece.flags.c_contiguous and piece.flags.writeable:
        return piece
    return np.array(piece, np.float32)


def saturates() -> bool:
    """Whether this processor's 8-bit products go wrong: those without VNNI add them in pairs in 16 bits, which are too few."""
    inputs = 64
    (found,) = Compiled(saturation_probe(inputs), 1).infer([np.full((1, 1, inputs), 255, np.float32)])
    return not np.allclose(found, 255 * 127 * inputs, rtol=1e-3)


def observe(model: SpeakerModel, speech: Sequence[Float32Array]) -> dict[str, tuple[float, float]]:
    """The range of each quantisable input of the network, by its name.

    Of each recording the middle 99.8 % of the values count, and of all recordings the widest range: a few values far out would
    cost all others their precision, and a kind of recording that is rare would be cut off by a mean.
    """
    graph = EcapaGraph(model.network)
    features, compiled = Features(model, graph), Compiled(graph.observer(), 1)
    lows, highs = dict.fromkeys(graph.points, 0.0), dict.fromkeys(graph.points, 0.0)
    for samples in speech:
        frames, inputs = features(samples)
        for name, values in zip(graph.points, compiled.infer(inputs), strict=True):
            own = frames if values.shape[1] == grid(frames) else -(-frames // model.network.config.stride)
            low, high = np.quantile(values[0, :own], (TAIL, 1 - TAIL))
            lows[name], highs[name] = min(lows[name], float(low)), max(highs[name], float(high))
    return {name: (lows[name], highs[name]) for name in graph.points}
