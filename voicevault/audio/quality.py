"""What a recording is like: how much speech, how loud, how clipped, how noisy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voicevault.types import SAMPLE_RATE, Float32Array, Quality, Segment

_FLOOR = (1 / 32768) ** 2 / 12
"""Power of the rounding noise of 16 bits: nothing is measured below it."""
_FULL_SCALE = 0.99
"""From here a sample counts as clipped; the highest value of 8-bit audio is 0.992."""
_MIN_BACKGROUND = 0.1
"""Seconds of pause that a noise estimate needs."""


def measure(samples: Float32Array, segments: Sequence[Segment]) -> Quality:
    """Judge `samples` (float32 [n], mono, 16 kHz) whose speech lies in `segments`.

    The SNR compares the power in the segments, less the background's, with the power outside them, in dB; it
    is None where there is no speech or less than 0.1 s outside it. Without speech, the level is that of the
    whole recording.
    """
    speech = speech_mask(len(samples), segments)
    power = np.square(samples, dtype=np.float64)
    inside, outside = power[speech], power[~speech]
    level = float(inside.mean() if inside.size else power.mean() if power.size else 0.0)
    snr: float | None = None
    if inside.size and outside.size >= _MIN_BACKGROUND * SAMPLE_RATE:
        noise = max(float(outside.mean()), _FLOOR)
        snr = _decibels(max(level - noise, noise * 0.01) / noise)
    return Quality(
        seconds=len(samples) / SAMPLE_RATE,
        speech_seconds=inside.size / SAMPLE_RATE,
        level_dbfs=_decibels(max(level, _FLOOR)),
        clipped=float(np.mean(np.abs(samples) >= _FULL_SCALE)) if samples.size else 0.0,
        snr_db=snr,
    )


def speech_mask(length: int, segments: Sequence[Segment]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """bool [length]: which samples lie in `segments`."""
    mask = np.zeros(length, dtype=np.bool_)
    for segment in segments:
        mask[round(segment.start * SAMPLE_RATE) : round(segment.end * SAMPLE_RATE)] = True
    return mask


def _decibels(power: float) -> float:
    return float(10 * np.log10(power))
