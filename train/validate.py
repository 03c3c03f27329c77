"""How well a model in training tells the speakers apart that are kept out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from train.corpus import Utterance
from train.data import SpeechCache
from train.split import pair_scores
from voicevault.encoder.checkpoint import SpeakerModel
from voicevault.scoring.metrics import equal_error_rate
from voicevault.types import Float32Array


def validation_rates(
    model: SpeakerModel, cache: SpeechCache, utterances: Sequence[Utterance], device: torch.device
) -> dict[str, float]:
    """EER in [0, 1] per collection, over all pairs inside it; a collection without both kinds of pairs is left out."""
    vectors = embed(model, [cache.read(u) for u in utterances], device)
    rates = {}
    for source, (same, different) in pair_scores(vectors, utterances).items():
        if len(same) and len(different):
            labels = np.repeat([True, False], [len(same), len(different)])
            rates[source], _ = equal_error_rate(np.concatenate([same, different]), labels)
    return rates


def embed(
    model: SpeakerModel, waveforms: list[Float32Array], device: torch.device, batch: int = 32
) -> Float32Array:
    """Unit embeddings float32 [n, d], order kept; recordings are batched by length, short ones repeated."""
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
    return vectors
