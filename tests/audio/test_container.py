"""How a file is walked through: whole recordings of any length pass, and no file takes many steps."""

from __future__ import annotations

from contextlib import suppress

import pytest

from voicevault import errors
from voicevault.audio import AudioLimits, decode
from voicevault.audio.container import TooManyPiecesError, is_truncated, sniff

WAV = b"RIFF\x24\0\0\0WAVE"
MP4 = b"\0\0\0\x18ftypM4A " + bytes(12)
EMPTY = {
    "AMR": (b"#!AMR\n", b"\x7c"),
    "AMR-WB": (b"#!AMR-WB\n", b"\x7c"),
    "OGG": (b"", b"OggS" + bytes(23)),
    "M4A": (MP4, b"\0\0\0\x08free"),
    "WAV": (WAV, b"JUNK" + bytes(4)),
    "CAF": (b"caff\0\1\0\0", b"free" + bytes(8)),
    "WEBM": (b"", b"\x1a\x45\xdf\xa3\x80"),
}
"""By format: how a file begins, and a piece that holds nothing."""


class Counted(bytes):
    """Counts how often it is looked into."""

    looks = 0

    def __getitem__(self, where: object) -> object:  # type: ignore[override]
        self.looks += 1
        return super().__getitem__(where)  # type: ignore[index]


def truncated(data: bytes, max_seconds: float) -> bool:
    container = sniff(data)
    assert container is not None
    return is_truncated(container, data, max_seconds)


@pytest.mark.parametrize("format", EMPTY)
def test_a_file_of_nothing_but_empty_pieces_takes_few_steps(format: str) -> None:
    first, piece = EMPTY[format]
    data = Counted(first + piece * 300_000)
    with suppress(TooManyPiecesError):
        assert truncated(data, max_seconds=60)
    assert 100 < data.looks < 200_000


@pytest.mark.parametrize("format", EMPTY)
def test_such_a_file_is_refused_before_a_decoder_walks_it_again(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("it was given to a decoder")

    for decoder in ("open_soundfile", "open_pyav"):
        monkeypatch.setattr(f"voicevault.audio.decoding.{decoder}", opened)
    first, piece = EMPTY[format]
    with pytest.raises((errors.AudioTooLongError, errors.CorruptAudioError)):
        decode(first + piece * 300_000, limits=AudioLimits(max_seconds=60))


def test_an_upload_of_the_most_bytes_is_no_burden() -> None:
    """Byte by byte, this one takes minutes."""
    with pytest.raises(errors.AudioTooLongError):
        decode(b"#!AMR\n" + b"\x7c" * (250 << 20))


@pytest.mark.parametrize(
    ("first", "piece", "a_second"),
    [
        (b"#!AMR\n", b"\x3c" + bytes(31), 50),
        (b"#!AMR-WB\n", b"\x44" + bytes(60), 50),
        (b"", b"OggS" + bytes(22) + b"\x01\x50" + bytes(80), 400),  # packets of 2.5 ms, a page for each
        (MP4, (b"\0\0\0\x10moof" + bytes(8)) + (b"\0\0\0\x20mdat" + bytes(24)), 100),
    ],
    ids=["AMR", "AMR-WB", "OGG", "M4A"],
)
def test_an_hour_in_many_pieces_is_whole_and_its_cut_is_seen(
    first: bytes, piece: bytes, a_second: int
) -> None:
    whole = first + piece * (3600 * a_second)
    assert not truncated(whole, max_seconds=3600)
    assert truncated(whole[:-3], max_seconds=3600)


def test_hundreds_of_chunks_are_still_a_wav() -> None:
    notes = (b"note\x04\0\0\0" + bytes(4)) * 900
    samples = b"data\x10\0\0\0" + bytes(16)
    assert not truncated(WAV + notes + samples, max_seconds=60)
    assert truncated(WAV + notes + samples[:-1], max_seconds=60)
