"""Which threshold a decision is taken by: the caller's, or the policy's at a false match rate."""

from __future__ import annotations

from voicevault.errors import NoThresholdError, RequestError
from voicevault.scoring.policy import Policy
from voicevault.types import Threshold

VERIFICATION_FMR = 0.01
"""False match rate of a verification where the caller names none."""

GALLERY_FMR = 0.01
"""Chance that a stranger matches anybody in the gallery, where the caller names none."""


def verification_threshold(
    policy: Policy | None, threshold: float | None = None, fmr: float | None = None
) -> Threshold:
    """The threshold of a 1:1 decision: the given one, or the policy's at `fmr`, by default 1 %.

    Raises:
        RequestError: Both are given, or one is out of range.
        NoThresholdError: Nothing is given and the model has no policy (or none that its trials support).
    """
    return _choose(policy, threshold, fmr, VERIFICATION_FMR)


def identification_threshold(
    policy: Policy | None, gallery_size: int, threshold: float | None = None, fmr: float | None = None
) -> Threshold:
    """The threshold of an open-set 1:N decision: the given one, or the policy's at `fmr`.

    `fmr` is per comparison. By default it is 1 % over the whole gallery: 0.01 / N for N voiceprints
    compared, which bounds the chance that a stranger matches any of them (Bonferroni: it holds for dependent
    comparisons too).

    Args:
        policy: The model's table, if it has one.
        gallery_size: Voiceprints compared, 0 or more (an empty gallery decides as one of 1).
        threshold: Cosine in [-1, 1].
        fmr: In (0, 1).

    Raises:
        RequestError: Both are given, or a value is out of range.
        NoThresholdError: Nothing is given and the model has no policy (or none that its trials support).
    """
    if gallery_size < 0:
        raise RequestError("A gallery has no fewer than 0 voiceprints.", gallery_size=gallery_size)
    return _choose(policy, threshold, fmr, GALLERY_FMR / max(gallery_size, 1))


def _choose(policy: Policy | None, threshold: float | None, fmr: float | None, default: float) -> Threshold:
    if threshold is not None and fmr is not None:
        raise RequestError("Give a threshold or a false match rate, not both.", threshold=threshold, fmr=fmr)
    if threshold is not None:
        if not -1.0 <= threshold <= 1.0:
            raise RequestError("A threshold is a cosine between -1 and 1.", threshold=threshold)
        return Threshold(float(threshold), "given")
    wanted = default if fmr is None else fmr
    if not 0.0 < wanted < 1.0:
        raise RequestError("A false match rate lies between 0 and 1.", fmr=wanted)
    if policy is None:
        raise NoThresholdError("The model has no threshold policy; give a threshold.", wanted_fmr=wanted)
    return policy.threshold_for(wanted)
