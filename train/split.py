"""Which speakers are kept out of a training, and the same-speaker and different-speaker pairs among them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from train.config import ValidationSection
from train.corpus import Utterance
from voicevault.errors import ManifestError
from voicevault.types import Float32Array

MINIMUM_PIECE = 24_000
"""Samples: a piece of a cut recording is at least 1.5 s."""


@dataclass(frozen=True, slots=True)
class Split:
    """Two sets of recordings without a common speaker."""

    training: list[Utterance]
    validation: list[Utterance]


def split_speakers(utterances: Sequence[Utterance], config: ValidationSection, seed: int) -> Split:
    """Draws the validation speakers by a hash of their name; speakers with several sessions come first.

    Args:
        seed: Of the draw, where `config` has none of its own.

    Raises:
        ManifestError: A collection has fewer speakers than are to be kept out.
    """
    seed = seed if config.seed is None else config.seed
    by_source: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for utterance in utterances:
        by_source[utterance.source][utterance.speaker].append(utterance)
    kept: set[str] = set()
    validation: list[Utterance] = []
    counts = config.speakers or {
        source: max(2, round(config.share * len(own))) for source, own in by_source.items() if len(own) > 3
    }
    if not counts:
        raise ManifestError("no collection has the four speakers that it takes to keep two of them out")
    for source, count in counts.items():
        speakers = by_source.get(source, {})
        usable = {
            s: heard for s, own in speakers.items() if len(heard := _recordings(own, config.pieces)) > 1
        }
        if len(usable) <= count:
            raise ManifestError(
                f"{count} speakers of {source!r} cannot be kept out: it has {len(usable)} with enough speech"
            )
        order = sorted(
            usable,
            key=lambda s: (
                len({u.session for u in speakers[s]}) < 2,
                hashlib.sha256(f"{seed}\t{s}".encode()).digest(),
            ),
        )
        for speaker in order[:count]:
            kept.add(speaker)
            validation += usable[speaker]
    return Split([u for u in utterances if u.speaker not in kept], validation)


def _recordings(own: Sequence[Utterance], pieces: int) -> list[Utterance]:
    if len(own) > 1:
        return list(own)
    (only,) = own
    length = (only.stop - only.start) // pieces
    if length < MINIMUM_PIECE:
        return []
    # The pieces of one recording share its channel, so their scores are easier than those of two recordings.
    return [
        replace(only, start=only.start + i * length, stop=only.start + (i + 1) * length)
        for i in range(pieces)
    ]


def pair_scores(
    vectors: Float32Array, utterances: Sequence[Utterance]
) -> dict[str, tuple[Float32Array, Float32Array]]:
    """Cosines of all pairs inside each collection: source -> (same speaker, different speakers).

    Pairs of one speaker inside one session are left out where that speaker has several sessions.
    """
    scores: dict[str, tuple[Float32Array, Float32Array]] = {}
    for source in sorted({u.source for u in utterances}):
        rows = [i for i, u in enumerate(utterances) if u.source == source]
        speaker = np.array([utterances[i].speaker for i in rows])
        session = np.array([utterances[i].session for i in rows])
        several = {s for s in set(speaker) if len(set(session[speaker == s])) > 1}
        cosines = vectors[rows] @ vectors[rows].T
        upper = np.triu(np.ones(cosines.shape, bool), 1)
        same = speaker[:, None] == speaker[None]
        across = session[:, None] != session[None]
        fair = across | ~np.isin(speaker, sorted(several))[:, None]
        scores[source] = (cosines[upper & same & fair], cosines[upper & ~same])
    return scores
