"""What recordings go through on their way to a microphone and a file, for the condition table of an evaluation.

A draw depends on the recording and the condition alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from train.codecs import through_codec
from train.rooms import simulated_rooms
from voicevault.audio import decode
from voicevault.errors import AudioError, ManifestError
from voicevault.types import SAMPLE_RATE, Float32Array

SNRS_DB = (20, 10, 5, 0)
ROOMS = {"near": (0.3, 0.8), "far": (2.5, 4.0)}
"""Metres between mouth and microphone."""
ROOM_DRAWS = 12
ROOM_SECONDS = 0.8
TALKERS = 5
SECONDS = (1.0, 2.0, 3.0, 5.0, 10.0)


class Condition(Protocol):
    """What is done to a recording before it is embedded; picklable."""

    @property
    def name(self) -> str: ...

    def __call__(self, samples: Float32Array, seed: int) -> Float32Array:
        """float32 [n], mono, 16 kHz -> the same as it would sound; draws depend on `seed` alone."""
        ...


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise at an SNR over the whole recording: a random stretch of a random file, repeated where it is too short.

    Args:
        files: Recordings of noise; none for noise with the long-term spectrum of speech.
        snr_db: Speech to noise power.
    """

    files: tuple[Path, ...]
    snr_db: float

    @property
    def name(self) -> str:
        return f"noise {self.snr_db:g} dB"

    def __call__(self, samples: Float32Array, seed: int) -> Float32Array:
        random = np.random.default_rng(seed)
        if not self.files:
            return mixed(samples, speech_shaped(len(samples), random), self.snr_db)
        noise = _recording(self.files[random.integers(len(self.files))])
        return mixed(samples, stretch(noise, len(samples), random), self.snr_db)


@dataclass(frozen=True, slots=True)
class Babble:
    """Five people talking at once, at an SNR over the whole recording; fewer, some of them twice, where there are not five.

    Args:
        voices: Speaker and recording.
        snr_db: Speech to babble power.
    """

    voices: tuple[tuple[str, Path], ...]
    snr_db: float

    @property
    def name(self) -> str:
        return f"babble {self.snr_db:g} dB"

    def __call__(self, samples: Float32Array, seed: int) -> Float32Array:
        random = np.random.default_rng(seed)
        speakers = sorted({speaker for speaker, _ in self.voices})
        crowd = np.zeros(len(samples), dtype=np.float32)
        for i in random.choice(len(speakers), size=TALKERS, replace=len(speakers) < TALKERS):
            own = [path for speaker, path in self.voices if speaker == speakers[i]]
            voice = stretch(_recording(own[random.integers(len(own))]), len(samples), random)
            crowd += voice / np.float32(max(float(np.sqrt(np.mean(np.square(voice)))), 1e-6))
        return mixed(samples, crowd, self.snr_db)

    def without(self, speaker: str) -> Babble:
        """The same among everybody else: what stands behind that speaker's recordings."""
        return replace(self, voices=tuple(voice for voice in self.voices if voice[0] != speaker))


@dataclass(frozen=True, slots=True)
class Room:
    """A simulated room with the microphone near (0.3 to 0.8 m) or far (2.5 to 4 m)."""

    place: str

    @property
    def name(self) -> str:
        return f"{self.place} room"

    def __call__(self, samples: Float32Array, seed: int) -> Float32Array:
        response = _rooms(self.place)[np.random.default_rng(seed).integers(ROOM_DRAWS)]
        size = 1 << (len(samples) + len(response)).bit_length()
        heard = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
        return heard.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Codec:
    """Encoded and decoded again; see `train.codecs.through_codec`."""

    name: str
    codec: str
    compression: float = 0.9

    def __call__(self, samples: Float32Array, seed: int) -> Float32Array:
        return through_codec(samples, self.codec, self.compression)


CODECS = (
    Codec("telephone", "mulaw"),
    Codec("MP3, 60 kbit/s", "mp3", 0.0),
    Codec("MP3, 25 kbit/s", "mp3", 0.9),
    Codec("Opus, 30 kbit/s", "opus", 0.9),
    Codec("Opus, 9 kbit/s", "opus", 0.99),
)


@dataclass(frozen=True, slots=True)
class Length:
    """The first so many seconds of the speech; a shorter recording stays as it is."""

    speech_seconds: float

    @property
    def name(self) -> str:
        return f"{self.speech_seconds:g} s"

    def __call__(self, samples: Float32Array, seed: int) -> Float32Array:
        """Of samples that are speech throughout."""
        return samples[: round(self.speech_seconds * SAMPLE_RATE)]


def sound_conditions(noises: Sequence[Path], voices: Sequence[tuple[str, Path]]) -> list[Condition]:
    """Noise and babble at four SNRs, two rooms, and codecs.

    Args:
        noises: Recordings of noise; none for synthetic noise.
        voices: Speakers and recordings for the babble.
    """
    conditions: list[Condition] = [Noise(tuple(noises), snr) for snr in SNRS_DB]
    conditions += [Babble(tuple(voices), snr) for snr in SNRS_DB]
    conditions += [Room(place) for place in ROOMS]
    return [*conditions, *CODECS]


def noise_files(folder: Path) -> list[Path]:
    """The recordings below a folder, in a stable order.

    Raises:
        ManifestError: There is none.
    """
    suffixes = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not files:
        raise ManifestError(f"{folder} holds no recordings of noise (WAV, FLAC, Ogg, Opus, MP3).")
    return files


def mixed(samples: Float32Array, noise: Float32Array, snr_db: float) -> Float32Array:
    """float32 [n] with `noise` [n] added at that ratio of powers; silent noise adds nothing."""
    power, other = (float(np.mean(np.square(x, dtype=np.float64))) for x in (samples, noise))
    if other <= 0.0:
        return samples
    return (samples + noise * np.float32(np.sqrt(power / other / 10 ** (snr_db / 10)))).astype(np.float32)


def stretch(samples: Float32Array, length: int, random: np.random.Generator) -> Float32Array:
    """A random stretch of that length; a shorter recording goes round."""
    start = int(random.integers(len(samples)))
    return np.take(samples, np.arange(start, start + length), mode="wrap")


def speech_shaped(length: int, random: np.random.Generator) -> Float32Array:
    """Noise float32 [length] that is flat to 500 Hz and falls by 9 dB per octave above, near to the long-term
    spectrum of speech (Byrne et al., JASA 96(4), 1994)."""
    spectrum = np.fft.rfft(random.normal(size=length))
    frequency = np.fft.rfftfreq(length, 1.0 / SAMPLE_RATE)
    spectrum *= (np.maximum(frequency, 500.0) / 500.0) ** -1.5 * (frequency > 60.0)
    return np.fft.irfft(spectrum, length).astype(np.float32)


@lru_cache(maxsize=len(ROOMS))
def _rooms(place: str) -> Float32Array:
    return simulated_rooms(ROOM_DRAWS, ROOM_SECONDS, seed=7, distance_m=ROOMS[place])


@lru_cache(maxsize=512)
def _recording(path: Path) -> Float32Array:
    try:
        return decode(path).samples
    except AudioError as error:
        raise ManifestError(f"{path} cannot be used as background: {error.message}") from error
