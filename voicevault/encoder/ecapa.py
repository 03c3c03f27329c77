"""ECAPA-TDNN (Desplanques, Thienpondt and Demuynck, arXiv:2005.07143).

The topology is SpeechBrain's: the SE-Res2Net blocks are chained (the paper sums all earlier outputs), convolutions reflect at the
ends, and each layer is convolution, ReLU, batch norm. The public SpeechBrain checkpoints map onto it name by name.

Shapes: ``b`` items, ``c`` channels, ``t`` frames. Every operation that looks along time takes the items' own lengths, so the
embedding of a recording does not depend on what else is in its batch: convolutions reflect at each item's own end, and the means
and the attention see valid frames only. `Spans` carries what they need; None says that all items fill the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voicevault.encoder.config import LATER, check_ranges


@dataclass(frozen=True, slots=True)
class EcapaConfig:
    """Architecture, flat. `channels` is the width C of the paper; `stride` the time stride of the first layer; `local_means` how
    many means `LocalCentring` has, 0 for none of it.

    Raises:
        ValueError: A value is out of range.
    """

    bins: int = 80
    channels: int = 512
    aggregate: int = 1536
    embedding: int = 192
    stride: int = 1
    kernels: tuple[int, ...] = (5, 3, 3, 3)
    dilations: tuple[int, ...] = (1, 2, 3, 4)
    res2net_scale: int = 8
    se_channels: int = 128
    attention_channels: int = 128
    local_means: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            bins=(1, 512),
            channels=(1, 8192),
            aggregate=(1, 32768),
            embedding=(1, 4096),
            stride=(1, 8),
            res2net_scale=(1, 64),
            se_channels=(1, 8192),
            attention_channels=(1, 8192),
            local_means=(0, 1024),
        )
        if self.channels % self.res2net_scale:
            raise ValueError(f"channels must be a multiple of res2net_scale, not {self.channels}")
        if not 2 <= len(self.kernels) == len(self.dilations) <= 16:
            raise ValueError("kernels and dilations need one value for each of 2 to 16 layers")
        if any(k not in range(1, 32, 2) for k in self.kernels) or any(
            d not in range(1, 33) for d in self.dilations
        ):
            raise ValueError("kernels must be odd and below 32, dilations in 1 to 32")

    def minimum_frames(self) -> int:
        """The shortest input: reflection at an end needs more frames than it pads."""
        reach = max(d * (k - 1) // 2 for k, d in zip(self.kernels[1:], self.dilations[1:], strict=True))
        return max(self.stride * (reach + 1), self.dilations[0] * (self.kernels[0] // 2) + 1)


class Spans:
    """Valid frame counts of a padded batch, with the mask and the reflection indices that follow from them."""

    def __init__(self, counts: Tensor, frames: int) -> None:
        self.counts = counts
        self.frames = frames
        positions = torch.arange(frames, device=counts.device)
        self.mask = (positions < counts[:, None])[:, None]
        self._reflections: dict[int, Tensor] = {}

    def strided(self, stride: int) -> Spans:
        if stride == 1:
            return self
        return Spans((self.counts + stride - 1) // stride, (self.frames + stride - 1) // stride)

    def reflect(self, x: Tensor, padding: int) -> Tensor:
        """[b, c, t] -> [b, c, t + 2 padding], each item mirrored at its own two ends."""
        index = self._reflections.get(padding)
        if index is None:
            positions = torch.arange(-padding, self.frames + padding, device=x.device).abs()
            last = (self.counts - 1)[:, None]
            index = (last - (last - positions).abs()).clamp(min=0)
            self._reflections[padding] = index
        return x.gather(2, index[:, None].expand(-1, x.shape[1], -1))


class Conv(nn.Module):
    """Convolution along time whose output has one frame per `stride` input frames, reflecting at the ends."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, stride=stride)
        self.padding = dilation * (kernel - 1) // 2

    def forward(self, x: Tensor, spans: Spans | None) -> Tensor:
        if self.padding:
            if spans is None:
                x = F.pad(x, (self.padding, self.padding), mode="reflect")
            else:
                x = spans.reflect(x, self.padding)
        out: Tensor = self.conv(x)
        return out


class TDNN(nn.Module):
    """Convolution, ReLU, batch norm."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, kernel, dilation, stride)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor, spans: Spans | None) -> Tensor:
        out: Tensor = self.norm(F.relu(self.conv(x, spans)))
        return out


class Res2Net(nn.Module):
    """Hierarchical convolutions over `scale` groups of channels (arXiv:1904.01169)."""

    def __init__(self, channels: int, kernel: int, dilation: int, scale: int) -> None:
        super().__init__()
        width = channels // scale
        self.scale = scale
        self.blocks = nn.ModuleList(TDNN(width, width, kernel, dilation) for _ in range(scale - 1))

    def forward(self, x: Tensor, spans: Spans | None) -> Tensor:
        first, *rest = x.chunk(self.scale, dim=1)
        outputs = [first]
        for block, group in zip(self.blocks, rest, strict=True):
            outputs.append(block(group if len(outputs) == 1 else group + outputs[-1], spans))
        return torch.cat(outputs, dim=1)


class SqueezeExcitation(nn.Module):
    """Scales channels by a gate computed from their mean over time (arXiv:1709.01507)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, hidden, 1)
        self.conv2 = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor, spans: Spans | None) -> Tensor:
        if spans is None:
            mean = x.mean(dim=2, keepdim=True)
        else:
            mean = (x * spans.mask).sum(dim=2, keepdim=True) / spans.counts[:, None, None]
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(mean))))


class SERes2NetBlock(nn.Module):
    """TDNN, Res2Net, TDNN, squeeze-excitation, and the input added."""

    def __init__(self, channels: int, kernel: int, dilation: int, scale: int, se_channels: int) -> None:
        super().__init__()
        self.tdnn1 = TDNN(channels, channels)
        self.res2net = Res2Net(channels, kernel, dilation, scale)
        self.tdnn2 = TDNN(channels, channels)
        self.se = SqueezeExcitation(channels, se_channels)

    def forward(self, x: Tensor, spans: Spans | None) -> Tensor:
        changed = self.tdnn2(self.res2net(self.tdnn1(x, spans), spans), spans)
        out: Tensor = x + self.se(changed, spans)
        return out


class AttentiveStatistics(nn.Module):
    """Attentive mean and standard deviation with global context (paper, section 2.1): [b, c, t] -> [b, 2 c]."""

    EPSILON = 1e-12

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.tdnn = TDNN(channels * 3, hidden)
        self.conv = nn.Conv1d(hidden, channels, 1)

    def _moments(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        mean = (weights * x).sum(dim=2)
        variance = (weights * (x - mean[:, :, None]).square()).sum(dim=2)
        return mean, variance.clamp(min=self.EPSILON).sqrt()

    def forward(self, x: Tensor, spans: Spans | None) -> Tensor:
        x = x.float()
        if spans is None:
            uniform = x.new_full((1, 1, 1), 1.0 / x.shape[2])
        else:
            uniform = spans.mask.float() / spans.counts[:, None, None]
        mean, deviation = self._moments(x, uniform)
        # The convolution over [x, mean, deviation] is split, so that the two constants are not repeated along time.
        weight, bias = self.tdnn.conv.conv.weight, self.tdnn.conv.conv.bias
        channels = x.shape[1]
        hidden = F.conv1d(x, weight[:, :channels], bias)
        context = torch.cat([mean, deviation], dim=1)
        hidden = hidden + F.linear(context, weight[:, channels:, 0])[:, :, None]
        logits = self.conv(torch.tanh(self.tdnn.norm(F.relu(hidden)))).float()
        if spans is not None:
            logits = logits.masked_fill(~spans.mask, float("-inf"))
        mean, deviation = self._moments(x, torch.softmax(logits, dim=2))
        return torch.cat([mean, deviation], dim=1)


class LocalCentring(nn.Module):
    """Takes from an embedding what all voices in its kind of recording share: [b, d] -> [b, d].

    Speakers who were recorded alike have similar embeddings, whoever they are, so each kind of recording wants a threshold of its
    own. The origin is moved to where the embedding's kind has its mean: localized centering (Hara et al. 2015, 'Localized
    Centering: Reducing Hubness in Large-Sample Data', AAAI), with the means of known collections in place of an embedding's
    nearest neighbours, each in proportion to the softmax of its cosine.

    Args:
        count: Means.
        dim: Dimensions of an embedding.
    """

    SHARPNESS = 20.0
    """Factor on the cosines before the softmax."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.means = nn.Parameter(
            0.01 * torch.randn(count, dim)
        )  # equal ones would get equal gradients for ever
        """Of unit embeddings, so within the unit sphere."""

    def forward(self, x: Tensor) -> Tensor:
        # Products and sums, for autocast would take matrix products to bfloat16.
        unit = F.normalize(x.float(), dim=1)
        cosines = (unit[:, None] * F.normalize(self.means, dim=1)).sum(dim=2)
        shares = torch.softmax(self.SHARPNESS * cosines, dim=1)
        out: Tensor = unit - (shares[:, :, None] * self.means).sum(dim=1)
        return out


class EcapaTdnn(nn.Module):
    """Features [b, bins, t] -> embeddings float32 [b, embedding], not normalised."""

    def __init__(self, config: EcapaConfig) -> None:
        super().__init__()
        c = config
        self.config = c
        self.stem = TDNN(c.bins, c.channels, c.kernels[0], c.dilations[0], c.stride)
        self.blocks = nn.ModuleList(
            SERes2NetBlock(c.channels, kernel, dilation, c.res2net_scale, c.se_channels)
            for kernel, dilation in zip(c.kernels[1:], c.dilations[1:], strict=True)
        )
        self.mfa = TDNN(c.channels * len(self.blocks), c.aggregate)
        self.pool = AttentiveStatistics(c.aggregate, c.attention_channels)
        self.pool_norm = nn.BatchNorm1d(c.aggregate * 2)
        self.project = nn.Linear(c.aggregate * 2, c.embedding)
        self.centring = LocalCentring(c.local_means, c.embedding) if c.local_means else None

    def forward(self, features: Tensor, counts: Tensor | None = None) -> Tensor:
        """`counts` int64 [b]: valid frames of each item; None where every item fills the batch."""
        spans = None if counts is None else Spans(counts, features.shape[2])
        x = self.stem(features, spans)
        spans = None if spans is None else spans.strided(self.config.stride)
        outputs = []
        for block in self.blocks:
            x = block(x, spans)
            outputs.append(x)
        x = self.mfa(torch.cat(outputs, dim=1), spans)
        pooled = self.pool(x, spans)
        out: Tensor = self.project(self.pool_norm(pooled)).float()
        return out if self.centring is None else self.centring(out)
