"""From a recording to an embedding, with an encoder that needs no torch."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voicevault.audio import AudioLimits, SpeechDetector
from voicevault.embedding import EmbeddingPipeline, prepare
from voicevault.errors import NotEnoughSpeechError, VoicevaultError
from voicevault.types import SAMPLE_RATE, Float32Array

SPEECH = Path(__file__).parents[2] / "shared" / "corpora" / "eval" / "librispeech"


class SpectrumEncoder:
    """Mean log spectrum, which follows the level and the cut: what the pipeline leaves uneven shows here."""

    name = "spectrum"
    model_id = "spectrum-1"
    dim = 257

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
        self.lengths = [len(w) for w in waveforms]
        rows = []
        for w in waveforms:
            frames = np.lib.stride_tricks.sliding_window_view(w, 512)[::160]
            log = np.log(np.abs(np.fft.rfft(frames * np.hanning(512), axis=1)) + 1e-3).mean(axis=0)
            rows.append(log / np.linalg.norm(log))
        return np.stack(rows).astype(np.float32)


class BrokenEncoder(SpectrumEncoder):
    def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
        return np.full((len(waveforms), self.dim), np.nan, dtype=np.float32)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    found = [f for f in sorted(SPEECH.glob("*/*.flac"))[::5] if soundfile.info(f).duration > 4][:10]
    if not found:
        pytest.skip(f"no speech corpus at {SPEECH}")
    return found


@pytest.fixture(scope="module")
def pipeline() -> EmbeddingPipeline:
    return EmbeddingPipeline(SpectrumEncoder(), SpeechDetector(), AudioLimits())


def as_wav(samples: Float32Array) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def test_embedding_says_where_it_comes_from(files: list[Path], pipeline: EmbeddingPipeline) -> None:
    embedding = pipeline.embed_one(files[0], min_speech=2.0)
    assert embedding.model_id == "spectrum-1"
    assert embedding.vector.shape == (257,)
    assert set(embedding.timing) == {"decode", "speech", "embed"}
    assert all(seconds > 0 for seconds in embedding.timing.values())
    assert embedding.quality.speech_seconds >= 2.0


def test_batch_equals_one_by_one(files: list[Path], pipeline: EmbeddingPipeline) -> None:
    prepared = [pipeline.prepare(f) for f in files]
    batch = pipeline.embed(prepared, min_speech=0.5)
    for file, embedding in zip(files, batch, strict=True):
        alone = pipeline.embed_one(file, min_speech=0.5)
        np.testing.assert_array_equal(embedding.vector, alone.vector)
        assert embedding.source_sha256 == alone.source_sha256
    assert pipeline.embed([], min_speech=2.0) == []


@pytest.mark.parametrize("gain", [-30, -20, -10, 10])
def test_gain_does_not_matter(files: list[Path], pipeline: EmbeddingPipeline, gain: int) -> None:
    lowest = 1.0
    for file in files:
        samples = soundfile.read(file, dtype="float32")[0]
        vectors = [
            pipeline.embed_one(as_wav(s), min_speech=0.5).vector
            for s in (samples, samples * np.float32(10 ** (gain / 20)))
        ]
        lowest = min(lowest, float(vectors[0] @ vectors[1]))
    assert lowest >= 0.999, lowest


def test_too_little_speech(files: list[Path], pipeline: EmbeddingPipeline) -> None:
    recording = pipeline.prepare(files[0])
    first = recording.segments[0]
    start = int(first.start * SAMPLE_RATE)
    hush = np.random.default_rng(5).standard_normal(SAMPLE_RATE).astype(np.float32) * np.float32(1e-4)
    short = as_wav(np.concatenate([hush, recording.samples[start : start + SAMPLE_RATE], hush]))
    with pytest.raises(NotEnoughSpeechError) as caught:
        pipeline.embed_one(short, min_speech=2.0)
    facts = caught.value.facts
    assert facts["needed"] == 2.0
    assert 0.5 < facts["found"] < 1.2
    assert abs(facts["found"] + facts["missing"] - 2.0) < 0.01
    encoder = pipeline.encoder
    assert isinstance(encoder, SpectrumEncoder)
    pipeline.embed_one(short, min_speech=0.5)
    # What counts is net speech; what is heard has up to a second more on either side.
    (heard,) = encoder.lengths
    assert heard == len(pipeline.prepare(short).speech)
    assert facts["found"] < heard / SAMPLE_RATE <= facts["found"] + 2.0
    pipeline.embed_one(short, min_speech=None)
    assert encoder.lengths == [3 * SAMPLE_RATE]


def test_noise_alone_is_never_cut_to_nothing(pipeline: EmbeddingPipeline) -> None:
    noise = as_wav(np.random.default_rng(6).standard_normal(SAMPLE_RATE).astype(np.float32) * np.float32(0.1))
    for min_speech in (0.0, 0.5, 2.0):
        with pytest.raises(NotEnoughSpeechError):
            pipeline.embed_one(noise, min_speech=min_speech)
    for whole_below in (0.0, 2.0):
        embedding = pipeline.embed_one(noise, min_speech=None, whole_below=whole_below)
        assert np.isfinite(embedding.vector).all()


def test_prepared_in_other_processes(files: list[Path], pipeline: EmbeddingPipeline) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(prepare, str(f), pipeline.detector, pipeline.limits) for f in files[:3]]
        prepared = [job.result() for job in jobs]
    for file, recording in zip(files, prepared, strict=False):
        here = pipeline.prepare(file)
        assert recording.segments == here.segments
        np.testing.assert_array_equal(recording.samples, here.samples)
    assert pickle.loads(pickle.dumps(prepared[0])).quality == prepared[0].quality


def test_an_encoder_that_answers_nan_is_an_error(files: list[Path]) -> None:
    with pytest.raises(VoicevaultError, match="encoder"):
        EmbeddingPipeline(BrokenEncoder()).embed_one(files[0], min_speech=0.5)
