"""Adaptive symmetric score normalisation against a cohort of other speakers.

Normalised scores are z-scores, a type of their own: no threshold for cosines fits them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voicevault.errors import CheckpointError, ModelMismatchError, RequestError
from voicevault.scoring.metrics import Float64Array
from voicevault.types import Float32Array, Int64Array

COHORT_FILE = "cohort.safetensors"
TOP = 100
"""Cohort speakers nearest to each side that its statistics are taken from."""


@dataclass(frozen=True, slots=True, eq=False)
class ZScores:
    """Normalised scores.

    Attributes:
        values: float64 [n], in standard deviations above the nearest cohort speakers' mean.
        model_id, cohort: The model and the number of cohort speakers behind them.
    """

    values: Float64Array
    model_id: str
    cohort: int


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Speakers that are in no trial: one unit vector each.

    Attributes:
        vectors: float32 [c, d], unit rows.
        model_id: The model they are embedded with.
        description: Whose they are.
    """

    vectors: Float32Array
    model_id: str
    description: str = ""

    def __post_init__(self) -> None:
        good = self.vectors.ndim == 2 and len(self.vectors) > 1 and np.isfinite(self.vectors).all()
        if not good or np.abs(np.linalg.norm(self.vectors, axis=1) - 1.0).max() > 1e-3:
            raise RequestError("A cohort needs two unit vectors or more.", shape=list(self.vectors.shape))

    def statistics(self, vectors: Float32Array, top: int = TOP) -> tuple[Float64Array, Float64Array]:
        """Mean and standard deviation float64 [n] of the cosines of `vectors` float32 [n, d] with their `top`
        nearest cohort speakers.

        Raises:
            RequestError: `top` is below 2, or the cohort is smaller.
            ModelMismatchError: The dimensions differ.
        """
        if not 2 <= top <= len(self.vectors):
            raise RequestError(f"The cohort has {len(self.vectors)} speakers, not {top}.", top=top)
        if vectors.shape[1] != self.vectors.shape[1]:
            raise ModelMismatchError("The cohort was embedded with another model.", model=self.model_id)
        cosines = (vectors @ self.vectors.T).astype(np.float64)
        nearest = np.partition(cosines, -top, axis=1)[:, -top:]
        return nearest.mean(axis=1), nearest.std(axis=1)

    def normalise(
        self,
        scores: Float64Array,
        vectors: Float32Array,
        enroll: Int64Array,
        test: Int64Array,
        *,
        model_id: str,
        top: int = TOP,
    ) -> ZScores:
        """AS-norm: ``((s - mean_e) / std_e + (s - mean_t) / std_t) / 2``, each side's statistics over its
        nearest cohort speakers (Matějka et al., 'Analysis of score normalization in multilingual speaker
        recognition', Interspeech 2017, 'adaptive S-norm 1').

        Args:
            scores: float64 [n] cosines.
            vectors: float32 [m, d] unit rows.
            enroll, test: int64 [n], the rows of each trial.
            model_id: The model that made `vectors`.
            top: Cohort speakers per side.

        Raises:
            ModelMismatchError: The cohort is of another model.
            RequestError: See `statistics`; or a side is equally far from all of them.
        """
        if model_id != self.model_id:
            raise ModelMismatchError(
                "The cohort belongs to another model.", cohort=self.model_id, model=model_id
            )
        mean, deviation = self.statistics(vectors, top)
        if not (deviation[enroll] > 0.0).all() or not (deviation[test] > 0.0).all():
            raise RequestError("A recording is equally far from all of the cohort: it cannot be normalised.")
        both = (scores - mean[enroll]) / deviation[enroll] + (scores - mean[test]) / deviation[test]
        return ZScores(both / 2.0, model_id, len(self.vectors))

    def save(self, path: str | Path) -> None:
        """Write cohort.safetensors, whole or not at all."""
        from safetensors.numpy import save

        facts = {"format": "1", "model_id": self.model_id, "description": self.description}
        target = Path(path)
        aside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        aside.write_bytes(save({"vectors": np.ascontiguousarray(self.vectors)}, metadata=facts))
        os.replace(aside, target)

    @classmethod
    def load(cls, path: str | Path, model_id: str | None = None) -> Cohort:
        """Read cohort.safetensors; with `model_id`, only one of that model.

        Raises:
            CheckpointError: Unreadable, not of this format, or of another model.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            data = Path(path).read_bytes()
            facts = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
            vectors: NDArray[np.float32] = load(data)["vectors"].astype(np.float32)
            if facts["format"] != "1":
                raise ValueError(f"format {facts['format']}")
            cohort = cls(vectors, str(facts["model_id"]), str(facts.get("description", "")))
        except (OSError, ValueError, KeyError, SafetensorError, RequestError) as error:
            raise CheckpointError(f"The cohort {path} cannot be used: {error}.", path=str(path)) from error
        if model_id is not None and cohort.model_id != model_id:
            raise CheckpointError(
                "The cohort belongs to another model.", cohort=cohort.model_id, model=model_id
            )
        return cohort
