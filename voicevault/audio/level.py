"""Loudness made equal, so that what comes after does not depend on the gain of a recording."""

from __future__ import annotations

import numpy as np

from voicevault.types import Float32Array

TARGET_RMS = 0.07
"""RMS that the loud parts of a recording are brought to (-23 dBFS), a usual level of recorded speech."""

_FRAME = 480  # 30 ms


def normalise(samples: Float32Array) -> Float32Array:
    """`samples` float32 [n] scaled by one factor, so that their loud 30 ms frames have an RMS of
    `TARGET_RMS`.

    The loud frames (95th percentile) and not all of them: pauses must not make a recording loud, nor one
    click silent. Samples that are all zero come back unchanged.
    """
    whole = len(samples) // _FRAME * _FRAME
    framed = samples[:whole].reshape(-1, _FRAME) if whole else samples.reshape(1, -1)
    # Scaled by the peak first: the squares of very small samples would vanish in float32.
    peak = float(np.max(np.abs(samples), initial=0.0))
    if peak == 0.0:
        return samples
    rms = np.sqrt(np.mean(np.square(framed / np.float32(peak)), axis=1, dtype=np.float64))
    loud = max(float(np.percentile(rms, 95)), float(rms.max()) * 0.1) * peak
    if loud == 0.0:
        return samples
    return samples * np.float32(TARGET_RMS / loud)
