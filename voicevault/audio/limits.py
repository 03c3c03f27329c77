"""What a recording may cost before it is turned away."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """Bounds that are checked before and while a recording is decoded.

    Attributes:
        max_bytes: Size of the file.
        max_seconds: Decoded length; decoding stops one sample after it.
        min_rate: Lowest sample rate of the file, in Hz.
        max_rate: Highest sample rate of the file, in Hz.
        max_channels: Most channels of the file.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_seconds: float = 1800.0
    min_rate: int = 4_000
    max_rate: int = 192_000
    max_channels: int = 16
