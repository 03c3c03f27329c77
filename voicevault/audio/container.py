"""Which format a file is, told from its first bytes alone, and whether it was cut short.

The name of a file says nothing and FFmpeg's own guessing is never asked: a playlist that is called ``.wav``
would make it open other files and the network. What is not in the table here is not opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_RIFF_STREAMED = 0x7FFF0000
"""Data sizes from here on are placeholders of programs that wrote to a pipe and could not know the length."""

_AMR_NB = (12, 13, 15, 17, 19, 20, 26, 31, 5, 0, 0, 0, 0, 0, 0, 0)
_AMR_WB = (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 0, 0, 0, 0, 0, 0)
"""Bytes of a frame's speech, by frame type (RFC 4867)."""

_MOST_CHUNKS = 4096
"""Chunks that a file may be made of; a few are usual, and an editor's notes make some hundred."""
_PIECES_A_SECOND = 500
"""Most frames, pages or boxes that a second of a streamed format takes: Opus has packets of 2.5 ms, and a page may hold one
packet only."""
_SOME_PIECES = 1000
"""As many may stand in any file, however short: headers, tags, padding."""


class TooManyPiecesError(Exception):
    """A streamed file has more frames, pages or boxes than the longest recording."""


@dataclass(frozen=True, slots=True)
class Container:
    """A format that is opened here.

    Attributes:
        name: For people, e.g. ``WAV``.
        soundfile: Whether libsndfile is tried first.
        demuxer: FFmpeg's demuxer, or None where only libsndfile opens it.
    """

    name: str
    soundfile: bool
    demuxer: str | None


_WAV = Container("WAV", True, "wav")
_MP3 = Container("MP3", True, "mp3")
_ADTS = Container("AAC", False, "aac")
_MP4 = Container("M4A", False, "mov")
_AMR = Container("AMR", False, "amr")
_OGG = Container("OGG", True, "ogg")
_WEBM = Container("WEBM", False, "matroska")

_MAGIC: tuple[tuple[bytes, Container], ...] = (
    (b"fLaC", Container("FLAC", True, "flac")),
    (b"OggS", _OGG),
    (b"RF64", _WAV),
    (b"RIFX", Container("WAV", True, None)),
    (b"riff\x2e\x91\xcf\x11", Container("W64", True, "w64")),
    (b"caff", Container("CAF", True, "caf")),
    (b".snd", Container("AU", True, "au")),
    (b"ID3", _MP3),
    (b"\x1a\x45\xdf\xa3", _WEBM),
    (b"#!AMR", _AMR),
    (b"wvpk", Container("WV", False, "wv")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Container("WMA", False, "asf")),
)


def sniff(data: bytes) -> Container | None:
    """The format of `data` (the bytes of a file), or None where it is none of those that are opened here."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _WAV
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return Container("AIFF", True, "aiff")
    if data[4:8] == b"ftyp":
        return _MP4
    for magic, container in _MAGIC:
        if data.startswith(magic):
            return container
    if len(data) > 4 and data[0] == 0xFF:
        if data[1] & 0xF6 == 0xF0:
            return _ADTS
        # MPEG audio: the version, layer, bit rate and sample rate that are reserved rule out most accidents.
        valid = data[1] & 0x18 != 0x08 and data[1] & 0x06 and data[2] >> 4 != 0xF and data[2] & 0x0C != 0x0C
        if data[1] & 0xE0 == 0xE0 and valid:
            return _MP3
    return None


def is_truncated(container: Container, data: bytes, max_seconds: float) -> bool:
    """Whether the file's own structure says that bytes are missing at its end.

    Decoders play what is there and say nothing, so half a recording would pass for a whole one.

    Raises:
        TooManyPiecesError: Nothing that lasts `max_seconds` or less has as many pieces. Without that bound, a file of nothing
            but empty pieces would take minutes, here and in its decoder.
    """
    if walk := _WALKS.get(container.name):
        return walk(data, _SOME_PIECES + int(max_seconds * _PIECES_A_SECOND))
    check = _CHECKS.get(container.name)
    return check is not None and check(data)


def _wav(data: bytes) -> bool:
    if data[:4] == b"RF64":
        return int.from_bytes(data[20:28], "little") + 8 > len(data)
    if data[:4] != b"RIFF":
        return False
    at = 12
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            break
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"data":
            return size < _RIFF_STREAMED and at + 8 + size > len(data)
        at += 8 + size + size % 2
    return True  # its samples do not begin


def _aiff(data: bytes) -> bool:
    return int.from_bytes(data[4:8], "big") + 8 > len(data)


def _w64(data: bytes) -> bool:
    return int.from_bytes(data[16:24], "little") > len(data)


def _au(data: bytes) -> bool:
    start, size = int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big")
    return size < _RIFF_STREAMED and start + size > len(data)


def _caf(data: bytes) -> bool:
    at = 8
    for _ in range(_MOST_CHUNKS):
        if at + 12 > len(data):
            return at > len(data)
        size = int.from_bytes(data[at + 4 : at + 12], "big")
        if size >= 1 << 63:  # -1: to the end of the file
            return False
        at += 12 + size
    return True


def _ogg(data: bytes, most: int) -> bool:
    at = 0
    for _ in range(most):
        if data[at : at + 4] != b"OggS":
            # Whatever follows the last page and is not the beginning of one is a tag or padding, not a loss.
            return at > len(data) or (at < len(data) and b"OggS".startswith(data[at : at + 4]))
        table = at + 27
        if table > len(data):
            return True
        segments = data[table : table + data[at + 26]]
        at = table + data[at + 26] + sum(segments)
    raise TooManyPiecesError


def _mp4(data: bytes, most: int) -> bool:
    at = 0
    for _ in range(most):
        if at + 8 > len(data):
            return at > len(data)
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        elif size == 0:  # to the end of the file
            return False
        if size < 8:
            return False
        at += size
    raise TooManyPiecesError


def _webm(data: bytes) -> bool:
    at = 0
    for _ in range(_MOST_CHUNKS):
        if at + 12 > len(data):
            break
        segment = data[at : at + 4] == b"\x18\x53\x80\x67"
        at += 4
        width = 9 - data[at].bit_length()
        if width > 8:
            return False
        unknown = (1 << 7 * width) - 1
        size = int.from_bytes(data[at : at + width], "big") & unknown
        at += width
        if segment:
            return size != unknown and at + size > len(data)
        at += size
    return True  # its samples do not begin


def _mp3(data: bytes) -> bool:
    # Encoders that know the length note it in a Xing frame: flags, then frames, then bytes from this frame
    # on.
    at = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        b = data[6:10]
        at = 10 + (b[0] << 21 | b[1] << 14 | b[2] << 7 | b[3])
    head = data[at : at + 64]
    mark = max(head.find(b"Xing"), head.find(b"Info"))
    if mark < 0:
        return at >= len(data)
    flags = int.from_bytes(head[mark + 4 : mark + 8], "big")
    if not flags & 2:
        return False
    field = mark + 8 + (4 if flags & 1 else 0)
    size = int.from_bytes(head[field : field + 4], "big")
    # Some encoders leave the Xing frame itself out, so the number may be smaller than the file, never larger.
    return size > len(data) - at


def _amr(data: bytes, most: int) -> bool:
    wide = data.startswith(b"#!AMR-WB\n")
    sizes = _AMR_WB if wide else _AMR_NB
    at = 9 if wide else 6
    for _ in range(most):
        if at >= len(data):
            return at > len(data)
        at += 1 + sizes[data[at] >> 3 & 0x0F]
    raise TooManyPiecesError


_CHECKS: dict[str, Callable[[bytes], bool]] = {
    "WAV": _wav,
    "AIFF": _aiff,
    "W64": _w64,
    "AU": _au,
    "CAF": _caf,
    "WEBM": _webm,
    "MP3": _mp3,
}
_WALKS: dict[str, Callable[[bytes, int], bool]] = {"OGG": _ogg, "M4A": _mp4, "AMR": _amr}
"""Formats that are walked through to their end, in so many steps at most."""
