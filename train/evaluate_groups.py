"""The same trials seen apart: by source, gender and duration, and by how hard their impostors are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.corpus import UNKNOWN
from train.evaluate_embed import Embedded
from train.trials import Trials
from voicevault.errors import RequestError
from voicevault.scoring.bootstrap import speaker_intervals
from voicevault.scoring.metrics import CostPoint, equal_error_rate, error_rates, min_dcf
from voicevault.types import Int64Array

DURATION_EDGES = (0.0, 1.0, 2.0, 4.0, 8.0, float("inf"))
"""Seconds of net speech in the shorter recording of a trial."""
POINTS = (CostPoint(0.01), CostPoint(0.05))
NO_ERRORS = "no error among these trials, so none in any draw of their speakers: more speakers are needed"
Mask = NDArray[np.bool_]


def duration_names() -> list[str]:
    """Names of the bins between `DURATION_EDGES`."""
    last = len(DURATION_EDGES) - 2
    return [
        f"{low:g} s and more" if i == last else f"{low:g} to {DURATION_EDGES[i + 1]:g} s"
        for i, low in enumerate(DURATION_EDGES[:-1])
    ]


def duration_bins(trials: Trials, embedded: Embedded) -> Int64Array:
    """The bin of each trial int64 [n]."""
    shorter = np.minimum(embedded.speech_seconds[trials.enroll], embedded.speech_seconds[trials.test])
    return np.asarray(np.searchsorted(DURATION_EDGES, shorter, side="right") - 1, dtype=np.int64)


def group_masks(trials: Trials, embedded: Embedded) -> Iterator[tuple[str, str, Mask]]:
    """(kind, name, bool [n]) of each group of trials that has more than one value to tell apart."""
    everything = np.ones(len(trials), dtype=np.bool_)
    source, gender = trials.column("source"), trials.column("gender")
    same_source = _shared(source, trials)
    same_gender = _shared(gender, trials)
    several_sources = len(set(source.tolist()) - {UNKNOWN}) > 1
    several_genders = len(set(gender.tolist()) - {UNKNOWN}) > 1
    if several_sources or several_genders:
        yield "impostors", "all", everything
    if several_sources:
        yield "impostors", "same source", trials.genuine | same_source
    if several_genders:
        yield "impostors", "same gender", trials.genuine | same_gender
    if several_sources and several_genders:
        yield "impostors", "same source and gender", trials.genuine | (same_source & same_gender)
    for kind, column, several in (("source", source, several_sources), ("gender", gender, several_genders)):
        for name in sorted(set(column.tolist()) - {UNKNOWN}) if several else ():
            yield kind, name, (column[trials.enroll] == name) & (column[trials.test] == name)
    bins = duration_bins(trials, embedded)
    for i, name in enumerate(duration_names()):
        yield "speech in the shorter recording", name, bins == i


def _shared(column: NDArray[np.str_], trials: Trials) -> Mask:
    first, second = column[trials.enroll], column[trials.test]
    return np.asarray((first == second) & (first != UNKNOWN), dtype=np.bool_)


def rates(
    scores: NDArray[np.float64],
    genuine: Mask,
    speakers: Int64Array | None,
    thresholds: Mapping[str, float] | None = None,
    replicates: int = 200,
) -> dict[str, Any]:
    """Counts, EER with its interval, minDCF at `POINTS`, and both errors at each named threshold.

    Args:
        scores: [n].
        genuine: [n].
        speakers: int64 [n, 2], or None where labels and speakers disagree.
        thresholds: Name to threshold.
        replicates: Of the bootstrap.

    Returns:
        JSON values; where one kind of trials is missing, the counts and the reason alone.
    """
    row: dict[str, Any] = {
        "trials": len(genuine),
        "genuine": int(genuine.sum()),
        "impostor": int((~genuine).sum()),
        "speakers": len(np.unique(speakers)) if speakers is not None else None,
    }
    if not row["genuine"] or not row["impostor"]:
        missing = "genuine" if not row["genuine"] else "impostor"
        return {**row, "eer": None, "reason": f"no {missing} trials"}
    rate, threshold = equal_error_rate(scores, genuine)
    row |= {"eer": rate, "eer_threshold": threshold, "eer_interval": None}
    for point in POINTS:
        row[cost_name(point)] = min_dcf(scores, genuine, p_target=point.p_target)
    try:
        if rate == 0.0:
            raise RequestError(NO_ERRORS)
        if speakers is not None:
            row["eer_interval"] = list(
                speaker_intervals(scores, genuine, speakers, replicates=replicates).eer
            )
    except RequestError as error:
        row["reason"] = f"no interval: {error.message}"
    row["at"] = {}
    for name, value in (thresholds or {}).items():
        fmr, fnmr = error_rates(scores, genuine, value)
        row["at"][name] = {"threshold": value, "fmr": fmr, "fnmr": fnmr}
    return row


def cost_name(point: CostPoint) -> str:
    """``min_dcf_05`` for a prior of 0.05 at unit costs; costs are named where they differ."""
    name = f"min_dcf_{f'{point.p_target:g}'.removeprefix('0.')}"
    costs = (point.c_miss, point.c_fa)
    return name if costs == (1.0, 1.0) else f"{name}_miss{point.c_miss:g}_fa{point.c_fa:g}"


def group_table(
    scores: NDArray[np.float64],
    trials: Trials,
    embedded: Embedded,
    speakers: Int64Array | None,
    thresholds: Mapping[str, float],
) -> list[dict[str, Any]]:
    """One row of `rates` per group that holds any trial."""
    return [
        {
            "kind": kind,
            "group": name,
            **rates(
                scores[mask], trials.genuine[mask], None if speakers is None else speakers[mask], thresholds
            ),
        }
        for kind, name, mask in group_masks(trials, embedded)
        if mask.any()
    ]
