"""The front-end of networks that listen to samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class WaveformConfig:
    """`normalise`: whether each recording is shifted and scaled to mean 0 and variance 1."""

    normalise: bool = False


class RawWaveform(nn.Module):
    """Samples [batch, n] in [-1, 1] and their lengths -> the same, normalised where the config says so."""

    EPSILON = 1e-7

    def __init__(self, config: WaveformConfig) -> None:
        super().__init__()
        self.config = config

    def minimum_samples(self, frames: int) -> int:
        """Each sample is a frame."""
        return frames

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        waveforms = waveforms.float()
        if not self.config.normalise:
            return waveforms, lengths
        if lengths is None:
            mean = waveforms.mean(dim=1, keepdim=True)
            variance = (waveforms - mean).square().mean(dim=1, keepdim=True)
            return (waveforms - mean) / (variance + self.EPSILON).sqrt(), None
        mask = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
        mean = (waveforms * mask).sum(dim=1, keepdim=True) / lengths[:, None]
        centred = (waveforms - mean) * mask
        variance = centred.square().sum(dim=1, keepdim=True) / lengths[:, None]
        return centred / (variance + self.EPSILON).sqrt(), lengths
