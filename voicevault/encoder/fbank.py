"""SpeechBrain's filter bank energies, which are not Kaldi's, and their sentence normalisation.

Magnitudes of centred frames, triangles with the width of each one's left half, decibels with a floor below the peak of the
recording. All of it, the floor and the mean too, sees each item's own frames alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voicevault.encoder.config import check_ranges
from voicevault.encoder.frontend import NYQUIST, squared
from voicevault.types import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class SpeechBrainConfig:
    """Settings of ``speechbrain.lobes.features.Fbank`` and of its input normalisation.

    Attributes:
        bins: Mel bins.
        fft_size: Points of the Fourier transform, the window's length at least.
        window_ms, hop_ms: Length and shift of the Hamming window in milliseconds.
        low_hz, high_hz: Edges of the filter bank.
        top_db: No bin is further below the recording's loudest than so many decibels.
        normalise: Whether each recording's mean over time is subtracted from every bin.

    Raises:
        ValueError: A value is out of range.
    """

    bins: int = 80
    fft_size: int = 400
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 0.0
    high_hz: float = 8000.0
    top_db: float = 80.0
    normalise: bool = True

    def __post_init__(self) -> None:
        check_ranges(
            self,
            bins=(1, 512),
            window_ms=(1.0, 1000.0),
            fft_size=(round(SAMPLE_RATE * self.window_ms / 1000), 16_384),
            hop_ms=(1.0, 1000.0),
            low_hz=(0.0, NYQUIST),
            high_hz=(self.low_hz + 1.0, NYQUIST),
            top_db=(1.0, 1000.0),
        )


def triangles(bins: int, fft_size: int, low_hz: float, high_hz: float) -> Tensor:
    """float32 [fft_size // 2 + 1, bins], peak 1; both sides as wide as the distance to the centre on the left."""
    mel = 2595.0 * torch.log10(1 + torch.tensor([low_hz, high_hz], dtype=torch.float64) / 700.0)
    points = torch.linspace(float(mel[0]), float(mel[1]), bins + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    width, centre = (edges[1:] - edges[:-1])[:-1], edges[1:-1]
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, fft_size // 2 + 1, dtype=torch.float64)[:, None]
    return (1 - (frequencies - centre).abs() / width).clamp(min=0).float()


class SpeechBrainFbank(nn.Module):
    """Samples [batch, n] in [-1, 1] and their lengths -> decibels [batch, bins, frames] and frame counts.

    Frames beyond an item's own are zero.
    """

    FLOOR = 1e-10
    window: Tensor
    filters: Tensor
    silence: Tensor

    def __init__(self, config: SpeechBrainConfig) -> None:
        super().__init__()
        self.config = config
        self.hop = round(SAMPLE_RATE * config.hop_ms / 1000)
        window = torch.hamming_window(round(SAMPLE_RATE * config.window_ms / 1000))
        rest = config.fft_size - len(window)
        self.register_buffer("window", F.pad(window, (rest // 2, rest - rest // 2)), persistent=False)
        filters = triangles(config.bins, config.fft_size, config.low_hz, config.high_hz)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("silence", torch.zeros(1, config.fft_size // 2), persistent=False)

    def frames(self, samples: int) -> int:
        """How many frames a recording of that many samples has."""
        return samples // self.hop + 1

    def minimum_samples(self, frames: int) -> int:
        """The least number of samples that give that many frames; at least one."""
        return max(1, (frames - 1) * self.hop)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """With `lengths` None every item is as long as the batch. What stands behind an item must be zero.

        Returns:
            Features float32 [batch, bins, frames] and frame counts int64 [batch] (None where `lengths` was None).
        """
        c = self.config
        silence = self.silence.expand(len(waveforms), -1)
        padded = torch.cat([silence, waveforms.float(), silence], dim=-1)
        power = squared(torch.fft.rfft(padded.unfold(-1, c.fft_size, self.hop) * self.window))
        decibels = 10.0 * (power @ self.filters).clamp(min=self.FLOOR).log10().transpose(1, 2)
        if lengths is None:
            features = torch.maximum(decibels, decibels.amax((1, 2), keepdim=True) - c.top_db)
            if c.normalise:
                features = features - features.mean(dim=2, keepdim=True)
            return features, None
        counts = torch.div(lengths, self.hop, rounding_mode="floor") + 1
        mask = (torch.arange(decibels.shape[2], device=decibels.device) < counts[:, None])[:, None]
        # The last frames of an item look at the zeros behind it, as they do where it stands alone.
        peak = decibels.masked_fill(~mask, float("-inf")).amax((1, 2), keepdim=True)
        features = torch.maximum(decibels, peak - c.top_db) * mask
        if c.normalise:
            features = features - features.sum(dim=2, keepdim=True) / counts[:, None, None]
        return features * mask, counts
