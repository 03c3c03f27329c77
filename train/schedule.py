"""What changes along a training, as functions of its progress in [0, 1]."""

from __future__ import annotations

import math

from train.config import FitConfig


def learning_rate(config: FitConfig, progress: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth; another half for the last part, if it has a rate of its own."""
    o, last = config.optimiser, config.large_margin
    if progress < o.warmup_share:
        return o.learning_rate * max(progress / o.warmup_share, 0.01)
    if last.learning_rate is None:
        return _decayed(o.learning_rate, progress, o.warmup_share, 1.0)
    if in_last_part(config, progress):
        return _decayed(last.learning_rate, progress, 1.0 - last.share, 1.0)
    return _decayed(o.learning_rate, progress, o.warmup_share, 1.0 - last.share)


def _decayed(rate: float, progress: float, start: float, end: float) -> float:
    passed = min(1.0, (progress - start) / max(1e-9, end - start))
    return rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * passed)))


def in_last_part(config: FitConfig, progress: float) -> bool:
    """Whether the crops are long and the margin large by now."""
    share = config.large_margin.share
    return share > 0.0 and progress >= 1.0 - share


def margin(config: FitConfig, progress: float) -> float:
    """From 0 up to the loss' margin; the larger one in the last part."""
    if in_last_part(config, progress):
        return config.large_margin.margin
    ramp = config.loss.margin_share
    return config.loss.margin * min(1.0, progress / ramp) if ramp else config.loss.margin
