"""Copies as speakers of their own: how many there are, which batches hold them, and that a draw is a draw."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from train.batches import TRACTS, Batches
from train.config import DataSection, FitConfig, OptimiserSection
from train.data import BatchSampler
from train.split import Corpus, read_corpus
from voicevault.errors import ManifestError

DRAWS = 160


def config(**data: float) -> FitConfig:
    return FitConfig.model_validate(
        {
            "name": "x",
            "seed": 4,
            "data": DataSection(crops=((4, 0.3), (3, 0.5)), **data),
            "validation": {"share": 0.2},
            "large_margin": {"crops": ((3, 0.7),)},
            "augment": {
                **dict.fromkeys(("reverb", "equaliser", "band", "noise", "babble", "volume", "codec"), 0.0)
            },
            "optimiser": OptimiserSection(steps=10),
        }
    )


@pytest.fixture(scope="module")
def speech(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return read_corpus(config(), corpus, tmp_path_factory.mktemp("cache"))


def batches(speech: Corpus, settings: FitConfig) -> Batches:
    return Batches(settings, BatchSampler(speech.cache, speech.training, {}, settings.seed), Path())


@pytest.mark.parametrize(
    ("speed", "tract", "copies"), [(0.0, 0.0, 1), (0.3, 0.0, 3), (0.0, 0.3, 3), (0.3, 0.3, 5)]
)
def test_every_copy_is_a_class(speech: Corpus, speed: float, tract: float, copies: int) -> None:
    made = batches(speech, config(speed_share=speed, tract_share=tract))
    speakers = len(made.sampler.classes)
    assert speakers == len({u.speaker for u in speech.training})
    assert made.classes == copies * speakers
    seen, plain = set(), 0
    for step in range(DRAWS):
        _, labels, factor = made.make(step)
        (copy,) = set((labels // speakers).tolist())  # a batch is of one kind
        plain += copy == 0
        seen.add((copy, factor))
        assert torch.equal(labels[: len(labels) // 2], labels[len(labels) // 2 :])
    assert {copy for copy, _ in seen} == set(range(copies))
    # The tract's copies stand behind the sped ones, and they alone have another factor.
    first = 3 if speed else 1
    assert {(copy, factor) for copy, factor in seen if factor != 1.0} == (
        {(first, TRACTS[0]), (first + 1, TRACTS[1])} if tract else set()
    )
    expected = (1 - speed) * (1 - tract)
    assert plain / DRAWS == pytest.approx(
        expected, abs=3.5 * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-9
    )


def test_a_draw_is_the_same_whoever_makes_it_and_has_no_copies_in_the_last_part(speech: Corpus) -> None:
    settings = config(speed_share=0.3, tract_share=0.5)
    one, other = batches(speech, settings), batches(speech, settings)
    for step in (11, 3, 7, 3):
        (ours, labels, factor), (theirs, same, again) = one.make(step), other.make(step)
        assert torch.equal(ours, theirs) and torch.equal(labels, same)
        assert factor == again
    for step in range(20):
        waveforms, labels, factor = one.make(step, last_part=True)
        assert factor == 1.0 and waveforms.shape == (6, 11_200)
        assert labels.max() < len(one.sampler.classes)


def test_a_class_and_its_copies_belong_to_the_speakers_collection(speech: Corpus) -> None:
    sources = ("loud", "booth", "booth, one clip")
    names = sorted({u.speaker for u in speech.training})
    source = {name: sources[i % 3] for i, name in enumerate(names)}
    heard = [replace(u, source=source[u.speaker]) for u in speech.training]
    settings = config(speed_share=0.3, tract_share=0.3)
    sampler = BatchSampler(speech.cache, heard, {}, 1, (("booth", "booth, one clip"),))
    collections = Batches(settings, sampler, Path()).collections.tolist()
    assert collections == [int(source[name] == "loud") for name in names] * 5
    apart = BatchSampler(speech.cache, heard, {}, 1)
    assert len(set(apart.collections)) == 3
    with pytest.raises(ManifestError, match="no recording of these sources: both"):
        BatchSampler(speech.cache, heard, {}, 1, (("booth", "both"),))


def test_another_tract_is_made_of_the_same_sound(speech: Corpus) -> None:
    """The features are warped and not the samples, so they are those of the speaker himself."""
    without, with_copies = (
        batches(speech, config(speed_share=0.0)),
        batches(speech, config(speed_share=0.0, tract_share=1.0)),
    )
    for step in range(6):
        plain, labels, _ = without.make(step)
        copied, copies, factor = with_copies.make(step)
        assert factor in TRACTS
        assert torch.equal(plain, copied)
        assert torch.equal(copies % len(without.sampler.classes), labels)


def test_batches_come_in_order_and_as_they_are_wherever_a_run_is_taken_up_again(speech: Corpus) -> None:
    made = batches(speech, config(speed_share=0.3))
    last = lambda step: step >= 7  # noqa: E731
    whole = list(islice(made.after(3, last), 8))
    for step, (waveforms, labels, factor) in enumerate(whole, start=3):
        ours, own, again = made.make(step, last(step))
        assert torch.equal(waveforms, ours) and torch.equal(labels, own)
        assert factor == again
    # Taken up at the very step with which the last part begins, too.
    for step in (6, 7, 8):
        waveforms, labels, _ = next(made.after(step, last))
        assert torch.equal(waveforms, whole[step - 3][0]) and torch.equal(labels, whole[step - 3][1])
    assert [len(waveforms) == 6 and waveforms.shape[1] == 11_200 for waveforms, *_ in whole] == [
        False
    ] * 4 + [True] * 4


def test_what_is_made_for_a_gpu_is_made_several_steps_ahead(
    speech: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batches(speech, config())
    asked: list[int] = []
    monkeypatch.setattr("train.batches.available_cores", lambda: 3)
    made.augment.device = torch.device("cuda")
    monkeypatch.setattr(Batches, "make", lambda self, step, last_part=False: (step, last_part))
    steps = list(islice(made.after(5, lambda step: asked.append(step) or False), 3))
    assert steps == [(5, False), (6, False), (7, False)]
    assert asked == list(range(5, 11))
