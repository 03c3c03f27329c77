"""Log-mel filter bank energies, batched, with the arithmetic of Kaldi's ``compute-fbank-feats``.

Every frame is computed from its own samples alone, so padding behind a recording never reaches its features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from voicevault.encoder.config import LATER, check_ranges
from voicevault.types import SAMPLE_RATE

WINDOWS = ("povey", "hamming", "hann")
NYQUIST = SAMPLE_RATE / 2


class Framing(Protocol):
    """How the config of a Kaldi front-end says what a frame is; see `FrontendConfig`."""

    @property
    def window(self) -> str: ...
    @property
    def window_ms(self) -> float: ...
    @property
    def hop_ms(self) -> float: ...
    @property
    def preemphasis(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def normalise(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """What turns samples into features. It travels inside the checkpoint and is part of the model's identity.

    Attributes:
        bins: Mel bins.
        window: ``povey`` (Kaldi's), ``hamming`` or ``hann``.
        window_ms, hop_ms: Frame length and shift in milliseconds.
        low_hz, high_hz: Edges of the filter bank.
        preemphasis: Coefficient of the first-order high-pass, in [0, 1).
        normalise: Whether each recording's mean over time is subtracted from every bin.
        scale: What samples in [-1, 1] are multiplied with. Kaldi works on 16-bit integers; only the energy floor
            and the dither notice.
        dither: Standard deviation of Kaldi's dither, in the units of the scaled samples. Its expected energy is
            added instead of random numbers, so that a recording has one embedding.

    Raises:
        ValueError: A value is out of range.
    """

    bins: int = 80
    window: str = "povey"
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float = 7600.0
    preemphasis: float = 0.97
    normalise: bool = True
    scale: float = field(default=32768.0, metadata=LATER)
    dither: float = field(default=0.0, metadata=LATER)

    def __post_init__(self) -> None:
        check_framing(self)
        check_ranges(
            self,
            bins=(1, 512),
            low_hz=(0.0, NYQUIST),
            high_hz=(self.low_hz + 1.0, NYQUIST),
            dither=(0.0, 1e6),
        )


def check_framing(config: Framing) -> None:
    """Raises ValueError for a window, frame or pre-emphasis that cannot be."""
    if config.window not in WINDOWS:
        raise ValueError(f"unknown window {config.window!r}: choose {', '.join(WINDOWS)}")
    check_ranges(
        config,
        window_ms=(1.0, 1000.0),
        hop_ms=(1.0, 1000.0),
        preemphasis=(0.0, 0.9999),
        scale=(1e-6, 1e6),
    )


def warped(hz: Tensor, factor: float, above_hz: float = 4800.0) -> Tensor:
    """Frequencies as a vocal tract of another length has them: times `factor`, but near Nyquist, which stays where it is.

    Jaitly and Hinton 2013, "Vocal tract length perturbation improves speech recognition", section 2.
    """
    edge = above_hz * min(factor, 1.0)
    slope = (NYQUIST - edge) / (NYQUIST - edge / factor)
    return torch.where(hz <= edge / factor, hz * factor, NYQUIST - slope * (NYQUIST - hz))


def mel_filters(bins: int, fft_size: int, low_hz: float, high_hz: float, tract: float = 1.0) -> Tensor:
    """Triangles that are linear on the mel scale 1127 ln(1 + f / 700), float32 [fft_size / 2 + 1, bins].

    Kaldi leaves the Nyquist bin out of every triangle; so does this. `tract` is the factor of `warped`.
    """

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    low, high = mel(torch.tensor([low_hz, high_hz], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, bins + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    hz = torch.arange(fft_size // 2, dtype=torch.float64) * SAMPLE_RATE / fft_size
    points = mel(warped(hz, tract) if tract != 1.0 else hz)[:, None]
    rising = (points - left) / (centre - left)
    falling = (right - points) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0.0)
    return torch.cat([triangles, torch.zeros(1, bins, dtype=torch.float64)]).float()


def make_window(name: str, length: int) -> Tensor:
    """float32 [length], symmetric as Kaldi's. Raises ValueError for an unknown name.

    Computed in float32, as torchaudio does: in bins 60 dB below a frame's loudest, the rounding of the window shows.
    """
    if name == "povey":
        return torch.hann_window(length, periodic=False).pow(0.85)
    if name == "hann":
        return torch.hann_window(length, periodic=False)
    if name == "hamming":
        return torch.hamming_window(length, periodic=False, alpha=0.54, beta=0.46)
    raise ValueError(f"unknown window {name!r}: choose {', '.join(WINDOWS)}")


def squared(spectrum: Tensor) -> Tensor:
    """Squared magnitudes of complex numbers, a quarter of the time of ``abs().square()`` and with a gradient at 0."""
    parts = torch.view_as_real(spectrum)
    parts = parts * parts
    return parts[..., 0] + parts[..., 1]


class KaldiFrames(nn.Module, ABC):
    """What the front-ends of Kaldi share: samples [batch, n] in [-1, 1] and their lengths -> features and frame counts.

    Frames without their mean, pre-emphasised, windowed and padded with zeros to a power of two. Frames of the result beyond an
    item's own are zero.
    """

    window: Tensor

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing
        self.frame = round(SAMPLE_RATE * framing.window_ms / 1000)
        self.hop = round(SAMPLE_RATE * framing.hop_ms / 1000)
        self.fft_size = fft_size(framing)
        self.register_buffer("window", make_window(framing.window, self.frame), persistent=False)

    @abstractmethod
    def features(self, frames: Tensor) -> Tensor:
        """Frames without their mean, float32 [batch, frames, samples] -> features float32 [batch, frames, bins]."""

    def minimum_samples(self, frames: int) -> int:
        """The least number of samples that give that many frames."""
        return self.frame + (frames - 1) * self.hop

    def frames(self, samples: int) -> int:
        """How many frames a recording of that many samples has."""
        return max(0, 1 + (samples - self.frame) // self.hop)

    def power(self, frames: Tensor) -> Tensor:
        """Frames as `features` takes them -> their power spectrum, float32 [batch, frames, fft_size / 2 + 1]."""
        if self.framing.preemphasis:
            previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
            frames = frames - self.framing.preemphasis * previous
        return squared(torch.fft.rfft(frames * self.window, n=self.fft_size))

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """With `lengths` None every item is as long as the batch, and no mask is needed.

        Returns:
            Features float32 [batch, bins, frames] and frame counts int64 [batch] (None where `lengths` was None).
        """
        frames = (waveforms.float() * self.framing.scale).unfold(-1, self.frame, self.hop)
        features = self.features(frames - frames.mean(dim=-1, keepdim=True)).transpose(1, 2)
        if lengths is None:
            if self.framing.normalise:
                features = features - features.mean(dim=-1, keepdim=True)
            return features, None
        counts = torch.div(lengths - self.frame, self.hop, rounding_mode="floor") + 1
        mask = (torch.arange(features.shape[-1], device=features.device) < counts[:, None])[:, None]
        if self.framing.normalise:
            mean = (features * mask).sum(dim=-1, keepdim=True) / counts[:, None, None]
            features = features - mean
        return features * mask, counts


def fft_size(framing: Framing) -> int:
    """The power of two that holds a frame."""
    return 1 << (round(SAMPLE_RATE * framing.window_ms / 1000) - 1).bit_length()


def log(power: Tensor) -> Tensor:
    """Natural logarithm with Kaldi's floor."""
    return power.clamp(min=torch.finfo(torch.float32).eps).log()


class LogMel(KaldiFrames):
    """Samples [batch, n] in [-1, 1] and their lengths -> features [batch, bins, frames] and frame counts.

    Frames beyond an item's own are zero. `tract` is a factor on all frequencies, for training on voices as they would be
    from another vocal tract.
    """

    filters: Tensor
    dither: Tensor | None

    def __init__(self, config: FrontendConfig, tract: float = 1.0) -> None:
        super().__init__(config)
        self.config = config
        filters = mel_filters(config.bins, self.fft_size, config.low_hz, config.high_hz, tract)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("dither", self._dither_power() if config.dither else None, persistent=False)

    def _dither_power(self) -> Tensor:
        """Expected power of the dither in each bin, float32 [fft_size / 2 + 1]: what each of a frame's samples adds to it."""
        steps = torch.eye(self.frame, dtype=torch.float64) - 1.0 / self.frame
        previous = torch.cat([steps[:1], steps[:-1]])
        steps = (steps - self.config.preemphasis * previous) * self.window.double()[:, None]
        power = torch.fft.rfft(steps, n=self.fft_size, dim=0).abs().square().sum(dim=1)
        expected: Tensor = (self.config.dither**2 * power).float()
        return expected

    def features(self, frames: Tensor) -> Tensor:
        power = self.power(frames)
        if self.dither is not None:
            power = power + self.dither
        return log(power @ self.filters)
