"""1:N rates against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from voicevault.errors import RequestError
from voicevault.scoring.identification import open_set_rates, rank_accuracy, ranks


def search(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = np.r_[np.full(15, -1), random.integers(0, 7, 45)]
    scores = random.integers(-4, 5, (60, 7)) / 10  # ties are common
    scores[truth >= 0, truth[truth >= 0]] += 0.3
    return scores, truth


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_their_accuracy_are_those_of_counting(seed: int) -> None:
    scores, truth = search(seed)
    expected = []
    for row, own in zip(scores, truth, strict=True):
        if own >= 0:
            expected.append(1 + sum(s >= row[own] for i, s in enumerate(row) if i != own))
    assert ranks(scores, truth).tolist() == expected
    found = rank_accuracy(scores, truth)
    assert found.tolist() == pytest.approx([np.mean([r <= k for r in expected]) for k in range(1, 8)])
    assert found[-1] == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_the_open_set_threshold_is_the_loosest_that_keeps_the_rate(seed: int) -> None:
    scores, truth = search(seed)
    strangers = scores[truth < 0].max(axis=1)
    (row,) = open_set_rates(scores, truth, (0.3,))
    assert row.threshold is not None
    assert np.mean(strangers >= row.threshold) <= 0.3
    next_lower = strangers[strangers < row.threshold].max()
    assert np.mean(strangers >= next_lower) > 0.3
    hits = [
        r[own] >= row.threshold and all(s < r[own] for i, s in enumerate(r) if i != own)
        for r, own in zip(scores, truth, strict=True)
        if own >= 0
    ]
    assert row.dir == pytest.approx(np.mean(hits))


def test_a_rate_finer_than_the_strangers_allow_has_no_number() -> None:
    scores, truth = search(0)
    (row,) = open_set_rates(scores, truth, (0.001,))
    assert (row.threshold, row.dir) == (None, None)
    assert row.reason is not None and "1000 needed" in row.reason


def test_a_single_score_for_everybody_finds_nobody() -> None:
    assert rank_accuracy(np.zeros((3, 4)), [0, 1, 2]).tolist() == [0.0, 0.0, 0.0, 1.0]


def test_what_makes_no_search_is_refused() -> None:
    with pytest.raises(RequestError, match="enrolled speaker"):
        rank_accuracy(np.zeros((2, 3)), [-1, -1])
    with pytest.raises(RequestError, match="not there"):
        ranks(np.zeros((2, 3)), [0, 3])
    with pytest.raises(RequestError, match="finite"):
        ranks(np.full((1, 3), np.nan), [0])
    with pytest.raises(RequestError, match="one row"):
        ranks(np.zeros((2, 3)), [0])
