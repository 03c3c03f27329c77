"""Speech detection and quality, on real speech."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voicevault.audio import SpeechDetector
from voicevault.audio.level import TARGET_RMS, normalise
from voicevault.audio.quality import measure
from voicevault.quiet_onnxruntime import onnxruntime
from voicevault.types import SAMPLE_RATE, Float32Array, Segment


def test_speech_is_found_between_silences(detector: SpeechDetector, speech: list[Float32Array]) -> None:
    rng = np.random.default_rng(2)
    hush = (rng.standard_normal(SAMPLE_RATE * 2) * 1e-4).astype(np.float32)
    for samples in speech:
        alone = sum(s.seconds for s in detector.segments(samples))
        assert 0.4 * len(samples) / SAMPLE_RATE < alone <= len(samples) / SAMPLE_RATE
        segments = detector.segments(np.concatenate([hush, samples, hush]))
        assert segments[0].start > 1.9
        assert segments[-1].end < 2.1 + len(samples) / SAMPLE_RATE
        assert all(a.end < b.start for a, b in pairwise(segments))
        assert abs(sum(s.seconds for s in segments) - alone) < 0.2 * alone


def test_noise_and_tones_are_no_speech(detector: SpeechDetector, tones: Any) -> None:
    noise = np.random.default_rng(3).standard_normal(SAMPLE_RATE * 3).astype(np.float32) * np.float32(0.1)
    for samples in (noise, np.zeros(SAMPLE_RATE, dtype=np.float32), np.zeros(0, dtype=np.float32)):
        assert detector.segments(samples) == []
    assert sum(s.seconds for s in detector.segments(tones(SAMPLE_RATE, 3.0))) < 0.5


@pytest.mark.parametrize("gain", [-60, -30, -10, 10])
def test_gain_changes_no_segment(detector: SpeechDetector, speech: list[Float32Array], gain: int) -> None:
    for samples in speech:
        scaled = samples * np.float32(10 ** (gain / 20))
        assert detector.segments(scaled) == detector.segments(samples)


def test_calls_of_blocks_equal_one_call(
    detector: SpeechDetector, speech: list[Float32Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = detector.probabilities(speech[0])
    monkeypatch.setattr("voicevault.audio.speech._BLOCK", 7)
    np.testing.assert_allclose(detector.probabilities(speech[0]), whole, atol=1e-4)


def test_the_fast_network_equals_the_plain_one(detector: SpeechDetector, speech: list[Float32Array]) -> None:
    """silero-vad's own network is called once per 32 ms; the one used here takes all of them at once."""
    spec = find_spec("silero_vad")
    assert spec is not None and spec.origin is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    plain = onnxruntime.InferenceSession(
        str(Path(spec.origin).parent / "data" / "silero_vad_16k_op15.onnx"), options, ["CPUExecutionProvider"]
    )
    slow = fast = worst = 0.0
    for samples in speech:
        start = time.perf_counter()
        state = np.zeros((2, 1, 128), dtype=np.float32)
        normal = normalise(samples)
        padded = np.pad(normal, (64, -len(normal) % 512))
        expected = []
        for at in range(0, len(padded) - 64, 512):
            inputs = {"input": padded[None, at : at + 576], "state": state, "sr": np.array(16000)}
            probability, state = plain.run(None, inputs)
            expected.append(float(probability[0, 0]))
        middle = time.perf_counter()
        found = detector.probabilities(samples)
        slow, fast = slow + middle - start, fast + time.perf_counter() - middle
        worst = max(worst, float(np.abs(found - np.array(expected)).max()))
    print(f"largest difference {worst:.1e}; {slow / fast:.1f} times as fast")
    assert worst < 1e-3


def test_detector_survives_pickling(speech: list[Float32Array]) -> None:
    detector = SpeechDetector(threads=2, threshold=0.6)
    copy = pickle.loads(pickle.dumps(detector))
    assert (copy.threads, copy.threshold) == (2, 0.6)
    assert copy.segments(speech[0]) == detector.segments(speech[0])


def test_normalise_is_one_factor(speech: list[Float32Array]) -> None:
    for samples in speech:
        normal = normalise(samples)
        assert normal.dtype == np.float32
        factor = normal[np.argmax(np.abs(samples))] / samples[np.argmax(np.abs(samples))]
        np.testing.assert_allclose(normal, samples * factor, rtol=1e-4, atol=1e-7)
    tiny = normalise(np.full(1600, 1e-30, dtype=np.float32))
    np.testing.assert_allclose(tiny, TARGET_RMS, rtol=1e-3)
    assert not normalise(np.zeros(10, dtype=np.float32)).any()


def test_quality_measures_what_was_put_in() -> None:
    rng = np.random.default_rng(4)
    samples = (rng.standard_normal(SAMPLE_RATE * 4) * 0.01).astype(np.float32)
    t = np.arange(SAMPLE_RATE * 2) / SAMPLE_RATE
    tone = 0.1 * np.sqrt(2) * np.sin(2 * np.pi * 300 * t)
    samples[SAMPLE_RATE : 3 * SAMPLE_RATE] += tone.astype(np.float32)
    quality = measure(samples, [Segment(1.0, 3.0)])
    assert quality.seconds == 4.0
    assert quality.speech_seconds == 2.0
    assert abs(quality.level_dbfs + 20) < 0.2
    assert quality.snr_db is not None and abs(quality.snr_db - 20) < 0.3
    assert quality.clipped == 0.0
    clipped = measure(np.clip(samples * 20, -1, 1), [Segment(1.0, 3.0)])
    assert 0.2 < clipped.clipped < 0.5


def test_quality_has_no_infinity() -> None:
    nothing = measure(np.zeros(SAMPLE_RATE, dtype=np.float32), [])
    assert np.isfinite(nothing.level_dbfs) and nothing.snr_db is None
    assert np.isfinite(measure(np.zeros(0, dtype=np.float32), []).level_dbfs)
    pure = np.zeros(SAMPLE_RATE, dtype=np.float32)
    pure[:8000] = 0.5
    snr = measure(pure, [Segment(0.0, 0.5)]).snr_db
    assert snr is not None and 80 < snr < 120
    assert measure(pure, [Segment(0.0, 1.0)]).snr_db is None


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """ONNX Runtime would keep a device's id and a database of events in the home folder, and send them."""
    program = (
        "import numpy as np\n"
        "from voicevault.audio import SpeechDetector\n"
        "SpeechDetector().probabilities(np.zeros(16_000, np.float32))\n"
    )
    # Nothing else in the environment: it reports nothing where a variable says that this is a build server.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
