"""Augmentation of a batch of equal crops: one FFT pair carries room, equaliser and band limit; noise is added after it.

Rooms follow Polack's model (exponentially decaying Gaussian noise behind a direct path): J.-D. Polack, 1988.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from voicevault.audio import decode
from voicevault.types import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Shares are probabilities per crop."""

    reverb: float = 0.3
    equaliser: float = 0.5
    telephone: float = 0.1
    noise: float = 0.5
    babble: float = 0.15
    snr_db: tuple[float, float] = (3.0, 25.0)
    rooms: int = 128
    room_seconds: float = 0.4
    noise_folder: str = ""


class Augmenter:
    """Draws depend on (seed, step) alone."""

    def __init__(self, config: AugmentConfig, root: Path, seed: int) -> None:
        self.config, self.seed = config, seed
        generator = torch.Generator().manual_seed(seed)
        self.rooms = self._make_rooms(generator)
        self._spectra: dict[int, Tensor] = {}
        self.noises = self._load_noises(root / config.noise_folder) if config.noise_folder else None

    def _make_rooms(self, generator: torch.Generator) -> Tensor:
        count, length = self.config.rooms, int(self.config.room_seconds * SAMPLE_RATE)
        time = torch.arange(length) / SAMPLE_RATE
        rt60 = torch.empty(count, 1).uniform_(0.1, 0.9, generator=generator)
        direct_to_reverberant_db = torch.empty(count, 1).uniform_(-3.0, 12.0, generator=generator)
        tail = torch.randn(count, length, generator=generator) * 10 ** (-3 * time / rt60)
        tail[:, : SAMPLE_RATE // 500] = 0.0
        tail *= 10 ** (-direct_to_reverberant_db / 20) / tail.norm(dim=1, keepdim=True)
        tail[:, 0] = 1.0
        rooms: Tensor = tail / tail.norm(dim=1, keepdim=True)
        return rooms

    def _responses(self, size: int) -> Tensor:
        """The rooms' spectra complex64 [rooms, size / 2 + 1]; crops of one length share them."""
        if size not in self._spectra:
            self._spectra[size] = torch.fft.rfft(self.rooms, n=size)
        return self._spectra[size]

    def _load_noises(self, folder: Path) -> Tensor:
        files = sorted(p for p in folder.rglob("*") if p.suffix in {".opus", ".wav", ".flac", ".ogg"})
        pieces = [np.tile(decode(path).samples, 1) for path in files]
        return torch.from_numpy(
            np.concatenate([p / max(1e-4, float(np.sqrt(np.square(p).mean()))) for p in pieces])
        )

    def __call__(self, crops: Tensor, step: int) -> Tensor:
        """float32 [b, samples] -> the same shape."""
        c, (batch, samples) = self.config, crops.shape
        size = 1 << math.ceil(math.log2(samples + self.rooms.shape[1]))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        uniform = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
        level = crops.norm(dim=1, keepdim=True)
        response = torch.ones(batch, size // 2 + 1, dtype=torch.complex64)
        reverb = uniform(batch) < c.reverb
        room = torch.randint(len(self.rooms), (batch,), generator=generator)
        response[reverb] = self._responses(size)[room[reverb]]
        equalised = uniform(batch) < c.equaliser
        knots_db = torch.randn(batch, 1, 10, generator=generator) * 4.0
        curve = torch.nn.functional.interpolate(knots_db, size // 2 + 1, mode="linear", align_corners=True)[
            :, 0
        ]
        response[equalised] *= 10 ** (curve[equalised] / 20)
        narrow = uniform(batch) < c.telephone
        frequency = torch.linspace(0, SAMPLE_RATE / 2, size // 2 + 1)
        band = torch.sigmoid((frequency - 250) / 40) * torch.sigmoid((3500 - frequency) / 60)
        response[narrow] *= band
        shaped = torch.fft.irfft(torch.fft.rfft(crops, n=size) * response, n=size)[:, :samples]
        shaped = shaped * (level / shaped.norm(dim=1, keepdim=True).clamp(min=1e-4))
        noise = torch.zeros_like(shaped)
        if self.noises is not None:
            starts = torch.randint(len(self.noises) - samples, (batch,), generator=generator)
            noisy = (uniform(batch) < c.noise).nonzero()[:, 0]
            for row in noisy.tolist():
                noise[row] = self.noises[starts[row] : starts[row] + samples]
        babble = uniform(batch) < c.babble
        others = sum(
            crops.roll(int(shift), 0) for shift in torch.randint(2, batch - 2, (3,), generator=generator)
        )
        noise[babble] = others[babble]  # type: ignore[index]
        low, high = c.snr_db
        snr = low + (high - low) * uniform(batch, 1)
        gain = (
            shaped.norm(dim=1, keepdim=True)
            / noise.norm(dim=1, keepdim=True).clamp(min=1e-4)
            * 10 ** (-snr / 20)
        )
        augmented: Tensor = shaped + noise * gain
        return augmented
