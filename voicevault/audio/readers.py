"""The two decoders behind one shape: libsndfile through soundfile, FFmpeg through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile

from voicevault.errors import AudioOutOfRangeError
from voicevault.types import Float32Array

_BLOCK = 1 << 16
"""Frames read at once."""
_MOST_PLANES = 7
"""Channels of a planar frame that PyAV may be asked for. It looks for a null pointer after the last one,
which FFmpeg's array of eight has no room for: an eighth channel ends the process."""


class DecoderFailed(Exception):
    """This decoder cannot go on with this file; another one may."""


class Reader(Protocol):
    """An opened recording: `frames` as its header has it, None where it does not say."""

    format: str
    rate: int
    channels: int
    frames: int | None

    def blocks(self, most: int) -> Iterator[Float32Array]:
        """float32 [<= 65536, channels] until the end, or until `most` frames are out.

        Raises:
            DecoderFailed: the data cannot be decoded.
        """
        ...

    def close(self) -> None: ...


class _FromStartToEnd(soundfile.SoundFile):  # type: ignore[misc]
    """soundfile seeks to where it is after every read. An MP3 loses its bit reservoir by that: the next frame is garbled, and
    libmpg123 complains on standard error."""

    def seekable(self) -> bool:
        return False


class _SoundfileReader:
    def __init__(self, file: BinaryIO) -> None:
        try:
            self._file = _FromStartToEnd(file)
        except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
            raise DecoderFailed(_reason(error)) from error
        self.format = f"{self._file.format}/{self._file.subtype}"
        self.rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        # libsndfile answers with its largest number where the length is not known; for MP3 it may be an
        # estimate.
        known = self._file.frames < 1 << 60 and self._file.format != "MP3"
        self.frames = int(self._file.frames) if known else None

    def blocks(self, most: int) -> Iterator[Float32Array]:
        while most > 0:
            try:
                block = self._file.read(min(_BLOCK, most), dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise DecoderFailed(_reason(error)) from error
            if not len(block):
                return
            most -= len(block)
            yield block

    def close(self) -> None:
        self._file.close()


class _PyAVReader:
    """FFmpeg with one demuxer, named by us, on one buffer; whatever else it would open is refused."""

    frames: int | None = None

    def __init__(self, file: BinaryIO, name: str, demuxer: str) -> None:
        import av  # takes a tenth of a second, and most recordings never need it

        self._error = av.FFmpegError
        try:
            self._container = av.open(
                file,
                mode="r",
                format=demuxer,
                container_options={"protocol_whitelist": "", "format_whitelist": demuxer},
                io_open=_refuse,
            )
        except (av.FFmpegError, ValueError, OSError) as error:
            raise DecoderFailed(_reason(error)) from error
        try:
            if not self._container.streams.audio:
                raise DecoderFailed("it has no audio track")
            stream = self._container.streams.audio[0]
            self._frames: Iterator[Any] = self._container.decode(stream)
            first = self._next()
            if first is None:
                raise DecoderFailed("its audio track is empty")
            # The first frame and not the header: HE-AAC headers state half the rate that comes out.
            self.rate = int(first.sample_rate)
            self.channels = len(first.layout.channels)
            self.format = f"{name}/{stream.codec_context.codec.canonical_name.upper()}"
            self._frames = chain([first], self._frames)
        except DecoderFailed:
            self.close()
            raise

    def _next(self) -> Any:
        try:
            return next(self._frames, None)
        except (self._error, ValueError, OSError) as error:
            raise DecoderFailed(_reason(error)) from error

    def blocks(self, most: int) -> Iterator[Float32Array]:
        while most > 0 and (frame := self._next()) is not None:
            if frame.sample_rate != self.rate or len(frame.layout.channels) != self.channels:
                raise DecoderFailed("its sample rate or channels change on the way")
            if frame.format.is_planar and self.channels > _MOST_PLANES:
                raise AudioOutOfRangeError(
                    f"The recording has {self.channels} channels, too many for its format. Export at most"
                    f" {_MOST_PLANES} of them, or all as WAV or FLAC.",
                    channels=self.channels,
                    max_channels=_MOST_PLANES,
                )
            try:
                samples = frame.to_ndarray()
            except ValueError as error:  # of 64-bit integers, for one, PyAV makes no array
                raise DecoderFailed(_reason(error)) from error
            block = _floats(samples, frame.format.is_planar, self.channels)[:most]
            most -= len(block)
            yield block

    def close(self) -> None:
        self._container.close()


def open_soundfile(file: BinaryIO) -> Reader:
    """Open a seekable buffer with libsndfile; raises DecoderFailed."""
    return _SoundfileReader(file)


def open_pyav(file: BinaryIO, name: str, demuxer: str) -> Reader:
    """Open a seekable buffer with FFmpeg's `demuxer`; `name` goes into the format; raises DecoderFailed."""
    return _PyAVReader(file, name, demuxer)


def _floats(samples: np.ndarray[Any, Any], planar: bool, channels: int) -> Float32Array:
    """PyAV's [channels, n] or [1, n * channels] of any sample type -> float32 [n, channels] in [-1, 1]."""
    frames = samples.T if planar else samples.reshape(-1, channels)
    if frames.dtype == np.uint8:
        return (frames.astype(np.float32) - 128) / np.float32(128)
    if np.issubdtype(frames.dtype, np.signedinteger):
        return (frames / float(-np.iinfo(frames.dtype).min)).astype(np.float32)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is judged later
        return np.ascontiguousarray(frames, dtype=np.float32)


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise PermissionError("a recording may not open other files")


def _reason(error: BaseException) -> str:
    """A decoder's message without the object addresses and error numbers in front of it."""
    text = str(getattr(error, "strerror", None) or getattr(error, "error_string", None) or error)
    return text.strip().rstrip(".") or type(error).__name__
