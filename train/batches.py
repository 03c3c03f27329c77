"""Augmented crops and labels of a step, made ahead of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor

from train.augment import Augmenter
from train.config import FitConfig
from train.data import BatchSampler
from voicevault.cores import available_cores
from voicevault.types import SAMPLE_RATE

SPEEDS = ((10, 10), (9, 10), (11, 10))
"""Resampling ratios: as it is, and the two copies that count as other speakers."""
TRACTS = (0.9, 1.1)
"""Factors on the frequencies of the copies that count as yet others."""

AHEAD = 4
"""Steps whose batches are made while a GPU is at work on one."""


class Batches:
    """What a step sees depends on (config, corpus, step, process) alone.

    Args:
        rank, world: This process of so many that train together; each draws batches of its own.
        device: What is batched is computed there: all but the codecs.
    """

    def __init__(
        self,
        config: FitConfig,
        sampler: BatchSampler,
        root: Path,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.sampler, self.rank, self.world = config, sampler, rank, world
        self.augment = Augmenter(config.augment, root, config.seed, device)
        self._sped = len(SPEEDS) - 1 if config.data.speed_share else 0
        self.copies = [(speed, 1.0) for speed in SPEEDS[: 1 + self._sped]]
        """Resampling ratio and factor on the frequencies of each block of classes: the speakers themselves, then their copies."""
        self.copies += [(SPEEDS[0], tract) for tract in TRACTS if config.data.tract_share]
        self.classes = len(sampler.classes) * len(self.copies)
        self.collections = torch.from_numpy(np.tile(sampler.collections, len(self.copies)))
        """int64 [classes]: the number of the collection that each class belongs to."""

    def make(self, step: int, last_part: bool = False) -> tuple[Tensor, Tensor, float]:
        """float32 [2 * speakers, samples] and int64 classes [2 * speakers], first one crop of each, then the other;
        and the factor on their frequencies."""
        d, shared = self.config.data, np.random.default_rng((self.config.seed, 1, step))
        crops_of = self.config.large_margin.crops if last_part else d.crops
        speakers, seconds = crops_of[shared.integers(len(crops_of))]
        speakers = min(speakers, len(self.sampler.classes))
        samples = round(seconds * SAMPLE_RATE)
        copied = not last_part and shared.random() < d.speed_share
        speed = int(shared.integers(1, len(SPEEDS))) if copied else 0
        warped = not last_part and not copied and shared.random() < d.tract_share
        tract = int(shared.integers(len(TRACTS))) if warped else None
        old, new = SPEEDS[speed]
        draw = step * self.world + self.rank
        crops, labels = self.sampler.draw(draw, speakers, -(-samples * old // new))
        waveforms = torch.from_numpy(crops).to(self.augment.device)
        if speed:
            waveforms = torchaudio.functional.resample(waveforms, old, new)[:, :samples]
        copy = speed if tract is None else self._sped + 1 + tract
        classes = torch.from_numpy(labels + copy * len(self.sampler.classes))
        return self.augment(waveforms, draw), classes, 1.0 if tract is None else TRACTS[tract]

    def after(self, step: int, last_part: Callable[[int], bool]) -> Iterator[tuple[Tensor, Tensor, float]]:
        """The batches of `step` and all that follow, made by threads: one step ahead on a CPU, whose cores have enough to do, and
        several for a GPU. `last_part` is asked for each step when it is begun."""
        depth = 1 if self.augment.device.type == "cpu" else min(AHEAD, available_cores())
        with ThreadPoolExecutor(depth, "batches") as pool:
            ahead: deque[Future[tuple[Tensor, Tensor, float]]] = deque()
            while True:
                while len(ahead) <= depth:
                    ahead.append(pool.submit(self.make, step, last_part(step)))
                    step += 1
                yield ahead.popleft().result()
