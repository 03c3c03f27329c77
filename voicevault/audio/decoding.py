"""A recording, in whatever form it comes, to a mono 16 kHz waveform: limits first, in bounded memory."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from voicevault.audio.container import Container, TooManyPiecesError, is_truncated, sniff
from voicevault.audio.limits import AudioLimits
from voicevault.audio.readers import DecoderFailed, Reader, open_pyav, open_soundfile
from voicevault.errors import (
    AudioNotFoundError,
    AudioOutOfRangeError,
    AudioTooLargeError,
    AudioTooLongError,
    CorruptAudioError,
    EmptyAudioError,
    InvalidSamplesError,
    SilentAudioError,
    UnsupportedAudioError,
)
from voicevault.types import SAMPLE_RATE, AudioSource, Float32Array, Waveform

FORMATS = "WAV, FLAC, MP3, Ogg Vorbis, Opus, M4A/AAC, WebM, AMR, AIFF, CAF, AU, W64, WavPack, WMA"

_QUIET = 3 / 32768
"""Peak to peak; what stays below it all along is the last bit of a 16-bit converter."""
_CHUNK = 1 << 20
_DEFAULT_LIMITS = AudioLimits()


def decode(
    source: AudioSource, *, limits: AudioLimits = _DEFAULT_LIMITS, channel: int | None = None
) -> Waveform:
    """Decode a recording to mono float32 [n] at 16 kHz, in [-1, 1].

    Args:
        source: A path, the bytes of a file, or an open binary file (read from where it stands; not closed).
        limits: What the recording may cost.
        channel: The channel to take, from 0; None mixes all of them to their mean.

    Samples beyond full scale (float files, resampling) are brought back by scaling the whole recording, never
    by clipping.

    Raises:
        AudioNotFoundError, AudioTooLargeError, EmptyAudioError, UnsupportedAudioError: before anything is
        decoded. AudioOutOfRangeError: the rate, the number of channels or `channel`.
        AudioTooLongError: longer than `limits.max_seconds`; noticed one sample after it, or before anything is decoded
        where the file has more pieces than so many seconds take.
        CorruptAudioError, InvalidSamplesError, SilentAudioError: what was decoded cannot be used.
    """
    data = _read(source, limits)
    container = sniff(data)
    if container is None:
        raise UnsupportedAudioError(
            "The content is in no audio format that is opened here, whatever its name says."
            f" Convert it to one of: {FORMATS}.",
            formats=FORMATS,
        )
    try:
        truncated = is_truncated(container, data, limits.max_seconds)
    except TooManyPiecesError as error:
        raise _too_long(limits, None) from error
    if truncated:
        raise _corrupt(container.name, "it ends before its own header says it does")
    decoded = _decode(container, data, limits, channel)
    samples = decoded.samples
    peak = float(np.max(np.abs(samples), initial=0.0))
    if peak > 1.0:
        samples = samples / np.float32(peak)
    pcm = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype("<i2")
    return Waveform(
        samples=samples,
        source_sha256=hashlib.sha256(data).hexdigest(),
        audio_sha256=hashlib.sha256(pcm.tobytes()).hexdigest(),
        format=decoded.format,
        source_rate=decoded.rate,
        source_channels=decoded.channels,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    samples: Float32Array
    format: str
    rate: int
    channels: int


def _read(source: AudioSource, limits: AudioLimits) -> bytes:
    """All bytes of the recording, at most one more than the limit ever in memory."""
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source) if len(source) <= limits.max_bytes else None
    elif isinstance(source, str | Path):
        data = _read_file(Path(source), limits)
    else:
        parts: list[bytes] = []
        left = limits.max_bytes + 1
        while left > 0 and (part := source.read(min(left, _CHUNK))):
            parts.append(part)
            left -= len(part)
        data = b"".join(parts) if left > 0 else None
    if data is None:
        raise AudioTooLargeError(
            f"The recording has more than {limits.max_bytes} bytes. Cut it, or compress it (FLAC, Opus).",
            max_bytes=limits.max_bytes,
        )
    if not data:
        raise EmptyAudioError("The recording has no bytes. Check how it was recorded or uploaded.")
    return data


def _read_file(path: Path, limits: AudioLimits) -> bytes | None:
    try:
        status = path.stat()
        # A pipe or a device would be waited for, perhaps for ever.
        if not stat.S_ISREG(status.st_mode):
            raise AudioNotFoundError(f"{path} is not a file. Give the path of a recording.", path=str(path))
        if status.st_size > limits.max_bytes:
            return None
        with path.open("rb") as file:
            # Asked for as much as is allowed, Python would map that memory and give it back, for every recording.
            data = file.read(status.st_size + 1)
            if len(data) > status.st_size:  # it grows
                data += file.read(limits.max_bytes + 1 - len(data))
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise AudioNotFoundError(
            f"{path} cannot be read: {reason}. Check the path.", path=str(path)
        ) from error
    return data if len(data) <= limits.max_bytes else None


def _decode(container: Container, data: bytes, limits: AudioLimits, channel: int | None) -> _Decoded:
    """With libsndfile where it knows the container; otherwise, or where it fails, with FFmpeg."""
    reason = "no decoder opens it"
    if container.soundfile:
        try:
            with closing(open_soundfile(io.BytesIO(data))) as reader:
                return _collect(reader, limits, channel)
        except DecoderFailed as error:
            reason = str(error)
    if container.demuxer is not None:
        try:
            with closing(open_pyav(io.BytesIO(data), container.name, container.demuxer)) as reader:
                return _collect(reader, limits, channel)
        except DecoderFailed as error:
            reason = str(error)
    raise _corrupt(container.name, reason)


def _collect(reader: Reader, limits: AudioLimits, channel: int | None) -> _Decoded:
    """Blocks in, mono 16 kHz out; resampled in stream, so that a high rate costs no memory."""
    rate, channels = reader.rate, reader.channels
    _check_shape(rate, channels, limits, channel)
    most = int(limits.max_seconds * rate)
    if reader.frames is not None and reader.frames > most:
        raise _too_long(limits, reader.frames / rate)
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32") if rate != SAMPLE_RATE else None
    parts: list[Float32Array] = []
    count, low, high = 0, np.inf, -np.inf
    for mono in _mono(reader.blocks(most + 1), channel):
        count += len(mono)
        if count > most:
            raise _too_long(limits, None)
        if not np.isfinite(mono).all():
            raise InvalidSamplesError(
                "The recording holds NaN or infinite samples. Export it again from its source."
            )
        low, high = min(low, float(mono.min())), max(high, float(mono.max()))
        parts.append(mono if resampler is None else resampler.resample_chunk(mono))
    if count == 0:
        raise EmptyAudioError("The recording holds no samples. Check how it was recorded.")
    if reader.frames is not None and count < reader.frames:
        # Not for the other decoder to try: where the cut falls between two frames, it would notice nothing.
        raise _corrupt(reader.format, f"it ends after {count} of {reader.frames} samples")
    # A constant offset is silence too, so the swing counts and not the peak.
    if high - low <= _QUIET:
        raise SilentAudioError("The recording is silent. Check the microphone, or choose another channel.")
    if resampler is not None:
        parts.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    samples = np.concatenate(parts)
    if not samples.size:
        raise EmptyAudioError("The recording is too short to hold one sample at 16 kHz. Record again.")
    return _Decoded(samples, reader.format, rate, channels)


def _mono(blocks: Iterator[Float32Array], channel: int | None) -> Iterator[Float32Array]:
    """float32 [n, channels] -> float32 [n], empty blocks left out."""
    for block in blocks:
        if not len(block):
            continue
        if channel is not None:
            yield np.ascontiguousarray(block[:, channel])
        elif block.shape[1] == 1:
            yield block[:, 0]
        else:
            with np.errstate(all="ignore"):  # NaN and overflow are judged by the caller
                yield block.mean(axis=1, dtype=np.float32)


def _check_shape(rate: int, channels: int, limits: AudioLimits, channel: int | None) -> None:
    if not limits.min_rate <= rate <= limits.max_rate:
        raise AudioOutOfRangeError(
            f"The sample rate is {rate} Hz. Resample to between {limits.min_rate} and {limits.max_rate} Hz.",
            rate=rate,
            min_rate=limits.min_rate,
            max_rate=limits.max_rate,
        )
    if channels > limits.max_channels:
        raise AudioOutOfRangeError(
            f"The recording has {channels} channels. Export at most {limits.max_channels} of them.",
            channels=channels,
            max_channels=limits.max_channels,
        )
    if channel is not None and not 0 <= channel < channels:
        raise AudioOutOfRangeError(
            f"There is no channel {channel}. Choose one from 0 to {channels - 1}.",
            channel=channel,
            channels=channels,
        )


def _too_long(limits: AudioLimits, seconds: float | None) -> AudioTooLongError:
    length = f"lasts {seconds:.0f} s" if seconds is not None else "goes on"
    return AudioTooLongError(
        f"The recording {length}; {limits.max_seconds:g} s is the limit. Cut out the part to use.",
        max_seconds=limits.max_seconds,
        seconds=seconds,
    )


def _corrupt(name: str, reason: str) -> CorruptAudioError:
    return CorruptAudioError(
        f"The {name} recording is broken or truncated: {reason}. Copy or export it again.",
        format=name,
        reason=reason,
    )
