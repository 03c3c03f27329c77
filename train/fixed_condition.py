"""The fixed condition of a validation: each kept-out recording as it would sound elsewhere, the same whenever it is heard."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from train.augment import TALKERS, AugmentConfig, Augmenter
from train.conditions import stretch
from train.config import FitConfig
from train.corpus import Utterance
from train.data import SpeechCache
from voicevault.types import Float32Array

CONDITION = AugmentConfig(
    reverb=0.5, rooms=32, equaliser=0.7, equaliser_db=4.0, band=0.2, noise=0.6, babble=0.2, snr_db=(5.0, 20.0),
    volume=0.0, codec=0.2,
)  # fmt: skip
"""The shares are of no config, so that trainings with other augmentation can be compared. The level is left alone: the front-ends
take it away."""


class FixedCondition:
    """What each of these recordings goes through. A draw depends on the seed of the validation, the recording's path and which
    piece of it this is, and for babble on who else is kept out: on no step, and not on the training's own seed.

    Args:
        config: Its seed of the validation and its folders of noise and rooms are used, nothing else.
        root: Corpus folder.
        utterances: The recordings that are kept out.
        device: Where they are changed.

    Raises:
        ManifestError: A folder of the config holds no recordings.
    """

    def __init__(
        self,
        config: FitConfig,
        root: Path,
        cache: SpeechCache,
        utterances: Sequence[Utterance],
        device: torch.device | str = "cpu",
    ) -> None:
        a = config.augment
        condition = replace(CONDITION, noise_folder=a.noise_folder, room_folder=a.room_folder)
        self._seed, self._cache, self._utterances = config.validation_seed, cache, utterances
        self._augment = Augmenter(condition, root, self._seed, device)
        pieces: Counter[str] = Counter()
        self._draws: list[int] = []
        for u in utterances:
            name = hashlib.sha256(f"{u.path}\t{pieces[u.path]}".encode()).digest()
            self._draws.append(int.from_bytes(name[:5], "big"))
            pieces[u.path] += 1

    def __call__(self, samples: Float32Array, place: int) -> Float32Array:
        """float32 [n] of the recording in that place of the list -> the same as it sounds in its condition."""
        draw = self._draws[place]
        device = self._augment.device
        crop, voices = (
            torch.from_numpy(x)[None].to(device) for x in (samples, self._voices(place, len(samples)))
        )
        heard: Float32Array = self._augment(crop, draw, voices)[0].cpu().numpy()
        return heard

    def _voices(self, place: int, length: int) -> Float32Array:
        """float32 [length]: recordings of others who are kept out, at once."""
        random = np.random.default_rng((self._seed, self._draws[place]))
        own = self._utterances[place].speaker
        others = [u for u in self._utterances if u.speaker != own]
        voices = np.zeros(length, np.float32)
        for i in random.integers(len(others), size=TALKERS):
            voices += stretch(self._cache.read(others[i]), length, random)
        return voices
