"""Log-mel filter bank energies, batched, with the arithmetic of Kaldi's ``compute-fbank-feats``.

Every frame is computed from its own samples alone, so padding behind a recording never reaches its features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from voicevault.types import SAMPLE_RATE


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
    """

    bins: int = 80
    window: str = "povey"
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float = 7600.0
    preemphasis: float = 0.97
    normalise: bool = True


def mel_filters(bins: int, fft_size: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles that are linear on the mel scale 1127 ln(1 + f / 700), float32 [fft_size / 2 + 1, bins].

    Kaldi leaves the Nyquist bin out of every triangle; so does this.
    """
    mel = lambda f: 1127.0 * torch.log1p(torch.as_tensor(f, dtype=torch.float64) / 700.0)  # noqa: E731
    edges = torch.linspace(float(mel(low_hz)), float(mel(high_hz)), bins + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    points = mel(torch.arange(fft_size // 2, dtype=torch.float64) * SAMPLE_RATE / fft_size)[:, None]
    rising = (points - left) / (centre - left)
    falling = (right - points) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0.0)
    return torch.cat([triangles, torch.zeros(1, bins, dtype=torch.float64)]).float()


def make_window(name: str, length: int) -> Tensor:
    """float32 [length], symmetric as Kaldi's. Raises ValueError for an unknown name."""
    hann = torch.hann_window(length, periodic=False, dtype=torch.float64)
    if name == "povey":
        return hann.pow(0.85).float()
    if name == "hann":
        return hann.float()
    if name == "hamming":
        return torch.hamming_window(length, periodic=False, dtype=torch.float64).float()
    raise ValueError(f"unknown window {name!r}: choose povey, hamming or hann")


class LogMel(nn.Module):
    """Samples [batch, n] in [-1, 1] and their lengths -> features [batch, bins, frames] and frame counts.

    Frames beyond an item's own are zero.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        self.frame = round(SAMPLE_RATE * config.window_ms / 1000)
        self.hop = round(SAMPLE_RATE * config.hop_ms / 1000)
        self.fft_size = 1 << (self.frame - 1).bit_length()
        self.register_buffer("window", make_window(config.window, self.frame), persistent=False)
        filters = mel_filters(config.bins, self.fft_size, config.low_hz, config.high_hz)
        self.register_buffer("filters", filters, persistent=False)

    def frames(self, samples: int) -> int:
        """How many frames a recording of that many samples has."""
        return max(0, 1 + (samples - self.frame) // self.hop)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """With `lengths` None every item is as long as the batch, and no mask is needed.

        Returns:
            Features float32 [batch, bins, frames] and frame counts int64 [batch] (None where `lengths` was None).
        """
        # Kaldi works on 16-bit integers; only the energy floor notices.
        frames = (waveforms.float() * 32768.0).unfold(-1, self.frame, self.hop)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        if self.config.preemphasis:
            previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
            frames = frames - self.config.preemphasis * previous
        power = torch.fft.rfft(frames * self.window, n=self.fft_size).abs().square()
        energies = (power @ self.filters).clamp(min=torch.finfo(torch.float32).eps).log()
        features = energies.transpose(1, 2)
        if lengths is None:
            if self.config.normalise:
                features = features - features.mean(dim=-1, keepdim=True)
            return features, None
        counts = torch.div(lengths - self.frame, self.hop, rounding_mode="floor") + 1
        mask = (torch.arange(features.shape[-1], device=features.device) < counts[:, None])[:, None]
        if self.config.normalise:
            mean = (features * mask).sum(dim=-1, keepdim=True) / counts[:, None, None]
            features = features - mean
        return features * mask, counts


def minimum_samples(config: FrontendConfig, frames: int) -> int:
    """Samples that give at least that many frames."""
    frame = math.ceil(SAMPLE_RATE * config.window_ms / 1000)
    return frame + (frames - 1) * round(SAMPLE_RATE * config.hop_ms / 1000)
