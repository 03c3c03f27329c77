"""How well a model tells speakers apart on a list of trials."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.embedding_cache import EmbeddingCache
from train.evaluate_embed import Embedded, embed_recordings
from train.trials import Recording, Trials, all_pairs, contradictions
from voicevault.embedding import EmbeddingPipeline
from voicevault.errors import ManifestError
from voicevault.scoring.metrics import equal_error_rate, min_dcf

SCORES_FILE = "scores.tsv"
RESULT_FILE = "result.json"
_COLUMNS = ("label", "score", "enroll", "test", "enroll_speaker", "test_speaker")


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Trials with their scores.

    Attributes:
        scores: float64 [n], cosines.
        embedded: The recordings' embeddings, in the order of `trials.recordings`.
    """

    trials: Trials
    scores: NDArray[np.float64]
    embedded: Embedded


def score_trials(
    pipeline: EmbeddingPipeline,
    trials: Trials,
    audio_root: Path,
    *,
    cache: EmbeddingCache | None = None,
    workers: int | None = None,
) -> Scored:
    """Embed every recording of the trials and take the cosine of each trial. No trial is dropped.

    Raises:
        AudioError: A recording is missing or cannot be decoded.
    """
    embedded = embed_recordings(pipeline, trials.recordings, audio_root, cache=cache, workers=workers)
    embedded.require_all(trials.recordings)
    return Scored(trials, cosines(embedded.vectors, trials), embedded)


def score_pairs(
    pipeline: EmbeddingPipeline,
    recordings: Sequence[Recording],
    audio_root: Path,
    *,
    within: Collection[str] = (),
    cache: EmbeddingCache | None = None,
    workers: int | None = None,
) -> tuple[Scored, list[str]]:
    """All pairs of the recordings (`train.trials.all_pairs`), and why some recordings are not among them.

    Raises:
        AudioNotFoundError: A recording is missing.
        ManifestError: There is no pair of one speaker, or none of two.
    """
    embedded = embed_recordings(pipeline, recordings, audio_root, cache=cache, workers=workers)
    skipped = [f"{recordings[i].name}: {error.message}" for i, error in embedded.failures.items()]
    used = [i for i in range(len(recordings)) if i not in embedded.failures]
    embedded = embedded.chosen(used)
    trials = all_pairs([recordings[i] for i in used], embedded.audio_sha256, within)
    return Scored(trials, cosines(embedded.vectors, trials), embedded), skipped


def cosines(vectors: NDArray[np.float32], trials: Trials) -> NDArray[np.float64]:
    """float64 [n] in [-1, 1] of unit rows [recordings, d]."""
    return cosines_between(vectors, vectors, trials)


def cosines_between(
    enroll: NDArray[np.float32], test: NDArray[np.float32], trials: Trials
) -> NDArray[np.float64]:
    """float64 [n]: `cosines` where the two sides of a trial were embedded under two conditions."""
    scores = np.empty(len(trials), dtype=np.float64)
    for start in range(0, len(trials), 65_536):  # bounds the memory of long lists
        part = slice(start, start + 65_536)
        sides = enroll[trials.enroll[part]], test[trials.test[part]]
        scores[part] = np.einsum("ij,ij->i", *sides, dtype=np.float64)
    return np.clip(scores, -1.0, 1.0)


def measure(scored: Scored) -> dict[str, Any]:
    """The numbers of a trial list, as JSON values; rates are fractions."""
    scores, genuine, trials = scored.scores, scored.trials.genuine, scored.trials
    rate, threshold = equal_error_rate(scores, genuine)
    return {
        "trials": len(trials),
        "genuine": int(genuine.sum()),
        "impostor": int((~genuine).sum()),
        "recordings": len(trials.recordings),
        "speakers": len(set(trials.column("speaker").tolist())),
        "embedded_whole": scored.embedded.whole,
        "self_trials": int((trials.enroll == trials.test).sum()),
        "contradictory_labels": contradictions(trials),
        "eer": rate,
        "eer_threshold": threshold,
        "min_dcf_01": min_dcf(scores, genuine, p_target=0.01),
        "min_dcf_05": min_dcf(scores, genuine, p_target=0.05),
    }


def write_scores(path: Path, scored: Scored, model_id: str) -> None:
    """One line per trial under a header: label, score, the two recordings and their speakers; the first line
    says whose scores they are."""
    trials = scored.trials
    names = [recording.name for recording in trials.recordings]
    speakers = [recording.speaker for recording in trials.recordings]
    columns = (trials.genuine.tolist(), scored.scores.tolist(), trials.enroll.tolist(), trials.test.tolist())
    with path.open("w", encoding="utf-8") as file:
        file.write(f"# cosines of model {model_id}\n")
        file.write("\t".join(_COLUMNS) + "\n")
        for genuine, score, a, b in zip(*columns, strict=True):
            file.write(f"{int(genuine)}\t{score:.8g}\t{names[a]}\t{names[b]}\t{speakers[a]}\t{speakers[b]}\n")


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_scores(path: Path) -> tuple[str, NDArray[np.float64], NDArray[np.bool_], list[tuple[str, str]]]:
    """What `write_scores` wrote: model_id, scores [n], genuine [n] and the speakers of each trial.

    Raises:
        ManifestError: It is another kind of file; with the line where there is one.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"The scores {path} cannot be read: {error}.", path=str(path)) from error
    whose = lines[0].removeprefix("# cosines of model ") if lines else ""
    if len(lines) < 3 or whose == lines[0] or lines[1].split("\t") != list(_COLUMNS):
        raise ManifestError(f"{path} is no scores file of evaluate.", path=str(path))
    scores, genuine, pairs = [], [], []
    for number, line in enumerate(lines[2:], start=3):
        try:
            label, score, _, _, first, second = line.split("\t")
            scores.append(float(score))
            genuine.append(bool(int(label)))
        except ValueError as error:
            raise ManifestError(f"{path}, line {number}: {error}.", path=str(path), line=number) from error
        pairs.append((first, second))
    return whose, np.array(scores, dtype=np.float64), np.array(genuine, dtype=np.bool_), pairs
