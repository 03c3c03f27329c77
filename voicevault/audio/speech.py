"""Where in a recording somebody speaks: silero-vad's network through onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from voicevault.audio.level import normalise
from voicevault.errors import SettingsError
from voicevault.quiet_onnxruntime import onnxruntime
from voicevault.types import SAMPLE_RATE, Float32Array, Segment

_FRAME = 512
"""Samples per probability (32 ms), as the network was trained; it takes the 64 before them along."""
_CONTEXT = 64
_BLOCK = 512
"""Frames per call (16 s): bounds the memory of an hour's recording."""


def _model_path() -> Path:
    # Importing silero_vad, its data folder included, would load torch and set its threads.
    spec = find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise SettingsError("The package silero-vad is missing. Install it: pip install silero-vad.")
    path = Path(spec.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    if not path.is_file():
        raise SettingsError(
            f"silero-vad has no {path.name}. Install a newer one: pip install 'silero-vad>=6.2.1'."
        )
    return path


class SpeechDetector:
    """Finds speech. Thread-safe, and picklable: a worker process loads the network anew.

    Args:
        threads: Threads of one detection.
        threshold: Probability at which speech begins; it ends where 0.15 less is not reached.
        min_speech: Shorter stretches of speech, in seconds, are dropped.
        min_silence: Shorter pauses, in seconds, do not end a stretch.
        padding: Seconds kept before and after each stretch.

    Raises:
        SettingsError: silero-vad is not installed, or too old.
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        threshold: float = 0.5,
        min_speech: float = 0.25,
        min_silence: float = 0.1,
        padding: float = 0.03,
    ) -> None:
        self.threads = threads
        self.threshold = threshold
        self.min_speech = min_speech
        self.min_silence = min_silence
        self.padding = padding
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # the model file causes warnings that help nobody
        self._session = onnxruntime.InferenceSession(
            str(_model_path()), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        SpeechDetector.__init__(self, **state)

    def probabilities(self, samples: Float32Array) -> Float32Array:
        """float32 [n] mono 16 kHz -> float32 [ceil(n / 512)], the probability of speech in each 32 ms."""
        hidden = np.zeros((1, 1, 128), dtype=np.float32)
        cell = np.zeros((1, 1, 128), dtype=np.float32)
        parts: list[Float32Array] = []
        for frames in _frames(normalise(samples)):
            inputs = {"input": frames, "h": hidden, "c": cell}
            part, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
            parts.append(np.asarray(part, dtype=np.float32).reshape(-1))
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def segments(self, samples: Float32Array) -> list[Segment]:
        """The stretches of speech in `samples` (float32 [n], mono, 16 kHz), in order and without overlap."""
        found = [s for s in self._stretches(self.probabilities(samples)) if s[1] - s[0] >= self.min_speech]
        total = len(samples) / SAMPLE_RATE
        segments: list[Segment] = []
        for start, end in found:
            start, end = max(0.0, start - self.padding), min(total, end + self.padding)
            if segments and start <= segments[-1].end:
                start = segments.pop().start
            segments.append(Segment(start, end))
        return segments

    def _stretches(self, probabilities: Float32Array) -> Iterator[tuple[float, float]]:
        """Start and end in seconds, by hysteresis: a pause counts once it lasts `min_silence`."""
        step = _FRAME / SAMPLE_RATE
        start: int | None = None
        pause: int | None = None
        for i, p in enumerate(probabilities.tolist()):
            if p >= self.threshold:
                start = i if start is None else start
                pause = None
            elif start is not None and (p < self.threshold - 0.15 or pause is not None):
                pause = i if pause is None else pause
                if (i + 1 - pause) * step >= self.min_silence:
                    yield start * step, pause * step
                    start = pause = None
        if start is not None:
            yield start * step, (len(probabilities) if pause is None else pause) * step


def _frames(samples: Float32Array) -> Iterator[Float32Array]:
    """float32 [n] -> blocks [<= 512, 576]: each frame with the 64 samples before it, padded with zeros."""
    count = -(-len(samples) // _FRAME)
    for first in range(0, count, _BLOCK):
        last = min(first + _BLOCK, count)
        begin, end = first * _FRAME - _CONTEXT, last * _FRAME
        block = samples[max(begin, 0) : end]
        block = np.pad(block, (max(-begin, 0), max(end - len(samples), 0)))
        yield np.ascontiguousarray(
            np.lib.stride_tricks.sliding_window_view(block, _FRAME + _CONTEXT)[::_FRAME]
        )
