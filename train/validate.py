"""How well a model in training tells the speakers apart that are kept out of it, and names those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from train.corpus import UNKNOWN, Utterance
from train.data import SpeechCache
from train.split import pair_scores
from voicevault.encoder.checkpoint import SpeakerModel
from voicevault.errors import CheckpointError
from voicevault.scoring.metrics import equal_error_rate
from voicevault.types import Float32Array


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation found, as fractions.

    Attributes:
        eer: Per collection, over all pairs of the speakers that are kept out.
        accuracy: Share of the kept-out recordings of training speakers whose speaker is named right among all of them
            (closed set); None where no recordings are kept out.
    """

    eer: dict[str, float]
    accuracy: float | None = None

    @property
    def mean_eer(self) -> float:
        """Every collection counts the same."""
        return sum(self.eer.values()) / len(self.eer)

    def loss(self, select: Literal["eer", "accuracy"]) -> float:
        """What the best weights have the least of."""
        if select == "eer" or self.accuracy is None:
            return self.mean_eer
        return 1.0 - self.accuracy

    def scalars(self) -> dict[str, float]:
        """For TensorBoard."""
        accuracy = {} if self.accuracy is None else {"accuracy/closed_set": self.accuracy}
        return {
            f"eer/{source}": rate for source, rate in {**self.eer, "mean": self.mean_eer}.items()
        } | accuracy

    def __str__(self) -> str:
        each = ", ".join(f"{source} {rate:.2%}" for source, rate in self.eer.items() if source != UNKNOWN)
        accuracy = "" if self.accuracy is None else f", closed-set accuracy {self.accuracy:.2%}"
        return f"EER {self.mean_eer:.2%}{f' ({each})' if each else ''}{accuracy}"


def best_so_far(select: Literal["eer", "accuracy"], loss: float) -> str:
    """The least `Validation.loss` for the progress line."""
    return f"best EER {loss:.2%}" if select == "eer" else f"best accuracy {1.0 - loss:.2%}"


def validation_rates(
    model: SpeakerModel, cache: SpeechCache, utterances: Sequence[Utterance], device: torch.device
) -> dict[str, float]:
    """EER in [0, 1] per collection, over all pairs inside it; a collection without both kinds of pairs is left out.

    Raises:
        CheckpointError: The model's embeddings are not finite.
    """
    vectors = embed(model, [cache.read(u) for u in utterances], device)
    rates = {}
    for source, (same, different) in pair_scores(vectors, utterances).items():
        if len(same) and len(different):
            labels = np.repeat([True, False], [len(same), len(different)])
            rates[source], _ = equal_error_rate(np.concatenate([same, different]), labels)
    return rates


def closed_set_accuracy(
    model: SpeakerModel, cosines: Any, cache: SpeechCache, utterances: Sequence[Utterance],
    speakers: Sequence[str], device: torch.device,
) -> float:  # fmt: skip
    """Share in [0, 1] of the recordings whose own speaker's centre is the nearest of all `speakers`' centres.

    Args:
        cosines: Of embeddings float32 [n, d] to the centres of all classes, of which `speakers` are the first
            (`train.losses.MarginSoftmax.cosines`).
    """
    number = {speaker: i for i, speaker in enumerate(speakers)}
    vectors = torch.from_numpy(embed(model, [cache.read(u) for u in utterances], device))
    own = torch.tensor([number[u.speaker] for u in utterances])
    with torch.inference_mode():
        scores: Tensor = cosines(vectors.to(device))[:, : len(speakers)]
    return float((scores.argmax(dim=1).cpu() == own).float().mean())


def embed(
    model: SpeakerModel, waveforms: list[Float32Array], device: torch.device, batch: int = 32
) -> Float32Array:
    """Unit embeddings float32 [n, d], order kept; recordings are batched by length, short ones repeated.

    Raises:
        CheckpointError: They are not finite.
    """
    order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
    shortest = model.minimum_samples
    vectors = np.zeros((len(waveforms), model.config.architecture.embedding), np.float32)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            items = [np.resize(waveforms[i], max(shortest, len(waveforms[i]))) for i in rows]
            lengths = torch.tensor([len(item) for item in items])
            padded = torch.zeros(len(rows), int(lengths.max()))
            for target, item in zip(padded, items, strict=True):
                target[: len(item)] = torch.from_numpy(item)
            out: Any = model(padded.to(device), lengths.to(device))
            vectors[rows] = F.normalize(out, dim=1).cpu().numpy()
    if not np.isfinite(vectors).all():
        raise CheckpointError("the model gives embeddings that are not finite; its weights are damaged")
    return vectors
