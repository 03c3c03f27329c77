"""Augmentations do what their names say, the same for the same draw; rooms and codecs are real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from train.augment import SHARES, AugmentConfig, Augmenter
from train.codecs import CODECS, through_codec
from train.config import read_config
from train.examples import write_examples
from train.rooms import recorded_rooms, simulated_rooms
from voicevault.audio import decode
from voicevault.errors import ManifestError, SettingsError

SMALL = AugmentConfig(rooms=3, noise_folder="noise", snr_db=(5.0, 5.0))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a white noise and one room response."""
    folder = tmp_path_factory.mktemp("augment")
    rng = np.random.default_rng(0)
    for name, samples in (
        ("noise/white.wav", 0.1 * rng.normal(size=48_000)),
        ("rooms/echo.wav", np.eye(1, 8000, 200)[0] * 0.9 + np.eye(1, 8000, 3000)[0] * 0.4),
    ):
        (folder / name).parent.mkdir()
        soundfile.write(folder / name, samples, 16_000)
    return folder


@pytest.fixture(scope="module")
def crops(corpus: Path) -> torch.Tensor:
    voices = [decode(path).samples[:16_000] for path in sorted(corpus.glob("*/1.opus"))[:8]]
    return torch.from_numpy(np.stack(voices))


def share_above(waveforms: torch.Tensor, hertz: float) -> torch.Tensor:
    power = torch.fft.rfft(waveforms).abs().square()
    return power[:, round(hertz) :].sum(dim=1) / power.sum(dim=1)


@pytest.mark.parametrize("name", SHARES)
def test_each_changes_every_crop_when_it_is_always_on(name: str, root: Path, crops: torch.Tensor) -> None:
    augmenter = Augmenter(SMALL.only(name), root, 1)
    out = augmenter(crops, 5)
    assert out.shape == crops.shape
    assert torch.isfinite(out).all()
    assert (out - crops).abs().amax(dim=1).min() > 1e-3
    assert torch.equal(out, augmenter(crops, 5))
    assert torch.equal(out, Augmenter(SMALL.only(name), root, 1)(crops, 5))
    # The band is one and the same, and of three codecs two draws may take one.
    assert name in ("band", "codec") or not torch.equal(out, augmenter(crops, 6))


def test_nothing_on_changes_nothing(root: Path, crops: torch.Tensor) -> None:
    assert torch.allclose(Augmenter(SMALL.only(), root, 1)(crops, 5), crops, atol=1e-5)


def test_a_clean_share_is_left_as_it_is_and_the_rest_is_as_without_it(
    root: Path, crops: torch.Tensor
) -> None:
    config = replace(SMALL, reverb=1.0, noise=1.0)
    spared, total = 0, 0
    for draw in range(40):
        out = Augmenter(replace(config, clean=0.4), root, 1)(crops, draw)
        without = Augmenter(config, root, 1)(crops, draw)
        clean = (out == crops).all(dim=1)
        assert torch.equal(out[~clean], without[~clean])
        spared, total = spared + int(clean.sum()), total + len(crops)
    assert spared / total == pytest.approx(0.4, abs=3.5 * (0.24 / total) ** 0.5)
    assert SMALL.only("noise").clean == replace(SMALL, clean=0.4).only("noise").clean == 0.0


def test_babble_is_of_three_others() -> None:
    """Each row is a tone of its own, so that the spectrum says who talks; the other half of the batch are the same speakers."""
    speakers, samples = 4, 16_000
    hertz = 500 + 250 * np.arange(2 * speakers)
    tones = torch.from_numpy(np.sin(2 * np.pi * np.outer(hertz, np.arange(samples) / 16_000))).float()
    babble = Augmenter(AugmentConfig(snr_db=(0.0, 0.0)).only("babble"), Path(), 1)
    for draw in range(30):
        power = torch.fft.rfft(babble(tones, draw)).abs()[:, hertz] > 100.0
        for row in range(2 * speakers):
            assert power[row, row] and not power[row, (row + speakers) % (2 * speakers)]
            assert int(power[row].sum()) == 4


def test_the_band_is_a_telephones(root: Path, crops: torch.Tensor) -> None:
    out = Augmenter(SMALL.only("band"), root, 1)(crops, 0)
    assert share_above(out, 4000).max() < 1e-3
    assert share_above(crops, 4000).max() > 1e-3


def test_noise_has_the_drawn_level(root: Path, crops: torch.Tensor) -> None:
    out = Augmenter(SMALL.only("noise"), root, 1)(crops, 0)
    ratio_db = 20 * torch.log10(crops.norm(dim=1) / (out - crops).norm(dim=1))
    assert torch.allclose(ratio_db, torch.full((len(crops),), 5.0), atol=0.05)


def test_rooms_are_of_unit_energy_and_begin_with_the_direct_sound() -> None:
    rooms = simulated_rooms(4, 0.3, 2)
    assert np.allclose(np.linalg.norm(rooms, axis=1), 1.0, atol=1e-5)
    assert (np.abs(rooms).argmax(axis=1) == 0).all()
    assert np.array_equal(rooms, simulated_rooms(4, 0.3, 2))
    assert (np.square(rooms[:, 800:]).sum(axis=1) > 1e-4).any()  # something comes after 50 ms


def test_recorded_rooms_are_used_instead(root: Path) -> None:
    (response,) = recorded_rooms(root / "rooms", 0.3)
    assert response[0] == pytest.approx(0.9 / np.hypot(0.9, 0.4), abs=1e-3)
    assert response[2800] == pytest.approx(0.4 / np.hypot(0.9, 0.4), abs=1e-3)
    with pytest.raises(ManifestError):
        recorded_rooms(root / "noise" / "none", 0.3)


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_lose_something_but_keep_the_speech(codec: str, crops: torch.Tensor) -> None:
    samples = crops[0].numpy()
    coded = through_codec(samples, codec)
    assert coded.shape == samples.shape
    lags = np.correlate(coded, samples, "full")
    likeness = np.abs(lags).max() / (np.linalg.norm(coded) * np.linalg.norm(samples))
    assert 0.8 < likeness < 1.0 - 1e-6


def test_examples_are_written_for_all(config_file: Path, tmp_path: Path, corpus: Path) -> None:
    paths = write_examples(read_config(config_file), tmp_path, tmp_path / "clips")
    names = {path.stem for path in paths}
    assert names == {"plain", *SHARES, "speed-9-10", "speed-11-10", "all-1", "all-2", "all-3"}
    clips = {path.stem: decode(path) for path in paths}
    sounds = {name: clip.audio_sha256 for name, clip in clips.items()}
    alone = [name for name in names if not name.startswith("all-")]
    assert len({sounds[name] for name in alone}) == len(alone)  # each is another sound
    # All at their shares: of which one draw may have a single one.
    assert len({sounds[name] for name in names if name.startswith("all-")}) == 3
    ratio = clips["speed-9-10"].seconds / clips["plain"].seconds
    assert ratio == pytest.approx(10 / 9, rel=1e-3)
    config = config_file.read_text(encoding="utf-8").replace("[augment]\n", "[augment]\nnoise = 0.0\n")
    config_file.write_text(config.replace("[data]\n", "[data]\nspeed_share = 0.0\n"), encoding="utf-8")
    fewer = write_examples(read_config(config_file), tmp_path, tmp_path / "fewer")
    assert names - {path.stem for path in fewer} == {"noise", "speed-9-10", "speed-11-10"}


def test_without_recordings_of_noise_it_is_synthetic(crops: torch.Tensor, tmp_path: Path) -> None:
    out = Augmenter(replace(SMALL, noise_folder="").only("noise"), tmp_path, 1)(crops, 0)
    ratio_db = 20 * torch.log10(crops.norm(dim=1) / (out - crops).norm(dim=1))
    assert torch.allclose(ratio_db, torch.full((len(crops),), 5.0), atol=0.05)
    assert share_above(out - crops, 4000).max() < 0.05  # speech has little there


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[augment]\nreverb = 1.5", "share"),
        ("[augment]\nclean = -0.1", "clean is a share"),
        ("[data]\nalike = [['one']]", "data.alike.0"),
        ("[loss]\nrivals = 'none'", "loss.rivals"),
        ("[augment]\nsnr_db = [9.0, 1.0]", "lower end first"),
        ("[augment]\nreverbb = 0.5", "unknown keys: augment.reverbb"),
        ("[data]\nmanifets = 'x'\n[model]\nwidth = 3", "unknown keys: data.manifets, model.width"),
        ("[optimiser]\nsteps = 0", "optimiser.steps"),
        ("[model]\nchannels = 'many'", "channels"),
        ("[loss]\nkind = 'triplet'", "loss.kind"),
        (
            "[frontend]\ntype = 'gabor'",
            "frontend: type must be one of kaldi, mfcc, spectrogram, mel-power, not",
        ),
        ("[frontend]\ntype = 'waveform'", "frontend: type must be one of"),
        ("[frontend]\nbinns = 40\ncoefficients = 13", "unknown keys for type 'kaldi': binns, coefficients"),
        ("[frontend]\ntype = 'mfcc'\nbins = 40", "unknown keys for type 'mfcc': bins"),
        ("[frontend]\ntype = 'mfcc'\ncoefficients = 41", "frontend: coefficients must be in 1 to 40, not 41"),
        ("[frontend]\ntype = 'mfcc'\nlifter = 'L'", "frontend: lifter: Input should be a valid number"),
        ("[frontend]\ntype = 'mfcc'", "model.bins is 80, and the front-end gives 40 .* set model.bins = 40"),
        ("[frontend]\ntype = 'spectrogram'", "set model.bins = 257"),
        ("[frontend]\nbins = 64", "set model.bins = 64"),
        ("frontend = 3", "frontend: a table is needed, not 3"),
        ('[validation]\nselect = "accuracy"', "validation: .* set recordings = 500"),
        ("seed = ", "not TOML"),
    ],
)
def test_wrong_configs_say_which_key(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "config.toml"
    steps = "" if "[optimiser]" in line else "\n[optimiser]\nsteps = 5\n"
    path.write_text(f'name = "x"\n{line}\n{steps}', encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        read_config(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("codec", CODECS)
def test_a_pause_is_a_pause_after_a_codec(codec: str) -> None:
    pause = np.zeros(16_000, np.float32)
    assert np.array_equal(through_codec(pause, codec), pause)
