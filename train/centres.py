"""Class centres to begin with: where the initial model of a fine-tune hears each speaker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torchaudio
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from train.batches import Batches
from train.corpus import Utterance
from train.objective import Objective
from train.validate import embed
from voicevault.encoder.checkpoint import SpeakerModel
from voicevault.types import SAMPLE_RATE, Float32Array

RECORDINGS = 3
"""Of a speaker, at most, spread over all of them."""
SECONDS = 3.0
"""Of a recording, at most."""


def start_centres(objective: Objective, batches: Batches, device: torch.device) -> None:
    """Turns the centres of the objective to `embedded_centres`, with a progress bar."""
    heard = _chosen(batches)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("class centres", total=len(heard) * len(batches.copies))
        centres = embedded_centres(objective, batches, heard, device, lambda done: bar.advance(task, done))
    objective.softmax.start(centres)


def embedded_centres(
    objective: Objective,
    batches: Batches,
    heard: Sequence[Utterance],
    device: torch.device,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """float32 [classes, d]: unit means of each class' embeddings, in the order of the labels that `batches` gives.

    A copy with another speed or vocal tract is heard as such: its embedding lies about as far from the speaker's own as that of
    somebody else.

    Args:
        heard: Recordings of all speakers of `batches`.
        advance: See `train.validate.embed`; a recording is heard once in each copy.

    Raises:
        CheckpointError: The embeddings are not finite.
    """
    model = objective.model
    number = {speaker: i for i, speaker in enumerate(batches.sampler.classes)}
    own = torch.tensor([number[u.speaker] for u in heard])
    centres = []
    for speed, tract in batches.copies:
        as_heard = SpeakerModel(model.config, model.network)
        as_heard.frontend = objective.frontend(tract)
        vectors = embed(
            as_heard, batches.sampler.cache, heard, device, partial(_played, speed=speed), advance
        )
        sums = torch.zeros(len(number), vectors.shape[1]).index_add_(0, own, torch.from_numpy(vectors))
        centres.append(F.normalize(sums))
    return torch.cat(centres)


def _chosen(batches: Batches) -> list[Utterance]:
    """The recordings that the centres rest on, cut."""
    cut = round(SECONDS * SAMPLE_RATE)
    every = (batches.sampler.recordings(speaker) for speaker in batches.sampler.classes)
    return [
        replace(own[i], stop=min(own[i].stop, own[i].start + cut))
        for own in every
        for i in np.unique(np.linspace(0, len(own) - 1, RECORDINGS).round().astype(int))
    ]


def _played(samples: Float32Array, place: int, speed: tuple[int, int]) -> Float32Array:
    if speed[0] == speed[1]:
        return samples
    played: Float32Array = torchaudio.functional.resample(torch.from_numpy(samples), *speed).numpy()
    return played
