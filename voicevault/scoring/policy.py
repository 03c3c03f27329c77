"""Threshold policies: which cosine stands for which false match rate, and how much data says so."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from voicevault.errors import CheckpointError, NoThresholdError, RequestError
from voicevault.scoring.calibration import Calibration
from voicevault.scoring.metrics import CostPoint, check_trials, equal_error_rate, min_dcf_point
from voicevault.types import Threshold

FORMAT = 1
RULE_OF_30 = 30
"""Errors needed before an observed rate is within 30 % of the true one with 90 % confidence (Doddington et
al., 'The NIST speaker recognition evaluation: overview, methodology, systems, results, perspective', Speech
Communication 31, 2000)."""

TARGETS = (("fmr_10pct", 0.1), ("fmr_1pct", 0.01), ("fmr_0.1pct", 0.001))


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One row of the table.

    Attributes:
        name: ``fmr_10pct``, ``fmr_1pct``, ``fmr_0.1pct``, ``eer`` or ``min_dcf_01``, ``min_dcf_05``.
        fmr: The FMR that the row stands for, in [0, 1]: an upper limit for the named rates, the observed
            rate for the others.
        threshold: Cosine in [-1, 1]; None where the trials cannot support the row.
        fnmr: FNMR at the threshold; None where the row or this rate has too few errors behind it.
        impostor_trials: Impostor trials scored.
        genuine_trials: Genuine trials scored.
        speakers: Speakers in the trials.
        reason: Why `threshold` or `fnmr` is None.
    """

    name: str
    fmr: float
    threshold: float | None
    fnmr: float | None
    impostor_trials: int
    genuine_trials: int
    speakers: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """The threshold table of one model.

    Attributes:
        model_id: The model whose scores it was fitted on.
        thresholds: The rows; those with a threshold are supported. A stricter FMR never has a lower
            threshold.
        provenance: Whose scores: data, dates, whatever is needed to judge the table. JSON-serialisable.
        groups: The same rows for trials of one kind, e.g. ``3 enrollments`` or ``2 to 4 s``: what a threshold
            of `thresholds` does not tell.
        calibration: From cosines to log-likelihood ratios; None where it was not fitted.
    """

    model_id: str
    thresholds: tuple[PolicyRow, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, tuple[PolicyRow, ...]] = field(default_factory=dict)
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        for row in chain(self.thresholds, *self.groups.values()):
            if row.threshold is None:
                continue
            if not (0.0 < row.fmr < 1.0 and -1.0 <= row.threshold <= 1.0):
                raise RequestError("A policy row is out of range.", name=row.name)
        supported = self._supported()
        for (_, low), (_, high) in pairwise(supported):
            if high < low:
                raise RequestError("A stricter false match rate has a lower threshold.")

    def _supported(self) -> list[tuple[float, float]]:
        """(fmr, threshold) of the supported rows, loosest first; equal rates by ascending threshold."""
        rows = [(row.fmr, row.threshold) for row in self.thresholds if row.threshold is not None]
        return sorted(rows, key=lambda row: (-row[0], row[1]))

    def threshold_for(self, fmr: float) -> Threshold:
        """The threshold for a false match rate per comparison.

        Between two supported rows the threshold is linear in log(FMR). Beyond the strictest one nothing is
        extrapolated: its threshold comes with source ``policy-limit``, the FMR it does stand for and a note;
        for rates looser than the table the loosest row is used, with a note.

        Raises:
            RequestError: `fmr` is not in (0, 1).
            NoThresholdError: No row is supported.
        """
        if not 0.0 < fmr < 1.0:
            raise RequestError("A false match rate lies between 0 and 1.", fmr=fmr)
        rows = self._supported()
        if not rows:
            raise NoThresholdError(
                "The model's policy has no row that its trials support; give a threshold.",
                model_id=self.model_id,
            )
        loosest, strictest = rows[0], rows[-1]
        if fmr < strictest[0]:
            note = (
                f"The table supports FMR {strictest[0]:g} at the strictest, not {fmr:g}: "
                "false matches are likelier than asked for."
            )
            return Threshold(strictest[1], "policy-limit", strictest[0], fmr, note)
        if fmr > loosest[0]:
            note = f"The table starts at FMR {loosest[0]:g}: stricter than the {fmr:g} asked for."
            return Threshold(loosest[1], "policy", loosest[0], fmr, note)
        # np.interp wants ascending abscissas.
        value = np.interp(math.log(fmr), [math.log(r[0]) for r in rows[::-1]], [r[1] for r in rows[::-1]])
        return Threshold(float(value), "policy", fmr, fmr)

    def save(self, path: str | Path) -> None:
        """Write policy.json, whole or not at all."""
        document = {
            "format": FORMAT,
            "model_id": self.model_id,
            "score": "cosine",
            "provenance": dict(self.provenance),
            "thresholds": [asdict(row) for row in self.thresholds],
            "groups": {name: [asdict(row) for row in rows] for name, rows in self.groups.items()},
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }
        target = Path(path)
        aside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        aside.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(aside, target)

    @classmethod
    def load(cls, path: str | Path, model_id: str | None = None) -> Policy:
        """Read policy.json; with `model_id`, only one of that model.

        Raises:
            CheckpointError: Unreadable, not of this format, out of range, or of another model.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            if document["format"] != FORMAT or document["score"] != "cosine":
                raise CheckpointError(
                    "The threshold policy has a format that this release does not read.", path=str(path)
                )
            groups = dict(document.get("groups") or {})
            calibration = document.get("calibration")
            policy = cls(
                str(document["model_id"]),
                _rows(document["thresholds"]),
                dict(document["provenance"]),
                {str(name): _rows(rows) for name, rows in groups.items()},
                None if calibration is None else Calibration(**calibration),
            )
        except (OSError, ValueError, KeyError, TypeError, RequestError) as error:
            raise CheckpointError(f"The threshold policy cannot be used: {error}", path=str(path)) from error
        if model_id is not None and policy.model_id != model_id:
            raise CheckpointError(
                "The threshold policy belongs to another model.", policy=policy.model_id, model=model_id
            )
        return policy


def _rows(rows: Sequence[Mapping[str, Any]]) -> tuple[PolicyRow, ...]:
    return tuple(PolicyRow(**_checked(row)) for row in rows)


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as it is, if its values have the types of PolicyRow. JSON knows true and NaN where numbers
    belong."""
    values = dict(row)
    for name in ("fmr", "threshold", "fnmr"):
        value = values[name]
        if value is None and name != "fmr":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is not a number")
        values[name] = float(value)
    for name in ("impostor_trials", "genuine_trials", "speakers"):
        if isinstance(values[name], bool) or not isinstance(values[name], int):
            raise TypeError(f"{name} is not a count")
    return values


def operating_points(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    targets: Sequence[tuple[str, float]] = TARGETS,
    costs: Sequence[tuple[str, CostPoint]] = (),
) -> list[tuple[str, float, float | None]]:
    """Name, FMR and threshold of the target rates, the EER and the least costs, however little data there is: the threshold
    is the lowest observed score whose FMR does not exceed the row's, and None where no score lies above the impostors'.

    Args:
        scores: [n] cosines.
        labels: [n], 1 for genuine.
        targets, costs: See `fit_thresholds`.

    Raises:
        RequestError: See `metrics.check_trials`.
    """
    values, genuine = check_trials(scores, labels)
    impostors = np.sort(values[~genuine])
    rates = [*targets, ("eer", equal_error_rate(values, genuine)[0])]
    for name, cost in costs:
        rates.append((name, float((impostors >= min_dcf_point(values, genuine, cost)[1]).mean())))
    points: list[tuple[str, float, float | None]] = []
    for name, fmr in rates:
        allowed = math.floor(fmr * len(impostors) + 1e-9)
        # Above the score that would be one false match too many; the lowest observed score there, or nothing.
        bar = impostors[len(impostors) - 1 - allowed] if allowed < len(impostors) else -np.inf
        above = values[values > bar]
        points.append((name, fmr, float(above.min()) if len(above) else None))
    return points


def fit_thresholds(
    scores: ArrayLike,
    labels: ArrayLike,
    speaker_pairs: Sequence[tuple[str, str]],
    *,
    targets: Sequence[tuple[str, float]] = TARGETS,
    costs: Sequence[tuple[str, CostPoint]] = (),
) -> tuple[PolicyRow, ...]:
    """Rows for the target rates, the EER point and the minima of costs, each the lowest observed score whose
    FMR does not exceed the row's.

    A rate is supported by 30 errors from distinct pairs of speakers: trials of the same two people (for
    genuine trials: of the same person) rise and fall together, and thirty of them say little more than one.
    An FMR row needs that of its false matches; its FNMR, and the EER row, of the false non-matches too.

    Args:
        scores: [n] cosines in [-1, 1].
        labels: [n], 1 for genuine.
        speaker_pairs: [n] speakers of each trial, in either order; equal for genuine trials.
        targets: (name, FMR) of the rows before ``eer``.
        costs: (name, cost) of the rows after it, whose FMR is the one observed where the cost is least.

    Raises:
        RequestError: Pairs that contradict the labels, scores beyond [-1, 1]; and see `metrics.check_trials`.
    """
    values, genuine = check_trials(scores, labels)
    if np.abs(values).max() > 1.0 + 1e-4:
        raise RequestError("Cosines lie between -1 and 1.", largest=float(np.abs(values).max()))
    values = np.clip(values, -1.0, 1.0)  # float32 rounding passes 1 by a little
    if len(speaker_pairs) != len(values):
        raise RequestError("There must be one pair of speakers per trial.", pairs=len(speaker_pairs))
    names, codes = np.unique(np.asarray(speaker_pairs, dtype=np.str_).ravel(), return_inverse=True)
    pairs = np.sort(codes.reshape(-1, 2).astype(np.int64), axis=1)
    if not np.array_equal(pairs[:, 0] == pairs[:, 1], genuine):
        raise RequestError("Genuine trials must be of one speaker and impostor trials of two.")
    units = pairs[:, 0] * len(names) + pairs[:, 1]

    def row(name: str, fmr: float, threshold: float | None, both: bool) -> PolicyRow:
        counts = (int((~genuine).sum()), int(genuine.sum()), len(names))
        if threshold is None:
            return PolicyRow(name, fmr, None, None, *counts, reason="no score lies above the impostors'")
        accepted = values >= threshold
        false_matches = len(np.unique(units[accepted & ~genuine]))
        misses = len(np.unique(units[~accepted & genuine]))
        fnmr = float((~accepted & genuine).sum() / counts[1])
        few_misses = (
            f"{misses} speakers with false non-matches, {RULE_OF_30} needed" if misses < RULE_OF_30 else None
        )
        if false_matches < RULE_OF_30:
            reason = f"{false_matches} speaker pairs with false matches, {RULE_OF_30} needed"
            return PolicyRow(name, fmr, None, None, *counts, reason=reason)
        if both and few_misses:
            return PolicyRow(name, fmr, None, None, *counts, reason=few_misses)
        return PolicyRow(
            name,
            fmr,
            threshold,
            None if few_misses else fnmr,
            *counts,
            reason=f"FNMR left open: {few_misses}" if few_misses else None,
        )

    wanted = {name for name, _ in targets}
    points = operating_points(values, genuine, targets=targets, costs=costs)
    return tuple(row(*point, both=point[0] not in wanted) for point in points)
