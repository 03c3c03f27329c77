"""Recordings in, judged mono 16 kHz speech out. Nothing here loads torch.

`decode` opens a recording, `SpeechDetector` finds the speech in it, `quality.measure` judges it.
"""

from __future__ import annotations

from voicevault.audio.decoding import decode
from voicevault.audio.limits import AudioLimits
from voicevault.audio.speech import SpeechDetector

__all__ = ["AudioLimits", "SpeechDetector", "decode"]
