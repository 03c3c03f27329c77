"""All that is said of a list of trials: the numbers, the pictures, and the report that holds both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.embedding_cache import EmbeddingCache
from train.evaluate import Scored, measure
from train.evaluate_gallery import enrollment_table, identification_result
from train.evaluate_groups import NO_ERRORS, cost_name, group_table, rates
from train.trials import contradictions
from voicevault.embedding import EmbeddingPipeline
from voicevault.errors import RequestError
from voicevault.scoring.bootstrap import REPLICATES, speaker_intervals
from voicevault.scoring.calibration import cllr, min_cllr
from voicevault.scoring.metrics import (
    CostPoint,
    act_dcf,
    decision_curves,
    equal_error_rate,
    min_dcf_point,
)
from voicevault.scoring.normalise import COHORT_FILE, TOP, Cohort
from voicevault.scoring.policy import Policy
from voicevault.types import Int64Array

STANDARD = (CostPoint(0.01), CostPoint(0.05))
INTERPOLATION = (
    "EER: on the straight line between the two operating points around FMR = FNMR;"
    " interval: percentiles over speakers drawn anew with replacement"
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What lies beside a model's weights: None where there is no such file."""

    policy: Policy | None
    cohort: Cohort | None


def read_model_files(folder: Path, model_id: str) -> ModelFiles:
    """Raises CheckpointError where a file is there, but is broken or of another model."""
    policy, cohort = folder / "policy.json", folder / COHORT_FILE
    return ModelFiles(
        Policy.load(policy, model_id) if policy.is_file() else None,
        Cohort.load(cohort, model_id) if cohort.is_file() else None,
    )


def trial_speakers(scored: Scored) -> Int64Array | None:
    """The speakers of each trial int64 [n, 2]; None where labels contradict them."""
    return None if contradictions(scored.trials) else scored.trials.speaker_codes()


def analyse(
    scored: Scored, files: ModelFiles, points: Sequence[CostPoint] = STANDARD, replicates: int = REPLICATES
) -> dict[str, Any]:
    """Everything that a scored list tells, as JSON values; `measure`'s keys are among them."""
    scores, genuine, speakers = scored.scores, scored.trials.genuine, trial_speakers(scored)
    policy = files.policy
    thresholds = {
        row.name: row.threshold for row in (policy.thresholds if policy else ()) if row.threshold is not None
    }
    result: dict[str, Any] = {**measure(scored), "interpolation": INTERPOLATION, "eer_interval": None}
    ends: Sequence[tuple[float, float] | None] = [None] * len(points)
    try:
        if speakers is None:
            raise RequestError("labels contradict the speakers")
        if result["eer"] == 0.0:
            raise RequestError(NO_ERRORS)
        found = speaker_intervals(scores, genuine, speakers, points=points, replicates=replicates)
        result["eer_interval"], ends = list(found.eer), found.min_dcf
    except RequestError as error:
        result["no_interval"] = error.message
    calibration = policy.calibration if policy else None
    llrs = None if calibration is None else calibration.llr(scores)
    result["costs"] = [
        {
            "name": cost_name(point),
            "p_target": point.p_target,
            "c_miss": point.c_miss,
            "c_fa": point.c_fa,
            "min_dcf": (least := min_dcf_point(scores, genuine, point))[0],
            "threshold": least[1] if np.isfinite(least[1]) else None,
            "interval": None if end is None else list(end),
            "act_dcf": None if llrs is None else act_dcf(llrs, genuine, point),
        }
        for point, end in zip(points, ends, strict=True)
    ]
    result["min_cllr"] = min_cllr(scores, genuine)
    result["cllr"] = None if llrs is None else cllr(llrs, genuine)
    if llrs is None:
        result["no_cllr"] = "the model has no calibration; tune writes one"
    result["optima"] = _optima(scored)
    everything = rates(scores, genuine, None, thresholds)
    result["at_policy_thresholds"] = everything["at"]
    result["at_tuning"] = _at_tuning(policy)
    result["groups"] = group_table(scores, scored.trials, scored.embedded, speakers, thresholds)
    recordings = scored.trials.recordings
    if speakers is not None:
        result["by_enrollments"] = enrollment_table(recordings, scored.embedded, thresholds)
        result["identification"] = identification_result(recordings, scored.embedded)
    result["as_norm"] = _as_norm(scored, files.cohort, speakers, points, replicates)
    return result


def _at_tuning(policy: Policy | None) -> dict[str, Any] | None:
    """See `train.tune_crossfit.cross_fitted`; None for a policy of before it."""
    facts = policy.provenance if policy else {}
    if "cross_fitted" not in facts:
        return None
    return {"speakers_from": str(facts.get("speakers_from")), **facts["cross_fitted"]}


def _optima(scored: Scored) -> dict[str, Any]:
    curves = decision_curves(scored.scores, scored.trials.genuine)
    found = {}
    for name, values in (("f1", curves.f1), ("accuracy", curves.accuracy)):
        best = int(np.argmax(values))
        found[f"best_{name}"] = {
            "threshold": float(curves.thresholds[best]),
            name: float(values[best]),
            "fmr": float(curves.fmr[best]),
            "fnmr": float(curves.fnmr[best]),
            "precision": float(curves.precision[best]),
            "recall": float(curves.recall[best]),
        }
    return found


def _as_norm(
    scored: Scored,
    cohort: Cohort | None,
    speakers: Int64Array | None,
    points: Sequence[CostPoint],
    replicates: int,
) -> dict[str, Any] | None:
    if cohort is None:
        return None
    top, trials = min(TOP, len(cohort.vectors)), scored.trials
    normalised = cohort.normalise(
        scored.scores, scored.embedded.vectors, trials.enroll, trials.test, model_id=cohort.model_id, top=top
    )
    rate, threshold = equal_error_rate(normalised.values, trials.genuine)
    row: dict[str, Any] = {"cohort": len(cohort.vectors), "top": top, "eer": rate, "threshold_z": threshold}
    for point in points:
        row[cost_name(point)] = min_dcf_point(normalised.values, trials.genuine, point)[0]
    if speakers is not None:
        try:
            found = speaker_intervals(normalised.values, trials.genuine, speakers, replicates=replicates)
            row["eer_interval"] = list(found.eer)
        except RequestError as error:
            row["no_interval"] = error.message
    return row


def measure_conditions(
    pipeline: EmbeddingPipeline,
    scored: Scored,
    audio_root: Path,
    most: int,
    noise: Path | None,
    *,
    cache: EmbeddingCache | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """The condition table of (a part of) the list.

    Args:
        most: Recordings at most.
        noise: Folder with recordings of noise; None for synthetic noise.

    Raises:
        ManifestError: The folder holds no recordings.
    """
    from train.conditions import noise_files, sound_conditions
    from train.evaluate_conditions import babble_voices, condition_result, subset

    voices = babble_voices(scored.trials.recordings, audio_root)
    conditions = sound_conditions(noise_files(noise) if noise else (), voices)
    part = subset(scored.trials, most)
    speakers = None if contradictions(part) else part.speaker_codes()
    found = condition_result(pipeline, part, audio_root, conditions, speakers, cache=cache, workers=workers)
    kind = f"noise from {noise.name}" if noise else "synthetic noise with the spectrum of speech"
    return {**found, "backgrounds": f"{kind}, babble of five speakers of the list, simulated rooms"}


def draw(scored: Scored, result: Mapping[str, Any], folder: Path, files: ModelFiles) -> dict[str, Path]:
    """Write the pictures and return their paths by name, in the order of the report."""
    from voicevault.scoring.charts import plot_decisions, plot_matrix, plot_ranks, plot_rates, plot_roc
    from voicevault.scoring.plots import plot_det, plot_histogram

    scores, genuine = scored.scores, scored.trials.genuine
    lines = threshold_lines(files.policy) if files.policy else {}
    pictures = {
        name: folder / f"{name}.png" for name in ("det", "roc", "scores", "decisions", "groups", "ranks")
    }
    plot_det(scores, genuine, pictures["det"])
    plot_roc(scores, genuine, pictures["roc"])
    plot_histogram(scores, genuine, pictures["scores"], "Score distribution", lines)
    plot_decisions(scores, genuine, pictures["decisions"])
    groups = [row for row in result["groups"] if row["eer"] is not None]
    if groups:
        plot_rates(
            [
                f"{_kind(row['kind'])}{row['group']}  ({row['genuine']:,} / {row['impostor']:,})"
                for row in groups
            ],
            [row["eer"] for row in groups],
            [row["eer_interval"] for row in groups],
            pictures["groups"],
            "EER by group",
        )
    else:
        del pictures["groups"]
    if ranks := result.get("identification", {}).get("rank_accuracy"):
        plot_ranks(ranks, pictures["ranks"])
    else:
        del pictures["ranks"]
    if conditions := result.get("conditions"):
        pictures["conditions"], pictures["crossed"] = folder / "conditions.png", folder / "crossed.png"
        shown = [row for row in conditions["rows"] if row["clean_enrollment"]["eer"] is not None]
        lengths = [row for row in conditions["lengths"] if row["eer"] is not None]
        plot_rates(
            [row["condition"] for row in shown] + [f"{row['seconds']:g} s of speech" for row in lengths],
            [row["clean_enrollment"]["eer"] for row in shown] + [row["eer"] for row in lengths],
            [row["clean_enrollment"]["eer_interval"] for row in shown]
            + [row["eer_interval"] for row in lengths],
            pictures["conditions"],
            "EER by condition of the probe, enrollment clean",
        )
        crossed = conditions["matrix"]
        if all(rate is not None for row in crossed["eer"] for rate in row):
            plot_matrix(crossed["names"], crossed["names"], crossed["eer"], pictures["crossed"])
        else:
            del pictures["crossed"]
    return pictures


def _kind(kind: str) -> str:
    """What a group's name does not tell by itself."""
    return {"impostors": "impostors: ", "gender": "gender ", "source": ""}.get(kind, "speech ")


def threshold_lines(policy: Policy) -> dict[str, float]:
    """The thresholds of rates and of the EER, by a name for people."""
    names = {"fmr_10pct": "FMR 10 %", "fmr_1pct": "FMR 1 %", "fmr_0.1pct": "FMR 0.1 %", "eer": "EER"}
    return {
        names[row.name]: row.threshold
        for row in policy.thresholds
        if row.threshold is not None and row.name in names
    }
