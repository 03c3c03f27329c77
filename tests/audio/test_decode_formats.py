"""Every claimed format, as real files, to the same waveform."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voicevault.audio import decode
from voicevault.errors import AudioOutOfRangeError
from voicevault.types import SAMPLE_RATE, Float32Array


def likeness(decoded: Float32Array, expected: Float32Array) -> float:
    """Highest cosine over the delays that codecs add (up to 0.2 s)."""
    room = np.zeros(3200, dtype=np.float32)
    padded = np.concatenate([room, decoded, room])
    products = np.correlate(padded, expected, mode="valid") if len(padded) >= len(expected) else np.zeros(1)
    return float(np.max(products) / (np.linalg.norm(decoded) * np.linalg.norm(expected)))


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
)
def test_wav_of_every_sample_type(tones: Any, write_sound: Any, subtype: str) -> None:
    wave = decode(write_sound(tones(SAMPLE_RATE), SAMPLE_RATE, "WAV", subtype))
    assert wave.format == f"WAV/{subtype}"
    assert wave.samples.dtype == np.float32
    np.testing.assert_allclose(
        wave.samples,
        tones(SAMPLE_RATE),
        atol=0.02 if "LAW" in subtype else 0.008 if "U8" in subtype else 1e-4,
    )


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 12345, 22050, 32000, 44100, 48000, 96000, 192000])
def test_wav_of_every_rate(tones: Any, write_sound: Any, rate: int) -> None:
    wave = decode(write_sound(tones(rate), rate))
    assert wave.source_rate == rate
    assert abs(wave.seconds - 1.5) < 0.001
    assert likeness(wave.samples, tones(SAMPLE_RATE)) > 0.998


@pytest.mark.parametrize(
    ("format", "subtype", "rate", "least"),
    [
        ("FLAC", "PCM_16", 16000, 0.9999),
        ("FLAC", "PCM_24", 44100, 0.999),
        ("MP3", None, 44100, 0.99),
        ("MP3", None, 16000, 0.99),
        ("OGG", "VORBIS", 44100, 0.99),
        ("OGG", "OPUS", 48000, 0.99),
        ("OGG", "OPUS", 16000, 0.99),
        ("AIFF", "PCM_16", 22050, 0.999),
        ("CAF", "PCM_16", 44100, 0.999),
        ("AU", "PCM_16", 16000, 0.999),
        ("W64", "PCM_16", 16000, 0.999),
        ("RF64", "PCM_16", 16000, 0.999),
        ("WAV", "IMA_ADPCM", 16000, 0.99),
        ("WAV", "GSM610", 8000, 0.95),
    ],
)
def test_formats_of_libsndfile(
    tones: Any, write_sound: Any, format: str, subtype: str | None, rate: int, least: float
) -> None:
    wave = decode(write_sound(tones(rate), rate, format, subtype))
    assert abs(wave.seconds - 1.5) < 0.15
    assert likeness(wave.samples, tones(SAMPLE_RATE)) > least


@pytest.mark.parametrize(
    ("container", "codec", "rate", "name"),
    [
        ("ipod", "aac", 44100, "M4A/AAC"),
        ("mp4", "aac", 16000, "M4A/AAC"),
        ("mp4", "alac", 48000, "M4A/ALAC"),
        ("mov", "pcm_s16le", 16000, "M4A/PCM_S16LE"),
        ("adts", "aac", 44100, "AAC/AAC"),
        ("webm", "libopus", 48000, "WEBM/OPUS"),
        ("matroska", "aac", 44100, "WEBM/AAC"),
        ("wv", "wavpack", 44100, "WV/WAVPACK"),
        ("asf", "wmav2", 44100, "WMA/WMAV2"),
        ("amr", "libopencore_amrnb", 8000, "AMR/AMR_NB"),
        ("wav", "adpcm_ms", 16000, "WAV/MS_ADPCM"),
    ],
)
def test_formats_of_ffmpeg(
    tones: Any, write_av: Any, container: str, codec: str, rate: int, name: str
) -> None:
    wave = decode(write_av(tones(rate), rate, container, codec))
    assert wave.format == name
    assert wave.source_rate == rate
    assert abs(wave.seconds - 1.5) < 0.15
    assert likeness(wave.samples, tones(SAMPLE_RATE)) > (0.8 if container == "amr" else 0.98)


def test_an_mp3_longer_than_a_block_has_no_seams(
    tones: Any, write_sound: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(size=12 * SAMPLE_RATE)  # needs all bits there are
    samples = (np.tile(tones(SAMPLE_RATE), 8) + 0.1 * noise).astype(np.float32)
    data = write_sound(samples, SAMPLE_RATE, "MP3", None)
    at_once, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_allclose(decode(data).samples, at_once / max(1.0, np.abs(at_once).max()), atol=1e-6)
    assert capfd.readouterr().err == ""


def test_path_bytes_and_file_object_give_the_same(tones: Any, write_sound: Any, tmp_path: Path) -> None:
    data = write_sound(tones(44100), 44100)
    path = tmp_path / "ä name.mp3"  # the name is wrong and does not matter
    path.write_bytes(data)
    sources = [decode(path), decode(str(path)), decode(data), decode(io.BytesIO(data))]
    assert {w.source_sha256 for w in sources} == {hashlib.sha256(data).hexdigest()}
    assert len({w.audio_sha256 for w in sources}) == 1


def test_audio_hash_is_that_of_the_audio(tones: Any, write_sound: Any) -> None:
    pcm = (tones(SAMPLE_RATE) * 32767).astype(np.int16)
    wav, flac = (decode(write_sound(pcm, SAMPLE_RATE, f)) for f in ("WAV", "FLAC"))
    assert wav.audio_sha256 == flac.audio_sha256
    assert wav.source_sha256 != flac.source_sha256


def test_stereo_is_mixed_or_one_channel_is_taken(tones: Any, write_sound: Any) -> None:
    left = tones(SAMPLE_RATE)
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    data = write_sound(stereo, SAMPLE_RATE, "WAV", "FLOAT")
    np.testing.assert_allclose(decode(data).samples, left / 2, atol=1e-6)
    np.testing.assert_allclose(decode(data, channel=0).samples, left, atol=1e-6)
    assert decode(data).source_channels == 2
    with pytest.raises(AudioOutOfRangeError, match="from 0 to 1"):
        decode(data, channel=2)


def test_blocks_leave_no_seam(tones: Any, write_sound: Any) -> None:
    wave = decode(write_sound(tones(44100, 12.0), 44100))
    assert abs(wave.seconds - 12.0) < 0.001
    np.testing.assert_allclose(wave.samples[200:-200], tones(SAMPLE_RATE, 12.0)[200:-200], atol=2e-3)


def test_float_samples_beyond_full_scale_are_scaled_not_clipped(tones: Any, write_sound: Any) -> None:
    loud = decode(write_sound(tones(SAMPLE_RATE) * 10, SAMPLE_RATE, "WAV", "FLOAT")).samples
    assert np.abs(loud).max() <= 1.0
    assert likeness(loud, tones(SAMPLE_RATE)) > 0.99999
