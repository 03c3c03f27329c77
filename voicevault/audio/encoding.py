"""Samples to a file: what is kept of a recording."""

from __future__ import annotations

import io

import soundfile

from voicevault.types import SAMPLE_RATE, Float32Array


def to_flac(samples: Float32Array) -> bytes:
    """float32 mono 16 kHz [n] in [-1, 1] -> a FLAC file of 16-bit samples, lossless from there."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
