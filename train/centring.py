"""A model whose embeddings are centred on the kind of recording that they come from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from train.config import FitConfig
from train.corpus import Utterance
from train.split import read_corpus
from train.validate import embed
from voicevault.encoder.checkpoint import SpeakerModel, load_checkpoint
from voicevault.encoder.ecapa import EcapaTdnn
from voicevault.errors import CheckpointError, ManifestError
from voicevault.types import SAMPLE_RATE, Float32Array

SECONDS = 4.0
"""Of a recording, at most."""
SPEAKERS = 20
"""Fewer of a collection have a mean that is theirs rather than the collection's."""


def centre_on_corpus(
    folder: Path,
    config: FitConfig,
    root: Path,
    cache_folder: Path,
    device: torch.device,
    progress: Callable[[int], Callable[[int], object]] | None = None,
) -> tuple[SpeakerModel, dict[str, int]]:
    """The model with `LocalCentring` on the means of the collections that a config trains on; means that it has are replaced.

    Speakers whom the config keeps out have no part in the means.

    Args:
        folder: Of the model.
        root, cache_folder: See `train.split.read_corpus`.
        progress: Called with the number of recordings; what it returns is called with how many more are done.

    Returns:
        The model, and the speakers behind each of its means, by collection.

    Raises:
        CheckpointError: The folder holds no ECAPA-TDNN.
        ManifestError: No collection has the speakers that it takes, or the corpus cannot be used as the config wants it.
    """
    given, _ = load_checkpoint(folder)
    if not isinstance(given.network, EcapaTdnn):
        raise CheckpointError(f"{folder} holds no ECAPA-TDNN, the one network that is centred here")
    corpus = read_corpus(config, root, cache_folder)
    wanted = config.data.weights
    heard = [_cut(u) for u in corpus.training if not wanted or u.source in wanted]
    few = {source: count for source, count in _speakers(heard).items() if count < SPEAKERS}
    heard = [u for u in heard if u.source not in few]
    if not heard:
        shown = ", ".join(f"{source} {count}" for source, count in sorted(few.items()))
        raise ManifestError(
            f"a collection needs {SPEAKERS} speakers for a mean of its own: {shown}", speakers=few
        )
    given.network.centring = None
    vectors = embed(
        given.to(device), corpus.cache, heard, device, advance=progress(len(heard)) if progress else None
    )
    means = collection_means(vectors, heard)
    return centred(given.to("cpu"), np.stack(list(means.values()))), _speakers(heard)


def collection_means(vectors: Float32Array, utterances: Sequence[Utterance]) -> Mapping[str, Float32Array]:
    """float32 [d] by collection, ordered by name: the mean over its speakers of the means of their unit embeddings [n, d]."""
    own: dict[str, dict[str, list[Float32Array]]] = defaultdict(lambda: defaultdict(list))
    for vector, u in zip(vectors, utterances, strict=True):
        own[u.source][u.speaker].append(vector)
    return {
        source: np.mean([np.mean(rows, axis=0) for rows in speakers.values()], axis=0, dtype=np.float32)
        for source, speakers in sorted(own.items())
    }


def centred(model: SpeakerModel, means: Float32Array) -> SpeakerModel:
    """An ECAPA-TDNN with these means float32 [k, d] in place of any that it has."""
    architecture = replace(model.config.architecture, local_means=len(means))  # type: ignore[arg-type]
    network = EcapaTdnn(architecture)  # type: ignore[arg-type]
    weights = {k: v for k, v in model.network.state_dict().items() if not k.startswith("centring.")}
    network.load_state_dict({**weights, "centring.means": torch.from_numpy(means)})
    return SpeakerModel(replace(model.config, architecture=architecture), network).eval()


def _cut(utterance: Utterance) -> Utterance:
    return replace(utterance, stop=min(utterance.stop, utterance.start + round(SECONDS * SAMPLE_RATE)))


def _speakers(utterances: Sequence[Utterance]) -> dict[str, int]:
    """How many there are by collection."""
    own: dict[str, set[str]] = defaultdict(set)
    for u in utterances:
        own[u.source].add(u.speaker)
    return {source: len(speakers) for source, speakers in sorted(own.items())}
