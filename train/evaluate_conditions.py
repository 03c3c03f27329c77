"""How a list's error rate moves with what the recordings went through."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.conditions import SECONDS, Condition, Length
from train.embedding_cache import EmbeddingCache
from train.evaluate import cosines_between
from train.evaluate_embed import Embedded, embed_recordings
from train.evaluate_groups import rates
from train.trials import Recording, Trials
from voicevault.embedding import EmbeddingPipeline
from voicevault.types import Int64Array

CROSSED = ("noise 10 dB", "babble 10 dB", "far room", "telephone", "MP3, 60 kbit/s")
"""Conditions whose every pairing is measured."""


def subset(trials: Trials, most: int) -> Trials:
    """The trials among `most` recordings that a hash of their names draws; all where there are not more."""
    if len(trials.recordings) <= most:
        return trials
    order = sorted(
        range(len(trials.recordings)),
        key=lambda i: hashlib.sha256(trials.recordings[i].name.encode()).digest(),
    )
    kept = np.sort(np.array(order[:most], dtype=np.int64))
    place = np.full(len(trials.recordings), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    both = (place[trials.enroll] >= 0) & (place[trials.test] >= 0)
    return Trials(
        tuple(trials.recordings[i] for i in kept),
        place[trials.enroll[both]],
        place[trials.test[both]],
        trials.genuine[both],
    )


def condition_result(
    pipeline: EmbeddingPipeline,
    trials: Trials,
    audio_root: Path,
    conditions: Sequence[Condition],
    speakers: Int64Array | None,
    *,
    cache: EmbeddingCache | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Rates of each condition with clean and with equal enrollments, of lengths of speech, and of pairings.

    Args:
        trials: See `subset`.
        speakers: int64 [n, 2], or None where they are not known.

    Returns:
        JSON values: ``rows`` (condition, clean enrollment, matched enrollment), ``lengths`` and ``matrix``.
    """

    def heard(condition: Condition | None) -> Embedded:
        name = "clean" if condition is None else condition.name
        found = embed_recordings(
            pipeline,
            trials.recordings,
            audio_root,
            condition=condition,
            cache=cache,
            workers=workers,
            description=f"{name:>14}",
        )
        found.require_all(trials.recordings)
        return found

    def row(enroll: Embedded, probe: Embedded) -> dict[str, Any]:
        return rates(cosines_between(enroll.vectors, probe.vectors, trials), trials.genuine, speakers)

    clean = heard(None)
    by_name: dict[str, Embedded] = {"clean": clean}
    rows = [{"condition": "clean", "clean_enrollment": row(clean, clean), "matched": row(clean, clean)}]
    for condition in conditions:
        degraded = by_name[condition.name] = heard(condition)
        rows.append(
            {
                "condition": condition.name,
                "clean_enrollment": row(clean, degraded),
                "matched": row(degraded, degraded),
            }
        )
    lengths = []
    for seconds in SECONDS:
        enough = clean.speech_seconds[trials.test] >= seconds - 0.05
        cut = heard(Length(seconds))
        scores = cosines_between(clean.vectors, cut.vectors, trials)[enough]
        pairs = None if speakers is None else speakers[enough]
        lengths.append({"seconds": seconds, **rates(scores, trials.genuine[enough], pairs)})
    crossed = ["clean", *(name for name in CROSSED if name in by_name)]
    matrix = [[row(by_name[a], by_name[b])["eer"] for b in crossed] for a in crossed]
    return {
        "recordings": len(trials.recordings),
        "trials": len(trials),
        "rows": rows,
        "lengths": lengths,
        "matrix": {"names": crossed, "eer": matrix},
    }


def babble_voices(
    recordings: Sequence[Recording], audio_root: Path, most: int = 64
) -> list[tuple[str, Path]]:
    """Speakers and recordings of the list for the babble, of as many speakers as possible; drawn by a hash of their names."""
    ordered = sorted(recordings, key=lambda r: hashlib.sha256(r.name.encode()).digest())
    seen: dict[str, int] = {}
    ranked = []
    for recording in ordered:
        seen[recording.speaker] = seen.get(recording.speaker, 0) + 1
        ranked.append((seen[recording.speaker], recording))
    chosen = sorted(ranked, key=lambda pair: pair[0])[:most]
    return [(recording.speaker, audio_root / recording.path) for _, recording in chosen]
