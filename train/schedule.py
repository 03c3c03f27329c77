"""What changes along a training, as functions of its progress in [0, 1]."""

from __future__ import annotations

import math

from train.config import FitConfig


def learning_rate(config: FitConfig, progress: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    o = config.optimiser
    if progress < o.warmup_share:
        return o.learning_rate * max(progress / o.warmup_share, 0.01)
    rest = (progress - o.warmup_share) / max(1e-9, 1.0 - o.warmup_share)
    return o.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, rest))))


def in_last_part(config: FitConfig, progress: float) -> bool:
    """Whether the crops are long and the margin large by now."""
    return progress >= 1.0 - config.large_margin.share


def margin(config: FitConfig, progress: float) -> float:
    """From 0 up to the loss' margin; the larger one in the last part."""
    if in_last_part(config, progress):
        return config.large_margin.margin
    ramp = config.loss.margin_share
    return config.loss.margin * min(1.0, progress / ramp) if ramp else config.loss.margin
