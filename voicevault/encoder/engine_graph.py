"""ECAPA-TDNN as an OpenVINO graph, built from the weights in memory: there is no exported file that could disagree with them.

The graph takes one recording whose frames are padded to a length of `grid`, so that few shapes have to be compiled. The padding
changes nothing: convolutions reflect at the recording's own end, means and attention see its own frames, as `Spans` in
`ecapa` does for torch. Shapes: ``c`` channels, ``t`` frames, padding included.

For int8, the inputs of the wide convolutions and their kernels get the steps of a fixed scale (Jacob et al., arXiv:1712.05877):
one range per input, measured on speech, and one per output channel of a kernel, which is symmetric.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from voicevault.encoder.ecapa import (
    TDNN,
    AttentiveStatistics,
    Conv,
    EcapaTdnn,
    Res2Net,
    SERes2NetBlock,
    SqueezeExcitation,
)
from voicevault.encoder.quiet_openvino import openvino, opset13
from voicevault.types import Float32Array

Ranges = Mapping[str, tuple[float, float]]
"""The least and the greatest input of each quantised convolution, by its name in the network."""
LEVELS = 256
"""Of an 8-bit number; kernels leave one out, to be symmetric."""

_TIME = np.array([2], np.int64)


def grid(frames: int) -> int:
    """The padded length: 16 steps from one power of two to the next, 16 frames at least. Costs 3 % on average."""
    step = max(16, 1 << max(0, (frames - 1).bit_length() - 5))
    return -(-frames // step) * step


class EcapaGraph:
    """The graph of a network, and the inputs that go with a number of frames.

    Attributes:
        model: An openvino.Model: features float32 [1, bins, t], then what `positions` gives -> float32 [1, embedding].
        points: The quantisable inputs by name, as nodes of the graph.
    """

    def __init__(self, network: EcapaTdnn, ranges: Ranges | None = None) -> None:
        self._config = network.config
        self._ranges = ranges or {}
        self._reflections: dict[tuple[int, bool], Any] = {}
        self.points: dict[str, Any] = {}
        self._uniform = _parameter([1, 1, -1], np.float32, "uniform")
        self._outside = _parameter([1, 1, -1], np.float32, "outside")
        features = _parameter([1, self._config.bins, -1], np.float32, "features")
        with torch.no_grad():
            x = self._tdnn(features, network.stem, "stem", strided=True)
            outputs = []
            for i, block in enumerate(network.blocks):
                assert isinstance(block, SERes2NetBlock)
                x = self._block(x, block, f"blocks.{i}")
                outputs.append(x)
            x = self._tdnn(opset13.concat(outputs, 1), network.mfa, "mfa")
            x = self._affine(self._pool(x, network.pool, "pool"), network.pool_norm)
            x = self._plain(x, network.project.weight[:, :, None], network.project.bias)
        self._inputs = [features, self._uniform, self._outside, *self._reflections.values()]
        self.model = openvino.Model([opset13.squeeze(x, _TIME)], self._inputs, "ecapa-tdnn")
        self.positions = lru_cache(128)(self._positions)

    def observer(self) -> openvino.Model:
        """A graph whose outputs are the quantisable inputs, in the order of `points`."""
        outputs = [
            point if isinstance(point, openvino.Output) else point.output(0) for point in self.points.values()
        ]
        return openvino.Model(outputs, self._inputs, "ecapa-tdnn observer")

    def _positions(self, frames: int) -> tuple[NDArray[Any], ...]:
        """The inputs behind the features for `frames` of `grid(frames)`: which positions count, and where each end reflects."""
        padded, stride = grid(frames), self._config.stride
        inner, inner_padded = -(-frames // stride), -(-padded // stride)
        valid = (np.arange(inner_padded) < inner)[None, None]
        uniform = np.where(valid, np.float32(1 / inner), np.float32(0))
        outside = np.where(valid, np.float32(0), np.float32(-1e30))
        edges = [
            _reflect(frames, padded, padding) if stem else _reflect(inner, inner_padded, padding)
            for padding, stem in self._reflections
        ]
        return uniform, outside, *edges

    def _block(self, x: Any, m: SERes2NetBlock, name: str) -> Any:
        out = self._res2net(self._tdnn(x, m.tdnn1, f"{name}.tdnn1"), m.res2net, f"{name}.res2net")
        out = self._tdnn(out, m.tdnn2, f"{name}.tdnn2")
        return opset13.add(x, opset13.multiply(out, self._gate(out, m.se)))

    def _res2net(self, x: Any, m: Res2Net, name: str) -> Any:
        first, *rest = opset13.split(x, opset13.constant(np.int64(1)), m.scale).outputs()
        outputs = [first]
        for i, (block, group) in enumerate(zip(m.blocks, rest, strict=True)):
            assert isinstance(block, TDNN)
            group = group if i == 0 else opset13.add(group, outputs[-1])
            outputs.append(self._tdnn(group, block, f"{name}.blocks.{i}").output(0))
        return opset13.concat(outputs, 1)

    def _gate(self, x: Any, m: SqueezeExcitation) -> Any:
        hidden = opset13.relu(self._plain(self._mean(x), m.conv1.weight, m.conv1.bias))
        return opset13.sigmoid(self._plain(hidden, m.conv2.weight, m.conv2.bias))

    def _pool(self, x: Any, m: AttentiveStatistics, name: str) -> Any:
        mean = self._mean(x)
        deviation = self._deviation(self._mean(_square(opset13.subtract(x, mean))))
        conv = m.tdnn.conv.conv
        channels = conv.weight.shape[1] // 3
        hidden = self._wide(x, conv.weight[:, :channels], None, f"{name}.tdnn.conv")
        context = self._plain(opset13.concat([mean, deviation], 1), conv.weight[:, channels:], conv.bias)
        hidden = opset13.tanh(self._affine(opset13.relu(opset13.add(hidden, context)), m.tdnn.norm))
        logits = self._wide(hidden, m.conv.weight, m.conv.bias, f"{name}.conv")
        weights = opset13.softmax(opset13.add(logits, self._outside), 2)
        mean = _sum(opset13.multiply(weights, x))
        variance = _sum(opset13.multiply(weights, _square(opset13.subtract(x, mean))))
        return opset13.concat([mean, self._deviation(variance)], 1)

    def _tdnn(self, x: Any, m: TDNN, name: str, *, strided: bool = False) -> Any:
        return self._affine(opset13.relu(self._conv(x, m.conv, f"{name}.conv", strided)), m.norm)

    def _conv(self, x: Any, m: Conv, name: str, strided: bool) -> Any:
        edge = None
        if m.padding:
            key = (m.padding, strided)
            if key not in self._reflections:
                self._reflections[key] = _parameter([-1], np.int32, f"reflect{m.padding}{'_stem' * strided}")
            edge = self._reflections[key]
        conv = m.conv
        return self._wide(x, conv.weight, conv.bias, name, edge, conv.stride[0], conv.dilation[0])

    def _wide(
        self,
        x: Any,
        weight: Tensor,
        bias: Tensor | None,
        name: str,
        edge: Any = None,
        stride: int = 1,
        dilation: int = 1,
    ) -> Any:
        """A convolution over all frames, in 8-bit numbers where its range is known; `edge` says where its ends reflect."""
        self.points[name] = x
        kernel = _array(weight)
        node = opset13.constant(kernel)
        if name in self._ranges:
            # Zero is a step of its own, which keeps what ReLU made zero.
            low, high = min(0.0, self._ranges[name][0]), max(1e-6, self._ranges[name][1])
            x = _steps(x, np.full((1, 1, 1), low, np.float32), np.full((1, 1, 1), high, np.float32), LEVELS)
            peak = np.maximum(np.abs(kernel).max(axis=(1, 2), keepdims=True), np.float32(1e-12))
            node = _steps(node, -peak, peak, LEVELS - 1)
        if edge is not None:
            x = opset13.gather(x, edge, opset13.constant(np.int64(2)))
        out = opset13.convolution(x, node, [stride], [0], [0], [dilation])
        return out if bias is None else opset13.add(out, _column(bias))

    def _plain(self, x: Any, weight: Tensor, bias: Tensor | None) -> Any:
        """A convolution over a single frame."""
        out = opset13.convolution(x, opset13.constant(_array(weight)), [1], [0], [0], [1])
        return out if bias is None else opset13.add(out, _column(bias))

    def _affine(self, x: Any, m: nn.BatchNorm1d) -> Any:
        mean, variance = m.running_mean, m.running_var
        assert mean is not None and variance is not None
        scale = m.weight.double() / (variance.double() + m.eps).sqrt()
        shift = m.bias.double() - mean.double() * scale
        return opset13.add(opset13.multiply(x, _column(scale)), _column(shift))

    def _mean(self, x: Any) -> Any:
        return _sum(opset13.multiply(x, self._uniform))

    def _deviation(self, variance: Any) -> Any:
        floor = opset13.constant(np.float32(AttentiveStatistics.EPSILON))
        return opset13.sqrt(opset13.maximum(variance, floor))


def _parameter(shape: list[int], kind: Any, name: str) -> Any:
    return opset13.parameter(openvino.PartialShape(shape), kind, name)


def _array(x: Tensor) -> Float32Array:
    return np.ascontiguousarray(x.detach().float().cpu().numpy())


def _column(x: Tensor) -> Any:
    return opset13.constant(_array(x).reshape(1, -1, 1))


def _sum(x: Any) -> Any:
    return opset13.reduce_sum(x, _TIME, True)


def _square(x: Any) -> Any:
    return opset13.multiply(x, x)


def _steps(x: Any, low: Float32Array, high: Float32Array, levels: int) -> Any:
    ends = [opset13.constant(end) for end in (low, high)]
    return opset13.fake_quantize(x, *ends, *ends, levels)


def _reflect(frames: int, padded: int, padding: int) -> NDArray[np.int32]:
    """Which of `padded` frames stand at each place from `-padding` on, with both ends of the first `frames` mirrored."""
    places = np.abs(np.arange(-padding, padded + padding))
    last = frames - 1
    mirrored: NDArray[np.int32] = np.clip(last - np.abs(last - places), 0, None).astype(np.int32)
    return mirrored
