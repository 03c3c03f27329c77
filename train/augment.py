"""Augmentation of a batch of equal crops: one FFT pair carries room, equaliser and band limit; noise and codecs follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.codecs import CODECS, through_codec
from train.conditions import speech_shaped
from train.rooms import recorded_rooms, simulated_rooms
from voicevault.audio import decode
from voicevault.errors import ManifestError
from voicevault.types import SAMPLE_RATE

SHARES = ("reverb", "equaliser", "band", "noise", "babble", "volume", "codec")
"""The augmentations whose config value is a share of the crops, each to be heard alone by `only`."""
TALKERS = 3
"""Voices of a babble."""
KEPT_SAMPLES = 1 << 17
"""Up to this transform (8 s) the spectra of all rooms are kept; those for the lengths of recordings would fill the memory."""


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Shares are probabilities per crop; 0 leaves an augmentation out.

    Attributes:
        reverb: Share of crops in a room; `rooms` are simulated, or read from `room_folder` (below the corpus folder).
        equaliser: Share with a random smooth response, `equaliser_db` its standard deviation.
        band: Share limited to a telephone's band, 250 to 3500 Hz.
        noise: Share with a recording from `noise_folder` (below the corpus folder) behind it; where that is empty, with steady
            noise of the spectrum of speech.
        babble: Share with three other voices behind it.
        snr_db: Speech to noise, drawn evenly from this range.
        volume: Share at a random level within `volume_db` of its own.
        codec: Share through a real codec: mu-law at 8 kHz, MP3 or Opus.
        clean: Share that none of this is done to, whatever else is drawn for it: where a channel does give the speaker away, the
            model may still learn it.
    """

    reverb: float = 0.3
    rooms: int = 128
    room_folder: str = ""
    room_seconds: float = 0.4
    equaliser: float = 0.6
    equaliser_db: float = 4.0
    band: float = 0.15
    noise: float = 0.5
    noise_folder: str = ""
    babble: float = 0.15
    snr_db: tuple[float, float] = (3.0, 25.0)
    volume: float = 0.5
    volume_db: float = 12.0
    codec: float = 0.04
    clean: float = 0.0

    def __post_init__(self) -> None:
        for name in (*SHARES, "clean"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share, in 0 to 1")
        if self.rooms < 1 or self.room_seconds <= 0.0:
            raise ValueError("rooms and room_seconds must be above 0")
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError("snr_db is a range, the lower end first")

    def only(self, *names: str) -> AugmentConfig:
        """This config with the named augmentations always on and all others off."""
        shares: dict[str, Any] = {name: float(name in names) for name in SHARES}
        return replace(self, clean=0.0, **shares)


class Augmenter:
    """Draws depend on (seed, number of the draw) alone, whatever the device.

    Args:
        root: What `noise_folder` and `room_folder` start from.
        device: Where the crops come from and go to; codecs run on the CPU.

    Raises:
        ManifestError: A folder holds no recordings.
    """

    def __init__(
        self, config: AugmentConfig, root: Path, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.seed, self.device = config, seed, torch.device(device)
        self.rooms: Tensor | None = None
        if config.reverb:
            rooms = (
                recorded_rooms(root / config.room_folder, config.room_seconds)
                if config.room_folder
                else simulated_rooms(config.rooms, config.room_seconds, seed)
            )
            self.rooms = torch.from_numpy(rooms).to(self.device)
        self._spectra: dict[int, Tensor] = {}
        self.noises: Tensor | None = None
        if config.noise:
            noises = load_noises(root / config.noise_folder) if config.noise_folder else synthetic_noise(seed)
            self.noises = noises.to(self.device)

    def __call__(self, crops: Tensor, draw: int, voices: Tensor | None = None) -> Tensor:
        """float32 [b, samples] -> the same shape, at comparable levels.

        Args:
            voices: What the babble behind each crop is, in the shape of `crops`; without it, other crops of the batch.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).to(self.device)

        c, batch = self.config, len(crops)
        out: Tensor = self._coloured(crops, generator, uniform)
        noise = self._noise(crops, voices, generator, uniform)
        low, high = c.snr_db
        snr = low + (high - low) * uniform(batch, 1)
        ratio = out.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True).clamp(min=1e-4)
        out = out + noise * ratio * 10 ** (-snr / 20)
        louder = (uniform(batch) < c.volume)[:, None] * (2.0 * uniform(batch, 1) - 1.0) * c.volume_db
        out = out * torch.pow(10.0, louder / 20)
        coded = (uniform(batch) < c.codec).nonzero()[:, 0].tolist()
        for row in coded:
            codec = CODECS[int(torch.randint(len(CODECS), (1,), generator=generator))]
            out[row] = torch.from_numpy(through_codec(out[row].cpu().numpy(), codec)).to(self.device)
        if c.clean:
            kept = uniform(batch) < c.clean
            out[kept] = crops[kept]
        return out

    def _coloured(self, crops: Tensor, generator: torch.Generator, uniform: Callable[..., Tensor]) -> Tensor:
        """Room, equaliser and band limit as one filter each, the level kept."""
        c, (batch, samples) = self.config, crops.shape
        size = 1 << math.ceil(math.log2(samples + int(c.room_seconds * SAMPLE_RATE)))
        bins = size // 2 + 1
        response = torch.ones(batch, bins, dtype=torch.complex64, device=self.device)
        reverb = uniform(batch) < c.reverb
        if self.rooms is not None:
            room = torch.randint(len(self.rooms), (batch,), generator=generator).to(self.device)
            response[reverb] = self._responses(size, room[reverb])
        equalised = uniform(batch) < c.equaliser
        knots_db = torch.randn(batch, 1, 10, generator=generator).to(self.device) * c.equaliser_db
        curve = torch.nn.functional.interpolate(knots_db, bins, mode="linear", align_corners=True)[:, 0]
        response[equalised] *= 10 ** (curve[equalised] / 20)
        narrow = uniform(batch) < c.band
        frequency = torch.linspace(0, SAMPLE_RATE / 2, bins, device=self.device)
        response[narrow] *= torch.sigmoid((frequency - 250) / 40) * torch.sigmoid((3500 - frequency) / 60)
        filtered = torch.fft.irfft(torch.fft.rfft(crops, n=size) * response, n=size)[:, :samples]
        level = crops.norm(dim=1, keepdim=True)
        shaped: Tensor = filtered * (level / filtered.norm(dim=1, keepdim=True).clamp(min=1e-4))
        return shaped

    def _noise(
        self,
        crops: Tensor,
        voices: Tensor | None,
        generator: torch.Generator,
        uniform: Callable[..., Tensor],
    ) -> Tensor:
        """What stands behind each crop, at no level in particular; zeros behind most."""
        c, (batch, samples) = self.config, crops.shape
        noise = torch.zeros_like(crops)
        noisy = uniform(batch) < c.noise
        if self.noises is not None:
            starts = torch.randint(max(1, len(self.noises) - samples), (batch,), generator=generator)
            for row in noisy.nonzero()[:, 0].tolist():
                piece = self.noises[starts[row] : starts[row] + samples]
                noise[row, : len(piece)] = piece
        babble = uniform(batch) < c.babble
        if voices is None and batch > 4:
            # Half the batch further on is the other crop of the same speaker.
            others = torch.tensor([shift for shift in range(1, batch) if shift != batch // 2])
            shifts = others[torch.randperm(len(others), generator=generator)[:TALKERS]].tolist()
            voices = torch.stack([crops.roll(shift, 0) for shift in shifts]).sum(dim=0)
        if voices is not None:
            noise[babble] = voices[babble]
        return noise

    def _responses(self, size: int, drawn: Tensor) -> Tensor:
        """Spectra of the drawn rooms complex64 [drawn, size / 2 + 1]; those of all rooms are kept for the lengths of crops."""
        assert self.rooms is not None
        spectra: Tensor
        if size > KEPT_SAMPLES:
            spectra = torch.fft.rfft(self.rooms[drawn], n=size)
            return spectra
        if size not in self._spectra:
            self._spectra[size] = torch.fft.rfft(self.rooms, n=size)
        spectra = self._spectra[size][drawn]
        return spectra


def synthetic_noise(seed: int, seconds: int = 60) -> Tensor:
    """float32 [samples] at unit level; see `train.conditions.speech_shaped`."""
    noise = speech_shaped(seconds * SAMPLE_RATE, np.random.default_rng(seed))
    return torch.from_numpy(noise / np.sqrt(np.square(noise).mean()))


def load_noises(folder: Path) -> Tensor:
    """All recordings below a folder, one behind the other, each at unit level: float32 [samples].

    Raises:
        ManifestError: There is none.
        AudioError: One cannot be decoded.
    """
    kinds = {".opus", ".wav", ".flac", ".ogg", ".mp3"}
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in kinds)
    if not files:
        raise ManifestError(f"{folder} holds no noise recordings ({', '.join(sorted(kinds))})")
    pieces = [decode(path).samples for path in files]
    level = [max(1e-4, float(np.sqrt(np.square(piece).mean()))) for piece in pieces]
    return torch.from_numpy(np.concatenate([p / v for p, v in zip(pieces, level, strict=True)]))
