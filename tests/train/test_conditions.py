"""What a condition does to speech, on real recordings."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from train.conditions import CODECS, Babble, Condition, Length, Noise, Room, mixed, noise_files, speech_shaped
from train.evaluate_conditions import babble_voices
from train.evaluate_embed import _task
from train.trials import Recording
from voicevault.audio import decode
from voicevault.errors import ManifestError


@pytest.fixture(scope="module")
def speech(voices: dict[str, list[Path]]) -> np.ndarray:
    return decode(next(iter(voices.values()))[0]).samples[:48_000]


def every_condition(voices: dict[str, list[Path]]) -> list[Condition]:
    talkers = tuple((name, recordings[0]) for name, recordings in voices.items())
    return [
        Noise((), 10.0),
        Noise((talkers[0][1],), 10.0),
        Babble(talkers, 10.0),
        Room("near"),
        Room("far"),
        *CODECS,
    ]


def test_each_changes_the_recording_the_same_way_each_time(
    voices: dict[str, list[Path]], speech: np.ndarray
) -> None:
    for condition in every_condition(voices):
        heard = condition(speech, 3)
        assert heard.dtype == np.float32 and heard.shape == speech.shape, condition.name
        assert np.isfinite(heard).all()
        assert not np.allclose(heard, speech, atol=1e-4), condition.name
        assert np.array_equal(heard, pickle.loads(pickle.dumps(condition))(speech, 3)), condition.name


@pytest.mark.parametrize("snr_db", [20.0, 0.0])
def test_the_ratio_is_the_one_asked_for(
    snr_db: float, voices: dict[str, list[Path]], speech: np.ndarray
) -> None:
    talkers = tuple((name, recordings[0]) for name, recordings in voices.items())
    for condition in (Noise((), snr_db), Noise((talkers[0][1],), snr_db), Babble(talkers, snr_db)):
        added = condition(speech, 5) - speech
        ratio = 10 * np.log10(np.mean(np.square(speech)) / np.mean(np.square(added)))
        assert ratio == pytest.approx(snr_db, abs=0.1), condition.name


def test_nobody_stands_in_the_babble_behind_the_own_recordings(
    voices: dict[str, list[Path]], speech: np.ndarray, tmp_path: Path
) -> None:
    (own, first), *others = [(name, recordings[0]) for name, recordings in voices.items()]
    babble = Babble(((own, tmp_path / "it is not read"), *others[:2]), 10.0).without(own)
    assert {speaker for speaker, _ in babble.voices} == {name for name, _ in others[:2]}
    assert not np.allclose(babble(speech, 3), speech, atol=1e-4)
    recordings = [Recording(str(path), name) for name, path in [(own, first), *others[:5]]]
    voices_of = babble_voices(recordings, Path())
    assert {speaker for speaker, _ in voices_of} == {r.speaker for r in recordings}
    task = _task(recordings[0], Path(), "digest", Babble(tuple(voices_of), 10.0))
    assert isinstance(task.condition, Babble)
    assert {speaker for speaker, _ in task.condition.voices} == {r.speaker for r in recordings[1:]}


def test_silent_noise_adds_nothing(speech: np.ndarray) -> None:
    assert np.array_equal(mixed(speech, np.zeros_like(speech), 0.0), speech)


def test_a_telephone_line_has_nothing_above_four_kilohertz(speech: np.ndarray) -> None:
    power = np.square(np.abs(np.fft.rfft(CODECS[0](speech, 0))))
    before = np.square(np.abs(np.fft.rfft(speech)))
    assert power[int(0.55 * len(power)) :].sum() < 0.05 * before[int(0.55 * len(power)) :].sum()


def test_a_far_room_smears_more_than_a_near_one(speech: np.ndarray) -> None:
    def similarity(place: str) -> float:
        heard = [Room(place)(speech, seed) for seed in range(6)]
        return float(np.mean([h @ speech / np.linalg.norm(h) / np.linalg.norm(speech) for h in heard]))

    assert similarity("near") > similarity("far") + 0.1


def test_synthetic_noise_falls_towards_high_frequencies() -> None:
    power = np.square(np.abs(np.fft.rfft(speech_shaped(160_000, np.random.default_rng(0)))))
    octaves = [power[low * 10 : 2 * low * 10].mean() for low in (1000, 2000, 4000)]
    falls = [10 * np.log10(a / b) for a, b in pairwise(octaves)]
    assert falls == pytest.approx([9.0, 9.0], abs=1.0)


def test_a_length_keeps_the_beginning(speech: np.ndarray) -> None:
    assert np.array_equal(Length(1.0)(speech, 0), speech[:16_000])
    assert np.array_equal(Length(60.0)(speech, 0), speech)


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no recordings of noise"):
        noise_files(tmp_path)
