"""Whose recordings a model is tuned on: people outside its training, and a cohort of people inside it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.config import FitConfig, read_config
from train.corpus import UNKNOWN, Utterance
from train.split import read_corpus
from train.trials import Recording, read_recordings

COHORT_RECORDINGS = 3
"""At most so many recordings of a cohort speaker."""


@dataclass(frozen=True, slots=True)
class TrainingSpeakers:
    """The speakers of a training, drawn exactly as it draws them.

    Attributes:
        held_out: Recordings of the speakers that it kept out; one with a single recording is there in
            `validation.pieces` equal pieces of it.
        trained: Recordings of all others.
        shares: Share of each source in a batch.
        provenance: What recreates this: config, seed, and the hash of the manifest.
    """

    held_out: list[Recording]
    trained: list[Recording]
    shares: dict[str, float]
    provenance: dict[str, Any]


def training_speakers(config: Path, corpora: Path, cache: Path) -> TrainingSpeakers:
    """Whom a training with `config` heard, and whom it did not.

    Args:
        config: The TOML file of the training.
        corpora: Folder that the manifest's paths start from.
        cache: Folder of the decoded speech that `fit` leaves beside its run; built where it is missing.

    Raises:
        SettingsError, ManifestError: See `train.config.read_config` and `train.split.read_corpus`.
    """
    settings: FitConfig = read_config(config)
    listed = corpora / settings.data.manifest
    corpus = read_corpus(settings, corpora, cache)
    corpus.require_kept_out()
    gender = {recording.path: recording.gender for recording in read_recordings(listed, corpora)}

    def recordings(utterances: Sequence[Utterance]) -> list[Recording]:
        pieces, seen, found = Counter(u.path for u in utterances), Counter[str](), []
        for u in utterances:
            part = (seen[u.path], pieces[u.path])
            seen[u.path] += 1
            found.append(Recording(u.path, u.speaker, u.source, gender.get(u.path, UNKNOWN), u.session, part))
        return found

    return TrainingSpeakers(
        held_out=recordings(corpus.validation),
        trained=recordings(corpus.training),
        shares=dict(settings.data.weights),
        provenance={
            "speakers_from": f"validation split of {config.name}",
            "training": settings.name,
            "seed": settings.validation_seed,
            "manifest": settings.data.manifest,
            "manifest_sha256": manifest_digest(listed),
        },
    )


def manifest_digest(manifest: Path) -> str | None:
    """Hex SHA-256 of the file; None for a folder."""
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None


def draw_cohort(recordings: Sequence[Recording], speakers: int, shares: dict[str, float]) -> list[Recording]:
    """A few recordings of `speakers` speakers, or of all where there are not so many, drawn by a hash of names.

    Args:
        shares: How much each source gives; other sources give none. Empty: no source counts more.
    """
    own: dict[str, dict[str, list[Recording]]] = defaultdict(lambda: defaultdict(list))
    for recording in recordings:
        if not shares or recording.source in shares:
            own[recording.source][recording.speaker].append(recording)
    weights = {source: shares.get(source, 1.0) for source in own}
    order = {source: sorted(own[source], key=_draw) for source in own}
    taken = dict.fromkeys(own, 0)
    for _ in range(min(speakers, sum(len(names) for names in order.values()))):
        # The source that is furthest behind its share.
        left = [source for source in sorted(own) if taken[source] < len(order[source])]
        taken[min(left, key=lambda source: (taken[source] + 1) / weights[source])] += 1
    return [
        recording
        for source in sorted(own)
        for speaker in order[source][: taken[source]]
        for recording in sorted(own[source][speaker], key=lambda r: _draw(r.name))[:COHORT_RECORDINGS]
    ]


def _draw(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
