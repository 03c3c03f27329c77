"""The one way from a recording to an embedding, for the vault, for training and for the benchmarks.

`prepare` (decode, find the speech, judge) needs no torch and may run in worker processes;
`EmbeddingPipeline.embed` takes what they return, in batches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from voicevault.audio import AudioLimits, SpeechDetector, decode
from voicevault.audio.encoding import to_flac
from voicevault.audio.level import normalise
from voicevault.audio.quality import measure, speech_mask
from voicevault.errors import NotEnoughSpeechError, VoicevaultError
from voicevault.types import AudioSource, Embedding, Encoder, Float32Array, Quality, Segment, Waveform

WHOLE_BELOW = 2.0
"""Seconds of net speech below which a recording that must not be refused is embedded whole."""
CONTEXT = 0.3
"""Seconds kept before and after each stretch of speech: what a detector cuts off is speech too, often enough, and models hear
pauses when they are trained. Chosen on held-out training speakers (docs/decisions/speech-with-context.md)."""
WIDE_CONTEXT = 1.0
"""The same for a recording with less than `WHOLE_BELOW` seconds of speech."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRecording:
    """A recording that is decoded and judged; picklable.

    Attributes:
        samples: float32 [n], mono, 16 kHz: the whole recording, at its own level.
        segments: Where the speech is.
        timing: Seconds spent per stage: decode, speech.
    """

    samples: Float32Array
    segments: tuple[Segment, ...]
    quality: Quality
    source_sha256: str
    audio_sha256: str
    timing: Mapping[str, float] = field(default_factory=dict)

    @property
    def speech(self) -> Float32Array:
        """float32: the segments put together, each with `CONTEXT` seconds around it, or `WIDE_CONTEXT` where speech is scarce."""
        context = CONTEXT if self.quality.speech_seconds >= WHOLE_BELOW else WIDE_CONTEXT
        wider = [Segment(max(0.0, s.start - context), s.end + context) for s in self.segments]
        mask = speech_mask(len(self.samples), wider)
        return self.samples if mask.all() else self.samples[mask]

    def require(self, min_speech: float) -> None:
        """Raise NotEnoughSpeechError (found, needed, missing in seconds) below `min_speech` seconds of
        speech."""
        found = self.quality.speech_seconds
        if found <= 0.0 or found < min_speech:
            missing = max(min_speech - found, 0.0)
            raise NotEnoughSpeechError(
                f"The recording holds {found:.2f} s of speech and {min_speech:g} s are needed."
                f" Record at least {missing:.2f} s more speech.",
                found=round(found, 3),
                needed=min_speech,
                missing=round(missing, 3),
            )


def prepare(
    source: AudioSource, detector: SpeechDetector, limits: AudioLimits, channel: int | None = None
) -> PreparedRecording:
    """Decode `source`, find its speech and judge it. Raises what `voicevault.audio.decode` raises."""
    start = time.perf_counter()
    waveform = decode(source, limits=limits, channel=channel)
    return judge(waveform, detector, decoding=time.perf_counter() - start)


def judge(waveform: Waveform, detector: SpeechDetector, *, decoding: float = 0.0) -> PreparedRecording:
    """Find the speech of a decoded recording and judge it; `decoding` is the seconds that decoding took."""
    start = time.perf_counter()
    segments = tuple(detector.segments(waveform.samples))
    quality = measure(waveform.samples, segments)
    return PreparedRecording(
        samples=waveform.samples,
        segments=segments,
        quality=quality,
        source_sha256=waveform.source_sha256,
        audio_sha256=waveform.audio_sha256,
        timing={"decode": decoding, "speech": time.perf_counter() - start},
    )


class EmbeddingPipeline:
    """Recordings to embeddings with one encoder. Thread-safe where the encoder is."""

    def __init__(
        self, encoder: Encoder, detector: SpeechDetector | None = None, limits: AudioLimits | None = None
    ) -> None:
        self.encoder = encoder
        self.detector = detector if detector is not None else SpeechDetector()
        self.limits = limits if limits is not None else AudioLimits()

    def prepare(self, source: AudioSource, channel: int | None = None) -> PreparedRecording:
        """`prepare` with this pipeline's detector and limits."""
        return prepare(source, self.detector, self.limits, channel)

    def embed(
        self,
        prepared: Sequence[PreparedRecording],
        *,
        min_speech: float | None,
        whole_below: float = WHOLE_BELOW,
        keep_audio: bool = False,
    ) -> list[Embedding]:
        """Embed the speech of prepared recordings in one batch, order kept.

        Args:
            min_speech: Seconds of net speech that each must have. None refuses nothing: a recording with less
                speech than `whole_below` is then embedded whole.
            keep_audio: Whether each embedding carries the speech that it was made of.

        Raises:
            NotEnoughSpeechError: for the first recording below `min_speech`; ask `PreparedRecording.require`
            before to
                know which.
        """
        waveforms: list[Float32Array] = []
        for recording in prepared:
            if min_speech is not None:
                recording.require(min_speech)
                whole = False
            else:
                whole = not recording.segments or recording.quality.speech_seconds < whole_below
            waveforms.append(normalise(recording.samples if whole else recording.speech))
        if not waveforms:
            return []
        start = time.perf_counter()
        vectors = self.encoder.embed(waveforms)
        seconds = time.perf_counter() - start
        if vectors.shape != (len(waveforms), self.encoder.dim) or not np.isfinite(vectors).all():
            raise VoicevaultError(
                "The encoder answered with NaN or with a wrong shape. Check the model folder."
            )
        total = sum(len(w) for w in waveforms)
        return [
            Embedding(
                vector=vector,
                model_id=self.encoder.model_id,
                quality=recording.quality,
                source_sha256=recording.source_sha256,
                audio_sha256=recording.audio_sha256,
                # A batch's time is shared out by length.
                timing={**recording.timing, "embed": seconds * len(waveform) / total},
                audio=to_flac(recording.speech) if keep_audio else None,
            )
            for recording, waveform, vector in zip(prepared, waveforms, vectors, strict=True)
        ]

    def embed_one(
        self,
        source: AudioSource,
        *,
        min_speech: float | None,
        channel: int | None = None,
        whole_below: float = WHOLE_BELOW,
        keep_audio: bool = False,
    ) -> Embedding:
        """Prepare and embed one recording. Raises what `prepare` and `embed` raise."""
        recording = self.prepare(source, channel)
        return self.embed([recording], min_speech=min_speech, whole_below=whole_below, keep_audio=keep_audio)[
            0
        ]

    def embed_speech(self, flacs: Sequence[bytes]) -> Float32Array:
        """Kept speech, as `Embedding.audio` has it -> float32 unit rows [len(flacs), d], as when it was enrolled."""
        return self.encoder.embed([normalise(decode(flac, limits=self.limits).samples) for flac in flacs])
