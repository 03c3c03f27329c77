"""From scores to the files of a model that decisions rest on: thresholds, calibration and cohort.

The trials come from speakers outside both training and evaluation: a training's own validation split, or a
manifest of other people. The cohort's speakers may be of the training.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import voicevault
from train.embedding_cache import EmbeddingCache
from train.evaluate import Scored, score_pairs
from train.evaluate_embed import Embedded, embed_recordings
from train.evaluate_gallery import COUNTS, build_gallery
from train.evaluate_groups import duration_bins, duration_names
from train.trials import Recording, stated
from train.tune_crossfit import cross_fitted
from voicevault.embedding import EmbeddingPipeline
from voicevault.errors import RequestError
from voicevault.scoring.calibration import Calibration, cllr, fit_calibration, min_cllr
from voicevault.scoring.metrics import CostPoint, equal_error_rate
from voicevault.scoring.normalise import COHORT_FILE, TOP, Cohort
from voicevault.scoring.policy import Policy, PolicyRow, fit_thresholds

POLICY_FILE = "policy.json"
COSTS = (("min_dcf_01", CostPoint(0.01)), ("min_dcf_05", CostPoint(0.05)))
PRIOR = 0.05
"""Of a genuine trial, where nobody names another."""
Scores = NDArray[np.float64]
Labels = NDArray[np.bool_]
Pairs = Sequence[tuple[str, str]]


def fit_policy(
    model_id: str,
    scores: Scores,
    genuine: Labels,
    pairs: Pairs,
    *,
    provenance: Mapping[str, Any],
    groups: Mapping[str, tuple[PolicyRow, ...]] | None = None,
    prior: float = PRIOR,
) -> Policy:
    """The threshold table and the calibration of scored trials.

    Args:
        model_id: The model that made the scores.
        scores: float64 [n] cosines.
        genuine: bool [n].
        pairs: [n] the two speakers of each trial.
        provenance: Whose scores these are; counts, date and the worth of calibration and thresholds are added.
        groups: See `group_rows`.
        prior: Of a genuine trial: what the calibration is weighted for.

    Raises:
        RequestError: See `voicevault.scoring.policy.fit_thresholds`.
    """
    calibration, worth = calibrate(scores, genuine, pairs, prior)
    rows = fit_thresholds(scores, genuine, pairs, costs=COSTS)
    facts = {
        **provenance,
        "trials": len(genuine),
        "genuine_trials": int(genuine.sum()),
        "impostor_trials": int((~genuine).sum()),
        "speakers": len({speaker for pair in pairs for speaker in pair}),
        "calibration": worth,
        "cross_fitted": cross_fitted(scores, genuine, pairs, rows, costs=COSTS),
        "fitted": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "voicevault": voicevault.__version__,
    }
    return Policy(model_id, rows, facts, dict(groups or {}), calibration)


def describe(recordings: Sequence[Recording], embedded: Embedded) -> dict[str, Any]:
    """Counts and a hash of the recordings behind a policy."""
    listing = "\n".join(sorted(f"{r.name}\t{r.speaker}" for r in recordings))
    sources = Counter(source for _, source in {(r.speaker, r.source) for r in recordings})
    return {
        "recordings": len(recordings),
        "embedded_whole": embedded.whole,
        "speakers_by_source": dict(sorted(sources.items())),
        "recordings_sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def group_rows(scored: Scored) -> dict[str, tuple[PolicyRow, ...]]:
    """Threshold rows by seconds of speech and by number of enrollments; groups without both kinds of trials
    are left out."""
    rows: dict[str, tuple[PolicyRow, ...]] = {}
    trials = scored.trials
    pairs = np.array(trials.speaker_pairs(), dtype=np.str_)
    bins = duration_bins(trials, scored.embedded)
    for i, name in enumerate(duration_names()):
        chosen = bins == i
        if 0 < trials.genuine[chosen].sum() < chosen.sum():
            rows[f"speech {name}"] = fit_thresholds(
                scored.scores[chosen], trials.genuine[chosen], _pairs(pairs[chosen]), costs=COSTS
            )
    for count in COUNTS:
        gallery = build_gallery(trials.recordings, scored.embedded, enrollments=count, reserve=max(COUNTS))
        if gallery is None:
            continue
        scores, genuine, speakers = gallery.pairs()
        if 0 < genuine.sum() < len(genuine):
            name = "1 enrollment" if count == 1 else f"{count} enrollments"
            rows[name] = fit_thresholds(scores, genuine, _pairs(speakers.astype(np.str_)), costs=COSTS)
    return rows


def _pairs(pairs: NDArray[np.str_]) -> list[tuple[str, str]]:
    return [(str(first), str(second)) for first, second in pairs]


def calibrate(
    scores: Scores, genuine: Labels, pairs: Pairs, prior: float = PRIOR
) -> tuple[Calibration | None, dict[str, Any]]:
    """The calibration on all trials, and its worth: Cllr before and after on speakers that it was not fitted on.

    The speakers are parted in two halves; what is fitted on the trials inside one is measured inside the
    other, and the two results are averaged.

    Returns:
        None with the reason, where the trials allow no calibration.
    """
    try:
        calibration = fit_calibration(scores, genuine, p_target=prior)
    except RequestError as error:
        return None, {"reason": error.message}
    worth: dict[str, Any] = {"prior": prior}
    half = {speaker: _half(speaker) for pair in pairs for speaker in pair}
    sides = np.array([[half[first], half[second]] for first, second in pairs])
    before, after, least = [], [], []
    for fitted_on in (0, 1):
        inside, outside = (np.all(sides == side, axis=1) for side in (fitted_on, 1 - fitted_on))
        try:
            fit = fit_calibration(scores[inside], genuine[inside], p_target=prior)
            before.append(cllr(scores[outside], genuine[outside]))
            after.append(cllr(fit.llr(scores[outside]), genuine[outside]))
            least.append(min_cllr(scores[outside], genuine[outside]))
        except RequestError as error:
            return calibration, {**worth, "reason": f"not measured on held-out speakers: {error.message}"}
    return calibration, {
        **worth,
        "held_out_cllr_before": float(np.mean(before)),
        "held_out_cllr_after": float(np.mean(after)),
        "held_out_min_cllr": float(np.mean(least)),
    }


def _half(speaker: str) -> int:
    return hashlib.sha256(speaker.encode()).digest()[0] % 2


def build_cohort(recordings: Sequence[Recording], embedded: Embedded, model_id: str, whose: str) -> Cohort:
    """One unit vector per speaker: the normalised mean of what is there of them.

    Raises:
        RequestError: Fewer than two speakers.
    """
    sums: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(embedded.vectors.shape[1]))
    for i, recording in enumerate(recordings):
        if i not in embedded.failures:
            sums[recording.speaker] += embedded.vectors[i]
    rows = [total / np.linalg.norm(total) for _, total in sorted(sums.items())]
    vectors = np.array(rows, dtype=np.float32).reshape(len(rows), -1)
    return Cohort(vectors, model_id, whose)


def normalised_rates(scored: Scored, cohort: Cohort, model_id: str) -> dict[str, Any]:
    """EER of the trials as cosines and after AS-norm with the cohort."""
    top, trials = min(TOP, len(cohort.vectors)), scored.trials
    z = cohort.normalise(
        scored.scores, scored.embedded.vectors, trials.enroll, trials.test, model_id=model_id, top=top
    )
    return {
        "cohort": len(cohort.vectors),
        "top": top,
        "eer_cosine": equal_error_rate(scored.scores, trials.genuine)[0],
        "eer_as_norm": equal_error_rate(z.values, trials.genuine)[0],
    }


def save_policy(policy: Policy, folder: Path) -> None:
    """Write ``policy.json`` into a model's folder.

    Raises:
        RequestError: There is one with thresholds, and the new one has none.
        CheckpointError: There is one that cannot be read, or that is of another model.
    """
    path = folder / POLICY_FILE
    if not _supported(policy) and path.is_file() and _supported(Policy.load(path, policy.model_id)):
        raise RequestError(
            "These trials support no threshold, and the model has some: they are kept."
            " A threshold takes about 25 speakers at FMR 10 %, 80 at 1 % and 250 at 0.1 %.",
            speakers=policy.provenance.get("speakers"),
        )
    policy.save(path)


def _supported(policy: Policy) -> bool:
    return any(row.threshold is not None for row in policy.thresholds)


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What `tune_recordings` found: the policy, the trials behind it, and the cohort where one was asked for."""

    policy: Policy
    scored: Scored
    cohort: Cohort | None

    def save(self, folder: Path) -> None:
        """Write ``policy.json`` and ``cohort.safetensors`` into a model's folder; see `save_policy`."""
        save_policy(self.policy, folder)
        if self.cohort is not None:
            self.cohort.save(folder / COHORT_FILE)


def tune_recordings(
    pipeline: EmbeddingPipeline,
    recordings: Sequence[Recording],
    audio_root: Path,
    *,
    provenance: Mapping[str, Any],
    within: Sequence[str] = ("source",),
    prior: float = PRIOR,
    cohort_recordings: Sequence[Recording] = (),
    cohort_root: Path | None = None,
    cohort_name: str = "training speakers",
    cache: EmbeddingCache | None = None,
    workers: int | None = None,
) -> Tuned:
    """Policy and cohort of a model, from the recordings of people that it was not trained on.

    Args:
        audio_root: Folder that the paths of `recordings` start from.
        provenance: Whose recordings these are.
        within: What the two of a different-speaker pair must share.
        prior: Of a genuine trial; see `fit_policy`.
        cohort_recordings: See `train.tune_speakers.draw_cohort`; none for no cohort.
        cohort_root: Folder that their paths start from; by default `audio_root`.
        cohort_name: Whose they are.
        cache: Where embeddings are looked up and kept.
        workers: See `train.evaluate_embed.embed_recordings`.

    Raises:
        AudioNotFoundError: A recording is missing.
        ManifestError: There is no pair of one speaker, or none of two.
        RequestError: A speaker is in the trials and in the cohort.
    """
    both = {r.speaker for r in recordings} & {r.speaker for r in cohort_recordings}
    if both:
        raise RequestError(
            f"{len(both)} speakers are in the trials and in the cohort.", speakers=sorted(both)[:20]
        )
    model_id = pipeline.encoder.model_id
    scored, skipped = score_pairs(
        pipeline, recordings, audio_root, within=within, cache=cache, workers=workers
    )
    facts = {
        **provenance,
        "engine": getattr(pipeline.encoder, "engine", None),
        "impostors_share": stated(recordings, within),
        "skipped_recordings": skipped,
        **describe(scored.trials.recordings, scored.embedded),
    }
    cohort = None
    if cohort_recordings:
        heard = embed_recordings(
            pipeline,
            cohort_recordings,
            cohort_root or audio_root,
            cache=cache,
            workers=workers,
            description="cohort",
        )
        speakers = len({recording.speaker for recording in cohort_recordings})
        cohort = build_cohort(cohort_recordings, heard, model_id, f"{speakers} {cohort_name}")
        facts["as_norm"] = normalised_rates(scored, cohort, model_id)
    policy = fit_policy(
        model_id,
        scored.scores,
        scored.trials.genuine,
        scored.trials.speaker_pairs(),
        provenance=facts,
        groups=group_rows(scored),
        prior=prior,
    )
    return Tuned(policy, scored, cohort)
