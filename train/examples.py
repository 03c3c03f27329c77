"""Clips of every augmentation, to listen to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

import voicevault
from train.augment import SHARES, Augmenter
from train.batches import SPEEDS
from train.config import FitConfig
from voicevault.audio import decode
from voicevault.types import SAMPLE_RATE


def write_examples(config: FitConfig, root: Path, folder: Path, recording: Path | None = None) -> list[Path]:
    """A FLAC for the recording as it is, for each augmentation alone, for each speed copy, and for all at their shares: what the
    config has a share of. Copies with another vocal tract are warped as features, and are no sound.

    Raises:
        AudioError: The recording cannot be decoded.
        ManifestError: The noise or room folder of the config holds nothing.
    """
    import torchaudio

    bundled = Path(voicevault.__file__).parent / "demo" / "voices"
    # Babble is made of the others in a batch, so a batch it is.
    batch = sorted(bundled.glob("*/1.opus"))[:8]
    voices = [decode(recording or batch[0]).samples, *(decode(path).samples for path in batch[1:])]
    samples = len(voices[0])
    crops = torch.from_numpy(np.stack([np.resize(voice, samples) for voice in voices]))
    folder.mkdir(parents=True, exist_ok=True)
    clips = {"plain": crops[0]}
    for name in SHARES:
        if getattr(config.augment, name):
            clips[name] = Augmenter(config.augment.only(name), root, config.seed)(crops, 0)[0]
    for old, new in SPEEDS[1:] if config.data.speed_share else ():
        clips[f"speed-{old}-{new}"] = torchaudio.functional.resample(crops[:1], old, new)[0]
    everything = Augmenter(config.augment, root, config.seed)
    for draw in range(1, 4):
        clips[f"all-{draw}"] = everything(crops, draw)[0]
    paths = []
    for name, clip in clips.items():
        path = folder / f"{name}.flac"
        loudest = max(1.0, float(clip.abs().max()))
        soundfile.write(path, (clip / loudest).numpy(), SAMPLE_RATE)
        paths.append(path)
    return paths
