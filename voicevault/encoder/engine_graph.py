"""ECAPA-TDNN as an OpenVINO graph, built from the weights in memory: there is no exported file that could disagree with them.

The graph takes one recording whose frames are padded to a length of `grid`, so that few shapes have to be compiled. The padding
changes nothing: convolutions reflect at the recording's own end, means and attention see its own frames, as `Spans` in
`ecapa` does for torch. Shapes: ``c`` channels, ``t`` frames, padding included.

Frames are rows, and a convolution is a matrix product: an index gathers the frames that it looks at, both ends mirrored, into one
long row. So nothing is ever brought into another layout, which takes a quarter of the time where convolutions are convolutions.

For int8, the inputs of the wide convolutions and their kernels get the steps of a fixed scale (Jacob et al., arXiv:1712.05877):
one range per input, measured on speech, and one per output channel of a kernel, which is symmetric. The integers of an input
count from the low end of its range; what that is off by is the same for all frames and goes into the bias.
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
    EcapaTdnn,
    LocalCentring,
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

TAME = 20.0
"""Up to which logits can all be moved below -`FAR`, and products with their exponentials are ordinary float32 numbers."""
FAR = 17.0
"""Below minus this, a sigmoid and an exponential differ by less than float32 can tell."""

_TIME = np.array([1], np.int64)
_LAST = np.array([2], np.int64)
_SWAP = np.array([0, 2, 1], np.int64)


def grid(frames: int) -> int:
    """The padded length: 16 steps from one power of two to the next, 16 frames at least. Costs 3 % on average."""
    step = max(16, 1 << max(0, (frames - 1).bit_length() - 5))
    return -(-frames // step) * step


class EcapaGraph:
    """The graph of a network, and the inputs that go with a number of frames.

    Attributes:
        model: An openvino.Model: features float32 [1, t, bins], then what `positions` gives -> float32 [1, 1, embedding].
        points: The quantisable inputs by name, as nodes of the graph.
    """

    def __init__(self, network: EcapaTdnn, ranges: Ranges | None = None) -> None:
        self._config = network.config
        self._ranges = ranges or {}
        self._taps: dict[tuple[int, int, int], Any] = {}
        self.points: dict[str, Any] = {}
        self._uniform = _parameter([1, 1, -1], np.float32, "uniform")
        features = _parameter([1, -1, self._config.bins], np.float32, "features")
        with torch.no_grad():
            x = self._tdnn(features, network.stem, "stem")
            outputs = []
            for i, block in enumerate(network.blocks):
                assert isinstance(block, SERes2NetBlock)
                x = self._block(x, block, f"blocks.{i}")
                outputs.append(x)
            x = self._tdnn(opset13.concat(outputs, 2), network.mfa, "mfa")
            x = self._affine(self._pool(x, network.pool, "pool"), network.pool_norm)
            x = self._dense(x, network.project.weight, network.project.bias)
            x = x if network.centring is None else _centred(x, network.centring)
        self._inputs = [features, self._uniform, *self._taps.values()]
        self.model = openvino.Model([x], self._inputs, "ecapa-tdnn")
        self.positions = lru_cache(128)(self._positions)

    def observer(self) -> openvino.Model:
        """A graph whose outputs are the quantisable inputs, in the order of `points`."""
        outputs = [
            point if isinstance(point, openvino.Output) else point.output(0) for point in self.points.values()
        ]
        return openvino.Model(outputs, self._inputs, "ecapa-tdnn observer")

    def _positions(self, frames: int) -> tuple[NDArray[Any], ...]:
        """The inputs behind the features for `frames` of `grid(frames)`: which frames count, and which each convolution sees."""
        inner, padded = -(-frames // self._config.stride), -(-grid(frames) // self._config.stride)
        uniform = np.where(np.arange(padded) < inner, np.float32(1 / inner), np.float32(0))[None, None]
        taps = [
            _frames_seen(
                padded, last=(inner if stride == 1 else frames) - 1, shape=(kernel, dilation, stride)
            )
            for kernel, dilation, stride in self._taps
        ]
        return uniform, *taps

    def _block(self, x: Any, m: SERes2NetBlock, name: str) -> Any:
        out = self._res2net(self._tdnn(x, m.tdnn1, f"{name}.tdnn1"), m.res2net, f"{name}.res2net")
        out = self._tdnn(out, m.tdnn2, f"{name}.tdnn2")
        return opset13.add(x, opset13.multiply(out, self._gate(out, m.se)))

    def _res2net(self, x: Any, m: Res2Net, name: str) -> Any:
        first, *rest = opset13.split(x, opset13.constant(np.int64(2)), m.scale).outputs()
        outputs = [first]
        for i, (block, group) in enumerate(zip(m.blocks, rest, strict=True)):
            assert isinstance(block, TDNN)
            group = group if i == 0 else opset13.add(group, outputs[-1])
            outputs.append(self._tdnn(group, block, f"{name}.blocks.{i}").output(0))
        return opset13.concat(outputs, 2)

    def _gate(self, x: Any, m: SqueezeExcitation) -> Any:
        hidden = opset13.relu(self._dense(self._mean(x), m.conv1.weight[:, :, 0], m.conv1.bias))
        return opset13.sigmoid(self._dense(hidden, m.conv2.weight[:, :, 0], m.conv2.bias))

    def _pool(self, x: Any, m: AttentiveStatistics, name: str) -> Any:
        mean = self._mean(x)
        deviation = _deviation(self._mean(opset13.squared_difference(x, mean)))
        conv = m.tdnn.conv.conv
        channels = conv.weight.shape[1] // 3
        hidden = self._wide(x, conv.weight[:, :channels], None, f"{name}.tdnn.conv")
        context = self._dense(opset13.concat([mean, deviation], 2), conv.weight[:, channels:, 0], conv.bias)
        hidden = opset13.tanh(self._affine(opset13.relu(opset13.add(hidden, context)), m.tdnn.norm))
        # The softmax over frames, its divisor last; a bias would cancel out.
        weights = self._exponentials(hidden, m.conv.weight, f"{name}.conv")
        total = self._mean(weights)
        mean = opset13.divide(self._mean(opset13.multiply(weights, x)), total)
        squares = opset13.multiply(weights, opset13.squared_difference(x, mean))
        variance = opset13.divide(self._mean(squares), total)
        return opset13.concat([mean, _deviation(variance)], 2)

    def _exponentials(self, x: Any, weight: Tensor, name: str) -> Any:
        """Of the logits of attention, each channel's up to a factor: `x` lies in [-1, 1].

        So no logit exceeds the sum over its kernel. Where that is small, all of them are moved into the tail of the sigmoid,
        which is computed within the product, as an exponential is not: that saves a pass over all channels and frames. Where
        kernels are large, exponentials are taken relative to the largest.
        """
        bound = float(weight.abs().sum(dim=1).max())
        if bound <= TAME:
            return opset13.sigmoid(self._wide(x, weight, torch.full((len(weight),), -bound - FAR), name))
        logits = self._wide(x, weight, None, name)
        own = opset13.add(logits, opset13.transpose(opset13.log(self._uniform), opset13.constant(_SWAP)))
        return opset13.exp(opset13.subtract(own, opset13.reduce_max(own, opset13.constant(_TIME), True)))

    def _tdnn(self, x: Any, m: TDNN, name: str) -> Any:
        return self._affine(opset13.relu(self._conv(x, m.conv.conv, f"{name}.conv")), m.norm)

    def _conv(self, x: Any, m: nn.Conv1d, name: str) -> Any:
        """As `ecapa.Conv`: one frame per `stride` frames, reflecting at the ends."""
        shape = (m.kernel_size[0], m.dilation[0], m.stride[0])
        if shape[0] == shape[2] == 1:
            return self._wide(x, m.weight, m.bias, name)
        if shape not in self._taps:
            label = "taps " + " ".join(map(str, shape))
            self._taps[shape] = _parameter([-1, shape[0]], np.int32, label)
        return self._wide(x, m.weight, m.bias, name, self._taps[shape])

    def _wide(self, x: Any, weight: Tensor, bias: Tensor | None, name: str, taps: Any = None) -> Any:
        """A convolution over all frames, in 8-bit numbers where its range is known; `taps` says which frames each one sees."""
        self.points[name] = x
        kernel = _array(weight.transpose(1, 2).reshape(len(weight), -1))
        offset = _array(bias) if bias is not None else np.zeros(len(kernel), np.float32)
        node = opset13.constant(kernel)
        if name in self._ranges:
            low, high = min(0.0, self._ranges[name][0]), max(1e-6, self._ranges[name][1])
            x = _steps(x, (low, high), (0.0, high - low), LEVELS)
            peak = np.maximum(np.abs(kernel).max(axis=1, keepdims=True), np.float32(1e-12))
            step = peak / (LEVELS // 2 - 1)
            kernel = step * np.round(kernel / step)
            node = _steps(opset13.constant(kernel), (-peak, peak), (-peak, peak), LEVELS - 1)
            offset = offset + np.float32(low) * kernel.sum(axis=1, dtype=np.float64).astype(np.float32)
        if taps is not None:
            rows = opset13.gather(x, taps, opset13.constant(np.int64(1)))
            x = opset13.reshape(rows, opset13.constant(np.array([1, -1, kernel.shape[1]], np.int64)), False)
        return opset13.add(opset13.matmul(x, node, False, True), opset13.constant(offset[None, None]))

    def _affine(self, x: Any, m: nn.BatchNorm1d) -> Any:
        mean, variance = m.running_mean, m.running_var
        assert mean is not None and variance is not None
        scale = m.weight.double() / (variance.double() + m.eps).sqrt()
        shift = m.bias.double() - mean.double() * scale
        return opset13.add(opset13.multiply(x, _row(scale)), _row(shift))

    def _dense(self, x: Any, weight: Tensor, bias: Tensor | None) -> Any:
        """A layer over a single row: the weight [outputs, inputs]. Reading that is what takes time, so for int8 it is in 8-bit
        numbers too; the arithmetic stays in float32."""
        kernel = _array(weight)
        node = opset13.constant(kernel)
        if self._ranges:
            peak = np.maximum(np.abs(kernel).max(axis=1, keepdims=True), np.float32(1e-12))
            step = peak / (LEVELS // 2 - 1)
            whole = opset13.convert(opset13.constant(np.round(kernel / step).astype(np.int8)), "f32")
            node = opset13.multiply(whole, opset13.constant(step))
        out = opset13.matmul(x, node, False, True)
        return out if bias is None else opset13.add(out, _row(bias))

    def _mean(self, x: Any) -> Any:
        """Of the recording's own frames."""
        return opset13.matmul(self._uniform, x, False, False)


def _centred(x: Any, m: LocalCentring) -> Any:
    """Of the embedding [1, 1, d]."""
    unit = opset13.normalize_l2(x, opset13.constant(_LAST), 1e-24, "max")
    towards = opset13.constant(_array(m.SHARPNESS * torch.nn.functional.normalize(m.means, dim=1)))
    shares = opset13.softmax(opset13.matmul(unit, towards, False, True), 2)
    return opset13.subtract(unit, opset13.matmul(shares, opset13.constant(_array(m.means)), False, False))


def saturation_probe(inputs: int = 64) -> openvino.Model:
    """A product in 8-bit numbers: of a row float32 [1, 1, inputs] that is all 255 it is 255 x 127 x `inputs` in all 16 places."""
    row = _parameter([1, -1, inputs], np.float32, "row")
    x = _steps(row, (0.0, 255.0), (0.0, 255.0), LEVELS)
    kernel = opset13.constant(np.full((16, inputs), 127, np.float32))
    node = _steps(kernel, (-127.0, 127.0), (-127.0, 127.0), LEVELS - 1)
    return openvino.Model([opset13.matmul(x, node, False, True)], [row], "saturation probe")


def _parameter(shape: list[int], kind: Any, name: str) -> Any:
    return opset13.parameter(openvino.PartialShape(shape), kind, name)


def _array(x: Tensor) -> Float32Array:
    return np.ascontiguousarray(x.detach().float().cpu().numpy())


def _row(x: Tensor) -> Any:
    return opset13.constant(_array(x)[None, None])


def _deviation(variance: Any) -> Any:
    return opset13.sqrt(opset13.maximum(variance, opset13.constant(np.float32(AttentiveStatistics.EPSILON))))


def _steps(x: Any, given: tuple[Any, Any], taken: tuple[Any, Any], levels: int) -> Any:
    """The nearest of `levels` numbers across the range `given`, moved to the range `taken`."""
    ends = [np.array(end, np.float32) for end in (*given, *taken)]
    return opset13.fake_quantize(x, *(opset13.constant(np.atleast_1d(end)) for end in ends), levels)


def _frames_seen(rows: int, last: int, shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """Which frames a convolution (kernel, dilation, stride) sees for each of `rows`, int32 [rows, kernel].

    Both ends are mirrored, the far one at `last`. What rows beyond the recording see does not matter: its last frames, and the
    first.
    """
    kernel, dilation, stride = shape
    centred = dilation * (np.arange(kernel) - (kernel - 1) // 2)
    places = np.abs(stride * np.arange(rows)[:, None] + centred)
    seen: NDArray[np.int32] = np.clip(last - np.abs(last - places), 0, None).astype(np.int32)
    return seen
