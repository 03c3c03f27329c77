"""Room impulse responses: simulated by pyroomacoustics (image sources, Allen and Berkley 1979), or read from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voicevault.audio import decode
from voicevault.errors import AudioError, ManifestError
from voicevault.types import SAMPLE_RATE, Float32Array

MAX_ORDER = 10
"""Reflections followed; later ones lie far below those in the rooms drawn here."""


def simulated_rooms(
    count: int, seconds: float, seed: int, distance_m: tuple[float, float] = (0.3, 4.0)
) -> Float32Array:
    """`count` responses float32 [count, seconds * 16000] of unit energy, the direct sound at the start.

    Shoebox rooms of 10 to 300 cubic metres, reverberation times of 0.15 to 0.7 s, speaker and microphone anywhere in them at a
    distance in `distance_m`.
    """
    import pyroomacoustics

    length = int(seconds * SAMPLE_RATE)
    responses = np.zeros((count, length), np.float32)
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        while True:
            size = rng.uniform((2.5, 2.0, 2.2), (10.0, 8.0, 3.6))
            microphone = rng.uniform(0.2, size - 0.2)
            direction = rng.normal(size=3)
            speaker = microphone + direction / np.linalg.norm(direction) * rng.uniform(*distance_m)
            if ((speaker > 0.2) & (speaker < size - 0.2)).all():
                break
        # Sabine's law (1900): rt60 = 0.161 V / (S a). An absorption beyond 1 cannot be; such a room is as dry as can be.
        volume = float(size.prod())
        surface = 2.0 * float(size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
        absorption = min(0.95, 0.161 * volume / (surface * rng.uniform(0.15, 0.7)))
        room = pyroomacoustics.ShoeBox(
            size, fs=SAMPLE_RATE, materials=pyroomacoustics.Material(absorption), max_order=MAX_ORDER
        )
        room.add_source(speaker)
        room.add_microphone(microphone)
        room.compute_rir()
        responses[i] = _from_direct(np.asarray(room.rir[0][0], np.float32), length)
    return responses


def recorded_rooms(folder: Path, seconds: float) -> Float32Array:
    """The responses in the audio files of a folder, cut to `seconds`, of unit energy, the direct sound at the start.

    Raises:
        ManifestError: There is none.
    """
    length = int(seconds * SAMPLE_RATE)
    responses = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            responses.append(_from_direct(decode(path).samples, length))
        except AudioError:
            continue  # a text beside the recordings
    if not responses:
        raise ManifestError(f"{folder} holds no room responses that can be read")
    return np.stack(responses)


def _from_direct(response: Float32Array, length: int) -> Float32Array:
    kept = response[int(np.abs(response).argmax()) :][:length]
    padded = np.zeros(length, np.float32)
    padded[: len(kept)] = kept
    scaled: Float32Array = padded / max(float(np.linalg.norm(padded)), 1e-9)
    return scaled
