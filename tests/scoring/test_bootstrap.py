"""Intervals over speakers."""

from __future__ import annotations

import numpy as np
import pytest

from voicevault.errors import RequestError
from voicevault.scoring.bootstrap import interval, speaker_intervals, speaker_replicates
from voicevault.scoring.metrics import CostPoint, equal_error_rate, min_dcf


def population(speakers: int, seed: int, each: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of recordings of speakers whose own spread differs, as that of people does."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(speakers, 6))
    spread = random.uniform(0.2, 1.2, speakers)
    owner = np.repeat(np.arange(speakers), each)
    vectors = centres[owner] + random.normal(size=(len(owner), 6)) * spread[owner, None]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    a, b = np.triu_indices(len(owner), 1)
    return (vectors[a] * vectors[b]).sum(axis=1), owner[a] == owner[b], np.stack([owner[a], owner[b]], axis=1)


def test_the_interval_holds_the_estimate_and_narrows_with_more_speakers() -> None:
    widths = []
    for speakers in (8, 32):
        scores, labels, pairs = population(speakers, seed=1)
        found = speaker_intervals(scores, labels, pairs, points=[CostPoint(0.05)], replicates=200)
        assert found.eer[0] < equal_error_rate(scores, labels)[0] < found.eer[1]
        assert found.min_dcf[0][0] < min_dcf(scores, labels, p_target=0.05) <= found.min_dcf[0][1]
        assert found.speakers == speakers
        widths.append(found.eer[1] - found.eer[0])
    assert widths[1] < 0.75 * widths[0]


def test_intervals_cover_the_rate_of_the_population() -> None:
    truth, _ = equal_error_rate(*population(400, seed=99, each=4)[:2])
    held = 0
    for seed in range(40):
        scores, labels, pairs = population(30, seed, each=4)
        low, high = speaker_intervals(scores, labels, pairs, replicates=100).eer
        held += low <= truth <= high
    assert held >= 33  # 38 expected; trials taken as independent would hold about half


def test_the_same_draws_give_the_same_interval_and_copies_of_trials_change_nothing() -> None:
    scores, labels, pairs = population(12, seed=5)
    names = np.array([f"speaker {i:02}" for i in range(12)])[pairs]
    once = speaker_intervals(scores, labels, pairs, replicates=50)
    assert once == speaker_intervals(scores, labels, names, replicates=50)
    twice = speaker_intervals(
        np.r_[scores, scores], np.r_[labels, labels], np.r_[pairs, pairs], replicates=50
    )
    assert twice.eer == pytest.approx(once.eer)


def test_two_score_lists_are_drawn_alike() -> None:
    scores, labels, pairs = population(12, seed=5)
    one, _ = speaker_replicates(scores, labels, pairs, replicates=50)
    other, costs = speaker_replicates(3 * scores + 1, labels, pairs, replicates=50, points=[CostPoint(0.05)])
    assert np.allclose(one, other)
    assert costs.shape == (50, 1)
    worse = scores + np.random.default_rng(0).normal(scale=0.5, size=len(scores))
    low, high = interval(speaker_replicates(worse, labels, pairs, replicates=50)[0] - one)
    assert 0 < low < high


def test_equal_scores_and_separable_ones() -> None:
    _, labels, pairs = population(6, seed=5)
    flat = speaker_intervals(np.zeros(len(labels)), labels, pairs, replicates=20)
    assert flat.eer == pytest.approx((0.5, 0.5))
    perfect = speaker_intervals(labels.astype(float), labels, pairs, replicates=20)
    assert perfect.eer == (0.0, 0.0)


def test_what_allows_no_interval_is_refused() -> None:
    with pytest.raises(RequestError, match="three speakers"):
        speaker_intervals([0.9, 0.1], [1, 0], [["a", "a"], ["a", "b"]])
    with pytest.raises(RequestError, match="one speaker"):
        speaker_intervals([0.9, 0.1], [1, 0], [["a", "b"], ["a", "c"]])
    with pytest.raises(RequestError, match="confidence"):
        speaker_intervals([0.9, 0.1], [1, 0], [["a", "a"], ["a", "b"]], confidence=1.5)
