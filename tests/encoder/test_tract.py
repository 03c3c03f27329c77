"""Another vocal tract: all frequencies times a factor, but for those near Nyquist."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voicevault.encoder.frontend import NYQUIST, FrontendConfig, LogMel, mel_filters, warped
from voicevault.types import SAMPLE_RATE

HZ = torch.linspace(0.0, NYQUIST, 4001, dtype=torch.float64)
FACTORS = st.floats(0.7, 1.4)


def test_the_factor_one_changes_nothing() -> None:
    assert torch.allclose(warped(HZ, 1.0), HZ, rtol=0, atol=1e-9)
    assert torch.equal(mel_filters(80, 512, 20.0, 7600.0, 1.0), mel_filters(80, 512, 20.0, 7600.0))


@given(FACTORS)
def test_it_is_monotone_and_keeps_both_ends(factor: float) -> None:
    moved = warped(HZ, factor)
    assert (moved.diff() > 0).all()
    assert moved[0] == 0.0
    assert moved[-1] == pytest.approx(NYQUIST)
    # Without a jump where the straight line bends: no step is longer than the steeper of the two slopes makes it.
    edge = 4800.0 * min(factor, 1.0)
    steepest = max(factor, (NYQUIST - edge) / (NYQUIST - edge / factor))
    assert moved.diff().max() <= steepest * (HZ[1] - HZ[0]) * (1 + 1e-6)


@given(FACTORS)
def test_below_the_bend_it_is_the_factor_and_its_inverse_leads_back(factor: float) -> None:
    bend = 4800.0 * min(1.0, 1.0 / factor)
    low = HZ[bend > HZ]
    assert torch.allclose(warped(low, factor), low * factor)
    assert torch.allclose(warped(warped(low, factor), 1.0 / factor)[: len(low) // 2], low[: len(low) // 2])


@pytest.mark.parametrize("tract", [0.9, 1.1])
def test_filters_keep_their_form(tract: float) -> None:
    filters = mel_filters(80, 512, 20.0, 7600.0, tract)
    assert filters.shape == (257, 80)
    assert (filters[-1] == 0).all()  # Nyquist is in no triangle
    assert ((filters >= 0) & (filters <= 1)).all()
    centres = (filters * torch.arange(257)[:, None]).sum(dim=0) / filters.sum(dim=0).clamp(min=1e-9)
    heard = filters.sum(dim=0) > 0
    assert (centres[heard].diff() > 0).all()


@pytest.mark.parametrize("tract", [0.9, 1.1])
@pytest.mark.parametrize("hertz", [300.0, 1000.0, 3000.0])
def test_a_tone_is_heard_where_another_tract_would_have_it(tract: float, hertz: float) -> None:
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE

    def loudest(frequency: float, factor: float) -> int:
        tone = 0.3 * torch.sin(2 * torch.pi * frequency * time)
        # The mean over time of a steady tone is all there is of it.
        features, _ = LogMel(FrontendConfig(normalise=False), factor)(tone[None])
        return int(features[0].mean(dim=1).argmax())

    assert loudest(hertz, tract) == loudest(hertz * tract, 1.0) != loudest(hertz, 1.0)
