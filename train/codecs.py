"""Speech as it comes out of a telephone or a lossy file: through the codecs themselves, not models of them."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from voicevault.audio import decode
from voicevault.errors import SilentAudioError
from voicevault.types import SAMPLE_RATE, Float32Array

CODECS = ("mulaw", "mp3", "opus")


def through_codec(samples: Float32Array, codec: str, compression: float = 0.9) -> Float32Array:
    """Mono 16 kHz float32 [n] in [-1, 1] -> the same after encoding and decoding.

    ``mulaw``: 8 kHz and G.711 mu-law, as a telephone line; ``mp3`` and ``opus``: libsndfile's encoders;
    `compression` is its level, from 0 (best) to 1: 0.9 is an MP3 of about 25 kbit/s, 0 one of 60.

    Raises:
        ValueError: An unknown codec.
    """
    if codec == "mulaw":
        return telephone(samples)
    if codec not in CODECS:
        raise ValueError(f"unknown codec {codec!r}: choose {', '.join(CODECS)}")
    file = io.BytesIO()
    kind = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}[codec]
    clipped = np.clip(samples, -1.0, 1.0)
    soundfile.write(
        file, clipped, SAMPLE_RATE, format=kind[0], subtype=kind[1], compression_level=compression
    )
    return _decoded(file, samples)


def telephone(samples: Float32Array) -> Float32Array:
    """8 kHz, 8-bit mu-law (ITU-T G.711), and back to 16 kHz."""
    import soxr

    narrow = np.clip(soxr.resample(samples, SAMPLE_RATE, 8000), -1.0, 1.0)
    file = io.BytesIO()
    soundfile.write(file, narrow, 8000, format="WAV", subtype="ULAW")
    return _decoded(file, samples)


def _decoded(file: io.BytesIO, original: Float32Array) -> Float32Array:
    """As long as the original; silence where the codec left nothing of a pause."""
    out = np.zeros_like(original)
    try:
        coded = decode(file.getvalue()).samples
    except SilentAudioError:
        return out
    count = min(len(original), len(coded))
    out[:count] = coded[:count]
    return out
