"""Features other than log-mel energies: cepstra, the log spectrum, and mel power without a logarithm.

Frames are those of `frontend`, so padding behind a recording never reaches its features here either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from voicevault.encoder.config import check_ranges
from voicevault.encoder.frontend import (
    NYQUIST,
    KaldiFrames,
    check_framing,
    fft_size,
    log,
    mel_filters,
)


@dataclass(frozen=True, slots=True)
class MfccConfig:
    """Mel-frequency cepstral coefficients. Attributes that are not here: see `FrontendConfig`.

    Attributes:
        coefficients: Cepstra of a frame, the zeroth (its level) included; not above `mel_bins`.
        mel_bins: Mel bins that they are computed from.
        lifter: L in the factor 1 + L / 2 sin(pi i / L) of coefficient i, which evens out their ranges; 0 leaves it out.

    Raises:
        ValueError: A value is out of range.
    """

    coefficients: int = 40
    mel_bins: int = 40
    lifter: float = 22.0
    window: str = "povey"
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float = 7600.0
    preemphasis: float = 0.97
    normalise: bool = True
    scale: float = 32768.0

    def __post_init__(self) -> None:
        check_framing(self)
        check_ranges(
            self,
            mel_bins=(1, 512),
            coefficients=(1, self.mel_bins),
            lifter=(0.0, 1e6),
            low_hz=(0.0, NYQUIST),
            high_hz=(self.low_hz + 1.0, NYQUIST),
        )

    @property
    def bins(self) -> int:
        """Features of a frame."""
        return self.coefficients


@dataclass(frozen=True, slots=True)
class SpectrogramConfig:
    """The log power spectrum. Attributes: see `FrontendConfig`.

    Raises:
        ValueError: A value is out of range.
    """

    window: str = "povey"
    window_ms: float = 25.0
    hop_ms: float = 10.0
    preemphasis: float = 0.97
    normalise: bool = True
    scale: float = 32768.0

    def __post_init__(self) -> None:
        check_framing(self)
        if self.bins > 512:
            raise ValueError(
                f"window_ms {self.window_ms:g} gives {self.bins} features a frame; 32 and less give 257 at the most"
            )

    @property
    def bins(self) -> int:
        """Features of a frame: one for each frequency of the Fourier transform, 0 Hz and Nyquist's included."""
        return fft_size(self) // 2 + 1


@dataclass(frozen=True, slots=True)
class MelPowerConfig:
    """Mel energies without a logarithm, each frame layer-normalised. Attributes that are not here: see `FrontendConfig`.

    Attributes:
        preemphasis: 0 by default, as in the mel spectrograms of most tool kits.
        layer_norm: Whether each frame is brought to mean 0 and variance 1 over its bins (arXiv:1607.06450), without a learnt
            gain and bias, which the first convolution has. It takes the level of the frame away.
        normalise: Off by default; whether each recording's mean over time is subtracted then.

    Raises:
        ValueError: A value is out of range.
    """

    bins: int = 80
    window: str = "hann"
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float = 7600.0
    preemphasis: float = 0.0
    layer_norm: bool = True
    normalise: bool = False
    scale: float = 32768.0

    def __post_init__(self) -> None:
        check_framing(self)
        check_ranges(self, bins=(2, 512), low_hz=(0.0, NYQUIST), high_hz=(self.low_hz + 1.0, NYQUIST))


def cosine_transform(coefficients: int, mel_bins: int, lifter: float) -> Tensor:
    """Orthonormal DCT-II with Kaldi's lifter, float32 [mel_bins, coefficients]."""
    order = torch.arange(coefficients, dtype=torch.float64)
    points = torch.arange(mel_bins, dtype=torch.float64)[:, None] + 0.5
    matrix = torch.cos(math.pi / mel_bins * points * order) * math.sqrt(2.0 / mel_bins)
    matrix[:, 0] = math.sqrt(1.0 / mel_bins)
    if lifter:
        matrix = matrix * (1.0 + 0.5 * lifter * torch.sin(math.pi * order / lifter))
    return matrix.float()


class Mfcc(KaldiFrames):
    """Kaldi's ``compute-mfcc-feats`` with ``--use-energy=false``; shapes as `KaldiFrames`."""

    filters: Tensor
    transform: Tensor

    def __init__(self, config: MfccConfig) -> None:
        super().__init__(config)
        self.config = config
        filters = mel_filters(config.mel_bins, self.fft_size, config.low_hz, config.high_hz)
        transform = cosine_transform(config.coefficients, config.mel_bins, config.lifter)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("transform", transform, persistent=False)

    def features(self, frames: Tensor) -> Tensor:
        return log(self.power(frames) @ self.filters) @ self.transform


class Spectrogram(KaldiFrames):
    """Kaldi's ``compute-spectrogram-feats``, whose feature at 0 Hz is the frame's log energy; shapes as `KaldiFrames`."""

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__(config)
        self.config = config

    def features(self, frames: Tensor) -> Tensor:
        # Of the frame before pre-emphasis and window. Nothing is left at 0 Hz of a frame without its mean.
        energy = frames.square().sum(dim=-1, keepdim=True)
        return log(torch.cat([energy, self.power(frames)[..., 1:]], dim=-1))


class MelPower(KaldiFrames):
    """Mel energies as they are, or layer-normalised; shapes as `KaldiFrames`."""

    filters: Tensor

    def __init__(self, config: MelPowerConfig) -> None:
        super().__init__(config)
        self.config = config
        filters = mel_filters(config.bins, self.fft_size, config.low_hz, config.high_hz)
        self.register_buffer("filters", filters, persistent=False)

    def features(self, frames: Tensor) -> Tensor:
        energies = self.power(frames) @ self.filters
        return F.layer_norm(energies, energies.shape[-1:]) if self.config.layer_norm else energies
