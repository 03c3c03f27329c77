"""Signals and files that the audio tests share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from voicevault.audio import SpeechDetector, decode
from voicevault.types import Float32Array

SPEECH = Path(__file__).parents[3] / "shared" / "corpora" / "eval" / "librispeech"

WriteSound = Callable[..., bytes]
WriteAV = Callable[..., bytes]


def signal(rate: int, seconds: float = 1.5) -> Float32Array:
    """Float32 [n]: two tones well inside every codec's band, one of them pulsing."""
    t = np.arange(int(rate * seconds)) / rate
    pulse = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * t)
    return (0.3 * np.sin(2 * np.pi * 440 * t) + 0.2 * pulse * np.sin(2 * np.pi * 1250 * t)).astype(np.float32)


@pytest.fixture(scope="session")
def tones() -> Callable[..., Float32Array]:
    return signal


@pytest.fixture(scope="session")
def write_sound() -> WriteSound:
    """(samples, rate, format, subtype) -> the bytes of a file that libsndfile wrote."""

    def write(samples: Float32Array, rate: int, format: str = "WAV", subtype: str | None = "PCM_16") -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
        return buffer.getvalue()

    return write


@pytest.fixture(scope="session")
def write_av() -> WriteAV:
    """(samples, rate, container, codec) -> the bytes of a file that FFmpeg wrote; skips where it cannot."""

    def write(samples: Float32Array, rate: int, container: str, codec: str, **options: str) -> bytes:
        if codec not in av.codec.codecs_available:
            pytest.skip(f"PyAV's wheel has no encoder {codec}")
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container, container_options=options) as output:
            try:
                stream: Any = output.add_stream(codec, rate=rate, layout="mono")
            except (av.FFmpegError, ValueError) as error:
                pytest.skip(f"PyAV's wheel does not encode {codec}: {error}")
            if codec == "wmav2":
                stream.bit_rate = 96_000  # it has no default of its own
            pcm = np.rint(samples * 32767).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate = rate
            for packet in stream.encode(frame):
                output.mux(packet)
            for packet in stream.encode(None):
                output.mux(packet)
        return buffer.getvalue()

    return write


@pytest.fixture(scope="session")
def detector() -> SpeechDetector:
    return SpeechDetector()


@pytest.fixture(scope="session")
def speech() -> list[Float32Array]:
    """Twelve recordings of real speech, 16 kHz."""
    files = sorted(SPEECH.glob("*/*.flac"))[::7][:12]
    if not files:
        pytest.skip(f"no speech corpus at {SPEECH}")
    return [decode(file).samples for file in files]
