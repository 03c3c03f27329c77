"""Thresholds of a refit, which heard everybody: those of a training by the same recipe that kept speakers out.

Scores of people whom a model was trained on are better than anybody else's, so a refit cannot set its own thresholds. In a
cross-fitting each fold is scored by a model that did not hear it; here there is one fold, the speakers that the recipe was chosen
on, and one such model, the stand-in. That people score alike with both is taken for granted, and measured on the speakers whom
both heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from train.embedding_cache import EmbeddingCache
from train.evaluate import Scored, score_pairs
from train.trials import Recording
from train.tune import Tuned, build_cohort
from voicevault.embedding import EmbeddingPipeline
from voicevault.errors import RequestError
from voicevault.scoring.policy import PolicyRow


def lend(
    tuned: Tuned,
    stand_in: tuple[EmbeddingPipeline, EmbeddingCache],
    refit: tuple[EmbeddingPipeline, EmbeddingCache],
    heard: Sequence[Recording],
    root: Path,
    *,
    within: Sequence[str] = ("source",),
    workers: int | None = None,
) -> Tuned:
    """The policy of a stand-in as that of the refit, with a cohort of the refit's own.

    Args:
        tuned: The stand-in's, on the speakers it did not hear (`train.tune.tune_recordings`), with its cohort.
        stand_in, refit: The two models, and where their embeddings are kept.
        heard: The recordings of that cohort: of speakers whom both models were trained on.
        root: Folder that their paths start from.
        within: What the two of a different-speaker pair must share.

    Returns:
        Its provenance has ``scores_of``, the stand-in's model_id, and ``lent``, the rates of both on `heard` (`both_rates`).

    Raises:
        RequestError: There is no cohort, or the two can use different recordings.
        AudioNotFoundError, ManifestError: See `train.evaluate.score_pairs`.
    """
    if tuned.cohort is None:
        raise RequestError("A stand-in is compared with the refit on the cohort: ask for one.")
    own, other = (
        score_pairs(pipeline, heard, root, within=within, cache=cache, workers=workers)[0]
        for pipeline, cache in (refit, stand_in)
    )
    model_id = refit[0].encoder.model_id
    facts = {
        **tuned.policy.provenance,
        "scores_of": tuned.policy.model_id,
        "lent": both_rates(own, other, tuned.policy.thresholds),
    }
    cohort = build_cohort(own.trials.recordings, own.embedded, model_id, tuned.cohort.description)
    return Tuned(replace(tuned.policy, model_id=model_id, provenance=facts), tuned.scored, cohort)


def both_rates(refit: Scored, stand_in: Scored, rows: Sequence[PolicyRow]) -> dict[str, Any]:
    """FMR and FNMR of both models at the thresholds of the stand-in, on the same trials of speakers whom both heard.

    Those of people who were not trained on are others; what tells is the difference. Where the refit's FMR is far from the
    stand-in's, the thresholds do not fit it.
    """
    genuine = refit.trials.genuine
    if not np.array_equal(genuine, stand_in.trials.genuine):
        raise RequestError("The two models can use different recordings.")

    def rates(threshold: float) -> dict[str, float]:
        return {
            "threshold": threshold,
            "fmr": float((refit.scores[~genuine] >= threshold).mean()),
            "fmr_stand_in": float((stand_in.scores[~genuine] >= threshold).mean()),
            "fnmr": float((refit.scores[genuine] < threshold).mean()),
            "fnmr_stand_in": float((stand_in.scores[genuine] < threshold).mean()),
        }

    return {
        "speakers": len({recording.speaker for recording in refit.trials.recordings}),
        "genuine_trials": int(genuine.sum()),
        "impostor_trials": int((~genuine).sum()),
        "rows": {row.name: rates(row.threshold) for row in rows if row.threshold is not None},
    }
