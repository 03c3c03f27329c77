"""What a corpus holds, and which of its labels look wrong."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from train.data import SpeechCache
from voicevault.types import SAMPLE_RATE, Float32Array

FAR = 4.0
"""A recording is suspicious where its score against its speaker lies so many deviations below the corpus' mean."""
SHOWN = 200
COINCIDE = 0.85
"""Cosine of two speakers' centroids from which they may be one person; far above that of different people."""


def describe_corpus(speech: SpeechCache) -> dict[str, Any]:
    """Counts, hours, durations in seconds, sources, what cannot be used (path, code, reason), and doubles (groups of paths whose
    decoded audio is equal)."""
    lengths = np.array([u.stop - u.start for u in speech.utterances]) / SAMPLE_RATE
    per_speaker = Counter(u.speaker for u in speech.utterances)
    sources: dict[str, dict[str, float]] = {}
    for source in sorted({u.source for u in speech.utterances}):
        rows = [i for i, u in enumerate(speech.utterances) if u.source == source]
        sources[source] = {
            "speakers": len({speech.utterances[i].speaker for i in rows}),
            "recordings": len(rows),
            "hours": round(float(lengths[rows].sum()) / 3600, 3),
        }
    same: dict[bytes, list[str]] = defaultdict(list)
    for u in speech.utterances:
        same[hashlib.sha256(speech.samples[u.start : u.stop].tobytes()).digest()].append(u.path)
    return {
        "speakers": len(per_speaker),
        "recordings": len(speech.utterances),
        "skipped": speech.skipped,
        "unusable": [line.split("\t") for line in _lines(speech.reasons)],
        "hours": round(float(lengths.sum()) / 3600, 3),
        "single_recording_speakers": sum(count == 1 for count in per_speaker.values()),
        "seconds": [round(float(q), 2) for q in np.quantile(lengths, (0.05, 0.5, 0.95))],
        "sources": sources,
        "doubles": [paths for paths in same.values() if len(paths) > 1],
        "data_sha256": speech.digest,
    }


def _lines(path: Path | None) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path is not None and path.is_file() else []


def suspicious_labels(speech: SpeechCache, model: Path) -> dict[str, list[dict[str, Any]]]:
    """Recordings far from the centroid of their speaker's others, and pairs of speakers whose centroids coincide.

    A model finds candidates; a person who listens decides.
    """
    import torch

    from train.validate import embed
    from voicevault.encoder.checkpoint import load_checkpoint

    network, _ = load_checkpoint(model)
    vectors = embed(network, speech, speech.utterances, torch.device("cpu"))
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for row, u in enumerate(speech.utterances):
        by_speaker[u.speaker].append(row)
    scores = np.full(len(vectors), np.nan)
    for rows in by_speaker.values():
        if len(rows) > 2:
            total = vectors[rows].sum(axis=0)
            others = _unit(total - vectors[rows])
            scores[rows] = (others * vectors[rows]).sum(axis=1)
    judged = ~np.isnan(scores)
    far: list[dict[str, Any]] = []
    if judged.any():
        bar = float(np.nanmean(scores) - FAR * np.nanstd(scores))
        for row in np.argsort(scores)[: int((scores < bar).sum())][:SHOWN]:
            u = speech.utterances[int(row)]
            far.append({"score": round(float(scores[row]), 3), "what": f"{u.path} as {u.speaker}"})
    names = sorted(by_speaker)
    centroids = _unit(np.stack([vectors[by_speaker[name]].sum(axis=0) for name in names]))
    pairs: list[dict[str, Any]] = []
    for start in range(0, len(names), 1024):
        cosines = centroids[start : start + 1024] @ centroids.T
        for i, j in zip(*np.nonzero(cosines > COINCIDE), strict=True):
            if start + i < j:
                pairs.append(
                    {"score": round(float(cosines[i, j]), 3), "what": f"{names[start + i]} = {names[j]}"}
                )
    pairs.sort(key=lambda pair: -pair["score"])
    return {"far_from_their_speaker": far, "speakers_that_coincide": pairs[:SHOWN]}


def _unit(rows: Float32Array) -> Float32Array:
    unit: Float32Array = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)
    return unit
