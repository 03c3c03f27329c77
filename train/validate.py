"""How well a model in training tells the speakers apart that are kept out of it, and names those that are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from train.corpus import UNKNOWN, Utterance
from train.data import SpeechCache
from train.split import Corpus, pair_scores
from voicevault.encoder.checkpoint import SpeakerModel
from voicevault.errors import CheckpointError
from voicevault.scoring.metrics import equal_error_rate
from voicevault.types import Float32Array

Change = Callable[[Float32Array, int], Float32Array]
"""What is done to a recording float32 [n] before it is embedded, given its place in the list."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation found, as fractions.

    Attributes:
        eer: Per collection, over all pairs of the speakers that are kept out.
        augmented: The same, each recording in the condition that it has for good (`train.fixed_condition`); None where
            that is not measured.
        accuracy: Share of the kept-out recordings of training speakers whose speaker is named right among all of them
            (closed set); None where no recordings are kept out.
    """

    eer: dict[str, float]
    accuracy: float | None = None
    augmented: dict[str, float] | None = None

    @property
    def mean_eer(self) -> float:
        """Every collection counts the same, and its clean and its augmented recordings do."""
        return fmean([*self.eer.values(), *(self.augmented or {}).values()])

    def loss(self, select: Literal["eer", "accuracy"]) -> float:
        """What the best weights have the least of."""
        if select == "eer" or self.accuracy is None:
            return self.mean_eer
        return 1.0 - self.accuracy

    def scalars(self) -> dict[str, float]:
        """For TensorBoard."""
        found = {} if self.accuracy is None else {"accuracy/closed_set": self.accuracy}
        found |= {f"eer/{source}": rate for source, rate in _with_mean(self.eer).items()}
        if self.augmented is not None:
            found |= {f"eer_augmented/{source}": rate for source, rate in _with_mean(self.augmented).items()}
            found["eer/clean_and_augmented"] = self.mean_eer
        return found

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f", closed-set accuracy {self.accuracy:.2%}"
        if self.augmented is None:
            each = _each(self.eer)
            return f"EER {self.mean_eer:.2%}{f' ({each})' if each else ''}{accuracy}"
        parts = "; ".join(
            f"{kind} {fmean(rates.values()):.2%}{f': {each}' if (each := _each(rates)) else ''}"
            for kind, rates in (("clean", self.eer), ("augmented", self.augmented))
        )
        return f"EER {self.mean_eer:.2%} ({parts}){accuracy}"


def _with_mean(rates: dict[str, float]) -> dict[str, float]:
    return {**rates, "mean": fmean(rates.values())}


def _each(rates: dict[str, float]) -> str:
    return ", ".join(f"{source} {rate:.2%}" for source, rate in rates.items() if source != UNKNOWN)


def best_so_far(select: Literal["eer", "accuracy"], loss: float) -> str:
    """The least `Validation.loss` for the progress line."""
    return f"best EER {loss:.2%}" if select == "eer" else f"best accuracy {1.0 - loss:.2%}"


def validate(
    model: SpeakerModel,
    corpus: Corpus,
    device: torch.device,
    condition: Change | None = None,
    advance: Callable[[int], object] | None = None,
) -> Validation:
    """The speakers of `corpus` that are kept out: clean, and in `condition` where there is one.

    Args:
        advance: See `embed`.

    Raises:
        CheckpointError: The model's embeddings are not finite.
    """
    clean = _rates(model, corpus, device, None, advance)
    return Validation(
        clean, augmented=_rates(model, corpus, device, condition, advance) if condition else None
    )


def _rates(
    model: SpeakerModel,
    corpus: Corpus,
    device: torch.device,
    change: Change | None,
    advance: Callable[[int], object] | None,
) -> dict[str, float]:
    """EER in [0, 1] per collection, over all pairs inside it; a collection without both kinds of pairs is left out."""
    vectors = embed(model, corpus.cache, corpus.validation, device, change, advance)
    rates = {}
    for source, (same, different) in pair_scores(vectors, corpus.validation).items():
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
    vectors = torch.from_numpy(embed(model, cache, utterances, device))
    own = torch.tensor([number[u.speaker] for u in utterances])
    with torch.inference_mode():
        scores: Tensor = cosines(vectors.to(device))[:, : len(speakers)]
    return float((scores.argmax(dim=1).cpu() == own).float().mean())


def embed(
    model: SpeakerModel,
    cache: SpeechCache,
    utterances: Sequence[Utterance],
    device: torch.device,
    change: Change | None = None,
    advance: Callable[[int], object] | None = None,
    batch: int = 32,
) -> Float32Array:
    """Unit embeddings float32 [n, d], order kept; recordings are read and batched by length, short ones repeated.

    Args:
        change: What is done to each before.
        advance: Called with the number of recordings, whenever so many more are done.

    Raises:
        CheckpointError: They are not finite.
    """
    order = sorted(range(len(utterances)), key=lambda i: utterances[i].stop - utterances[i].start)
    shortest = model.minimum_samples
    vectors = np.zeros((len(utterances), model.config.architecture.embedding), np.float32)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            heard = [cache.read(utterances[i]) for i in rows]
            if change is not None:
                heard = [change(samples, i) for samples, i in zip(heard, rows, strict=True)]
            items = [np.resize(samples, max(shortest, len(samples))) for samples in heard]
            lengths = torch.tensor([len(item) for item in items])
            padded = torch.zeros(len(rows), int(lengths.max()))
            for target, item in zip(padded, items, strict=True):
                target[: len(item)] = torch.from_numpy(item)
            out: Any = model(padded.to(device), lengths.to(device))
            vectors[rows] = F.normalize(out, dim=1).cpu().numpy()
            if advance is not None:
                advance(len(rows))
    if not np.isfinite(vectors).all():
        raise CheckpointError("the model gives embeddings that are not finite; its weights are damaged")
    return vectors
