"""Models beside each other on the same lists: what they cost and what they reach."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.embedding_cache import EmbeddingCache
from train.evaluate import Scored, score_trials
from train.evaluate_embed import load_pipeline, model_folder, require_recordings
from train.evaluate_report import analyse, read_model_files, trial_speakers
from train.trials import Trials
from voicevault.errors import RequestError
from voicevault.scoring.bootstrap import interval, speaker_replicates
from voicevault.scoring.metrics import Float64Array
from voicevault.types import SAMPLE_RATE, Encoder

SECONDS = 3.0
"""Length of speech whose embedding is timed."""


def compare_models(
    models: Sequence[str],
    lists: Sequence[tuple[str, Trials]],
    audio_root: Path,
    folder: Path,
    *,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    precision: str | None = None,
) -> list[dict[str, Any]]:
    """One row per model, as JSON values: size, time, and the rates on each list, with the difference to the
    first model's EER and its 95 % interval over speakers.

    Args:
        models: ``default`` or model folders.
        lists: Name and trials.
        audio_root: Folder that the paths of all lists start from.
        folder: Where embeddings are kept.

    Raises:
        ModelNotFoundError, CheckpointError, AudioError; models and files that are missing before anything is computed.
    """
    folders = [model_folder(model) for model in models]  # said before any time is spent
    for _, trials in lists:
        require_recordings(trials.recordings, audio_root)
    rows: list[dict[str, Any]] = []
    first: dict[str, Float64Array | None] = {}
    for model, files_of in zip(models, folders, strict=True):
        pipeline = load_pipeline(model, threads=threads, device=device, precision=precision)
        cache = EmbeddingCache(folder, pipeline.encoder)
        files = read_model_files(files_of, pipeline.encoder.model_id)
        row: dict[str, Any] = {
            "model": pipeline.encoder.name,
            "folder": files_of.name,
            "model_id": pipeline.encoder.model_id,
            "engine": getattr(pipeline.encoder, "engine", None),
            "megabytes": sum(f.stat().st_size for f in files_of.glob("*.safetensors")) / 1e6,
            "dimensions": pipeline.encoder.dim,
            f"ms_per_{SECONDS:g}_s": milliseconds(pipeline.encoder),
            "lists": {},
        }
        for name, trials in lists:
            scored = score_trials(pipeline, trials, audio_root, cache=cache, workers=workers)
            found = analyse(scored, files)
            drawn = _replicates(scored)
            base = first.setdefault(name, drawn)
            keys = ("trials", "eer", "eer_interval", "min_dcf_01", "min_dcf_05", "as_norm")
            row["lists"][name] = {
                **{key: found[key] for key in keys},
                "eer_difference": found["eer"] - (rows[0]["lists"][name]["eer"] if rows else found["eer"]),
                "eer_difference_interval": (
                    None if drawn is None or base is None else list(interval(drawn - base))
                ),
            }
        rows.append(row)
    return rows


def _replicates(scored: Scored) -> Float64Array | None:
    speakers = trial_speakers(scored)
    try:
        if speakers is None:
            return None
        return speaker_replicates(scored.scores, scored.trials.genuine, speakers)[0]
    except RequestError:  # fewer than three speakers
        return None


def milliseconds(encoder: Encoder, repeats: int = 7) -> float:
    """Median time to embed 3 s of speech, one recording at a time, with the threads that torch has."""
    noise = np.random.default_rng(0).normal(scale=0.05, size=round(SECONDS * SAMPLE_RATE)).astype(np.float32)
    encoder.embed([noise])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        encoder.embed([noise])
        times.append(1000.0 * (time.perf_counter() - start))
    return float(np.median(times))


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table with one line per model and list."""
    lines = [
        "| model | MB | ms per 3 s | list | EER | 95 % interval | against the first |"
        " minDCF(0.01) | minDCF(0.05) | EER, AS-norm |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, found in row["lists"].items():
            ends, norm = found["eer_interval"], found["as_norm"]
            normed = "-" if norm is None else f"{100 * norm['eer']:.2f} %"
            between = f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f} %" if ends else "-"
            apart = found["eer_difference_interval"]
            against = f"{100 * found['eer_difference']:+.2f}" + (
                f" ({100 * apart[0]:+.2f} to {100 * apart[1]:+.2f})" if apart else ""
            )
            lines.append(
                f"| {row['model']} ({row['model_id'][:8]}) | {row['megabytes']:.1f} |"
                f" {row[f'ms_per_{SECONDS:g}_s']:.1f} | {name} | {100 * found['eer']:.2f} % | {between} | {against} |"
                f" {found['min_dcf_01']:.3f} | {found['min_dcf_05']:.3f} |"
                f" {normed} |"
            )
    return "\n".join(lines) + "\n"
