"""From scores to the files of a model that decisions rest on: the threshold table.

The trials come from speakers outside both training and evaluation: a training's own validation split, or a
manifest of other people.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import voicevault
from train.evaluate import cosines
from train.evaluate_embed import Embedded, EmbeddingCache, embed_recordings
from train.trials import UNKNOWN, Recording, Trials, all_pairs, read_recordings
from voicevault.embedding import EmbeddingPipeline
from voicevault.scoring.policy import Policy, fit_thresholds

POLICY_FILE = "policy.json"


def validation_recordings(config: Path, corpora: Path, cache: Path) -> list[Recording]:
    """The recordings of the speakers that a training with `config` keeps out, drawn exactly as it draws them.

    A speaker with one recording is there in `validation.pieces` equal pieces of it.

    Args:
        config: The TOML file of the training.
        corpora: Folder that the manifest's paths start from.
        cache: Folder of the decoded speech that `fit` leaves beside its run; built where it is missing.

    Raises:
        SettingsError, ManifestError: See `train.config.read_config` and `train.split.split_speakers`.
    """
    from train.config import read_config
    from train.corpus import read_manifest
    from train.data import SpeechCache
    from train.split import split_speakers

    settings = read_config(config)
    listed = corpora / settings.data.manifest
    heard = SpeechCache.build(read_manifest(listed, corpora), corpora, cache).utterances
    kept = split_speakers(heard, settings.validation, settings.seed).validation
    gender = {recording.path: recording.gender for recording in read_recordings(listed, corpora)}
    pieces = Counter(utterance.path for utterance in kept)
    seen: dict[str, int] = defaultdict(int)
    recordings = []
    for u in kept:
        part = (seen[u.path], pieces[u.path])
        seen[u.path] += 1
        recordings.append(
            Recording(u.path, u.speaker, u.source, gender.get(u.path, UNKNOWN), u.session, part)
        )
    return recordings


def describe_training(config: Path, corpora: Path) -> dict[str, Any]:
    """What recreates `validation_recordings`: config, seed and the hash of the manifest."""
    from train.config import read_config

    settings = read_config(config)
    return {
        "speakers_from": f"validation split of {config.name}",
        "training": settings.name,
        "seed": settings.seed,
        "manifest": settings.data.manifest,
        "manifest_sha256": manifest_digest(corpora / settings.data.manifest),
    }


def manifest_digest(manifest: Path) -> str | None:
    """Hex SHA-256 of the file; None for a folder."""
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None


def fit_policy(
    pipeline: EmbeddingPipeline,
    recordings: Sequence[Recording],
    audio_root: Path,
    *,
    within: Sequence[str] = (),
    provenance: dict[str, Any],
    cache: EmbeddingCache | None = None,
    workers: int | None = None,
) -> tuple[Policy, Trials, Embedded]:
    """The threshold table from all pairs of the recordings, with the trials and embeddings behind it.

    Args:
        within: What the two of a different-speaker pair must share, e.g. ``source``.
        provenance: Whose recordings these are; counts are added.

    Raises:
        AudioError: A recording is missing or cannot be decoded.
        ManifestError: There are not two speakers, or nobody with two recordings.
    """
    embedded = embed_recordings(pipeline, recordings, audio_root, cache=cache, workers=workers)
    embedded.require_all(recordings)
    trials = all_pairs(recordings, embedded.audio_sha256, within)
    scores = cosines(embedded.vectors, trials)
    rows = fit_thresholds(scores, trials.genuine, trials.speaker_pairs())
    listing = "\n".join(sorted(f"{r.name}\t{r.speaker}" for r in recordings))
    facts = {
        **provenance,
        "trials": len(trials),
        "genuine_trials": int(trials.genuine.sum()),
        "impostor_trials": int((~trials.genuine).sum()),
        "impostors_share": list(within),
        "recordings": len(recordings),
        "embedded_whole": embedded.whole,
        "speakers": len({r.speaker for r in recordings}),
        "speakers_by_source": dict(
            sorted(Counter(source for _, source in {(r.speaker, r.source) for r in recordings}).items())
        ),
        "recordings_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "fitted": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "voicevault": voicevault.__version__,
    }
    return Policy(pipeline.encoder.model_id, rows, facts), trials, embedded
