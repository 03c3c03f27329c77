"""What changes along a training: learning rate and margin, and where the last part begins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from train.config import FitConfig, LargeMarginSection, LossSection, OptimiserSection
from train.schedule import in_last_part, learning_rate, margin

STEPS = np.linspace(0.0, 1.0, 2001)


def config(last: float | None = None, share: float = 0.2, warmup: float = 0.1) -> FitConfig:
    return FitConfig(
        name="x",
        optimiser=OptimiserSection(steps=100, learning_rate=1e-3, warmup_share=warmup),
        large_margin=LargeMarginSection(share=share, margin=0.5, learning_rate=last),
        loss=LossSection(margin=0.2, margin_share=0.4),
    )


def rates(settings: FitConfig) -> np.ndarray:
    return np.array([learning_rate(settings, float(progress)) for progress in STEPS])


def largest_jump(values: np.ndarray) -> float:
    return float(np.abs(np.diff(values)).max())


def test_one_decay_spans_all_without_a_rate_of_the_last_part() -> None:
    values = rates(config())
    assert values[0] == pytest.approx(1e-5)
    assert values.max() == pytest.approx(1e-3, rel=1e-3)
    assert STEPS[values.argmax()] == pytest.approx(0.1, abs=1e-3)
    assert values[-1] == pytest.approx(1e-5)
    assert (np.diff(values[STEPS > 0.1]) < 0).all()
    assert largest_jump(values) < 1e-5  # a hundredth of the peak: no jumps
    assert values[np.searchsorted(STEPS, 0.55)] == pytest.approx(1e-3 * (0.01 + 0.99 / 2), rel=1e-2)


def test_the_last_part_begins_anew_with_a_rate_of_its_own() -> None:
    values = rates(config(last=3e-4))
    begins = int(np.searchsorted(STEPS, 0.8))
    first, last = values[:begins], values[begins:]
    assert first.max() == pytest.approx(1e-3, rel=1e-3)
    assert first[-1] == pytest.approx(1e-5, rel=1e-2)
    assert last[0] == pytest.approx(3e-4)
    assert last[-1] == pytest.approx(3e-6)
    assert (np.diff(first[STEPS[:begins] > 0.1]) < 0).all() and (np.diff(last) < 0).all()
    assert max(largest_jump(first), largest_jump(last)) < 1e-5


@pytest.mark.parametrize("last", [None, 3e-4])
def test_there_need_be_no_warm_up_and_no_last_part(last: float | None) -> None:
    values = rates(config(last, share=0.0, warmup=0.0))
    assert values[0] == pytest.approx(1e-3)
    assert (values > 0).all() and np.isfinite(values).all()
    assert largest_jump(values) < 1e-5
    assert not in_last_part(config(last, share=0.0), 1.0)


def test_the_margin_grows_and_is_larger_in_the_last_part() -> None:
    settings = config()
    values = [margin(settings, float(progress)) for progress in STEPS]
    assert values[0] == 0.0
    assert values[np.searchsorted(STEPS, 0.2)] == pytest.approx(0.1)
    assert {values[i] for i in range(len(STEPS)) if 0.4 <= STEPS[i] < 0.8} == {0.2}
    assert {values[i] for i in range(len(STEPS)) if in_last_part(settings, float(STEPS[i]))} == {0.5}
    assert math.isclose(float(np.mean([in_last_part(settings, float(p)) for p in STEPS])), 0.2, abs_tol=1e-3)
