"""Which speakers and recordings are kept out of a training, and the same-speaker and different-speaker pairs among them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from train.config import DataSection, FitConfig, ValidationSection
from train.corpus import Utterance, read_manifest
from train.data import SpeechCache, one_name
from voicevault.errors import ManifestError
from voicevault.types import Float32Array

MINIMUM_PIECE = 24_000
"""Samples: a piece of a cut recording is at least 1.5 s."""


@dataclass(frozen=True, slots=True)
class Split:
    """Three sets of recordings: `validation` has no speaker in common with the others, `closed` has those of `training`."""

    training: list[Utterance]
    validation: list[Utterance]
    closed: list[Utterance]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The decoded speech: what is trained on, the speakers that are kept out, and kept-out recordings of the others."""

    cache: SpeechCache
    training: list[Utterance]
    validation: list[Utterance]
    closed: list[Utterance]

    def require_kept_out(self) -> None:
        """Raises ManifestError after a refit, where nobody is left to measure on."""
        if not self.validation:
            raise ManifestError(
                "this config keeps nobody out (validation.refit): name the one of the training that the recipe was chosen by"
            )

    @property
    def digest(self) -> str:
        """Hex SHA-256 of who is trained on and who is kept out, with collections and sessions: what the manifest says beside the
        speech itself."""
        parts = (self.training, self.validation, self.closed)
        rows = [[(u.path, u.speaker, u.source, u.session) for u in part] for part in parts]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read_corpus(config: FitConfig, root: Path, cache_folder: Path) -> Corpus:
    """What a training with this config hears, and what it does not.

    Args:
        root: Corpus folder: what the manifest's paths start from.
        cache_folder: Where decoded speech is kept.

    Raises:
        ManifestError: The corpus cannot be used as the config wants it.
    """
    listed = read_manifest(root / config.data.manifest, root)
    # Noise and rooms may lie in the corpus folder, where everything else is a speaker.
    others = [f for f in (config.augment.noise_folder, config.augment.room_folder) if f]
    speech = [u for u in listed if not any((root / u.path).is_relative_to(root / other) for other in others)]
    counts = Counter(u.speaker for u in speech)
    few = sorted(speaker for speaker, count in counts.items() if count < config.data.min_recordings)
    if few:
        raise ManifestError(
            f"{len(few)} speakers have fewer than {config.data.min_recordings} recordings, the first of them {few[0]!r};"
            " correct the names, leave these speakers out, or lower data.min_recordings",
            speakers=few[:20],
        )
    if config.loss.rivals == "collection" or config.loss.uniformity:
        _require_one_collection(speech, config.data)
    cache = SpeechCache.build(speech, root, cache_folder)
    split = split_speakers(cache.utterances, config.validation, config.seed, config.data.weights)
    return Corpus(cache, split.training, split.validation, split.closed)


def _require_one_collection(utterances: Sequence[Utterance], data: DataSection) -> None:
    """A speaker whose rivals are those of the own collection has one collection."""
    first = one_name(data.alike)
    of: dict[str, set[str]] = defaultdict(set)
    for u in utterances:
        if not data.weights or u.source in data.weights:
            of[u.speaker].add(first.get(u.source, u.source))
    if several := sorted(speaker for speaker, sources in of.items() if len(sources) > 1):
        raise ManifestError(
            f"{len(several)} speakers are in several collections, the first of them {several[0]!r}; name these collections in"
            ' data.alike, or set loss.rivals = "all" and loss.uniformity = 0',
            speakers=several[:20],
        )


def split_speakers(
    utterances: Sequence[Utterance], config: ValidationSection, seed: int, trained: Collection[str] = ()
) -> Split:
    """Draws the validation speakers by a hash of their name; speakers with several sessions come first. Then recordings of the
    speakers that are left, likewise. A refit keeps nobody out.

    Args:
        seed: Of the draw, where `config` has none of its own.
        trained: The collections that recordings are kept out of; empty: all.

    Raises:
        ManifestError: A collection has fewer speakers than are to be kept out, or recordings are to be kept out and
            nobody has three.
    """
    if config.refit:
        return Split(list(utterances), [], [])
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
    training = [u for u in utterances if u.speaker not in kept]
    heard = [u for u in training if not trained or u.source in trained]
    closed = _closed(heard, config.recordings, seed)
    out = {u.path for u in closed}
    return Split([u for u in training if u.path not in out], validation, closed)


def _closed(training: Sequence[Utterance], count: int, seed: int) -> list[Utterance]:
    """One recording each of at most `count` speakers who have three or more."""

    def drawn(name: str) -> bytes:
        return hashlib.sha256(f"{seed}\tclosed\t{name}".encode()).digest()

    own: dict[str, list[Utterance]] = defaultdict(list)
    for u in training if count else ():
        own[u.speaker].append(u)
    several = [speaker for speaker, recordings in own.items() if len(recordings) > 2]
    if count and not several:
        raise ManifestError(
            "no speaker has the three recordings that it takes to keep one out; set validation.recordings = 0"
        )
    return [min(own[s], key=lambda u: drawn(u.path)) for s in sorted(several, key=drawn)[:count]]


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
