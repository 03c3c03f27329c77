"""Every recording that cannot be used ends in its own error, soon, and the error says what to do."""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from voicevault import errors
from voicevault.audio import AudioLimits, decode, decoding

PLAYLISTS = [
    "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile '{url}'\n",
    "[playlist]\nFile1={url}\n",
    "v=0\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", errors.EmptyAudioError),
        (b"This is no recording, whatever it is called.\n" * 9, errors.UnsupportedAudioError),
        (bytes(4096), errors.UnsupportedAudioError),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), errors.UnsupportedAudioError),
        (b"%PDF-1.7\n" + bytes(99), errors.UnsupportedAudioError),
        (b"PK\x03\x04" + bytes(99), errors.UnsupportedAudioError),
        (b"RIFF\x24\0\0\0WAVE", errors.CorruptAudioError),
        (b"fLaC" + bytes(99), errors.CorruptAudioError),
        (b"OggS" + bytes(99), errors.CorruptAudioError),
        (b"ID3" + bytes(99), errors.CorruptAudioError),
        (b"\xff\xfb\x90\x00" + bytes(99), errors.CorruptAudioError),
        (b"\x1a\x45\xdf\xa3" + bytes(99), errors.CorruptAudioError),
        (b"\0\0\0\x18ftypM4A " + bytes(99), errors.CorruptAudioError),
    ],
)
def test_what_is_no_recording(data: bytes, error: type[errors.AudioError], tmp_path: Path) -> None:
    path = tmp_path / "renamed.wav"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(error) as caught:
            decode(source)
        assert len(caught.value.message.split(". ")) >= 2  # what happened, and what to do


def test_every_prefix_of_a_file_ends_in_a_typed_error(tones: Any, write_sound: Any, write_av: Any) -> None:
    files = [
        write_sound(tones(16000), 16000, "WAV"),
        *(write_sound(tones(16000), 16000, name) for name in ("FLAC", "AIFF", "AU", "CAF", "W64", "RF64")),
        write_sound(tones(44100), 44100, "MP3", None),
        write_sound(tones(44100), 44100, "OGG", "VORBIS"),
        write_sound(tones(48000), 48000, "OGG", "OPUS"),
        write_av(tones(44100), 44100, "ipod", "aac"),
        write_av(tones(44100), 44100, "ipod", "aac", movflags="frag_keyframe+empty_moov"),
        write_av(tones(48000), 48000, "webm", "libopus"),
    ]
    for data in files:
        decode(data)
        for share in (0.02, 0.1, 0.5, 0.9, 0.99):
            cut = data[: int(len(data) * share)]
            with pytest.raises((errors.CorruptAudioError, errors.UnsupportedAudioError)):
                decode(cut)


def test_eight_channels_in_a_planar_format_do_not_end_the_process() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as output:
        stream: Any = output.add_stream("aac", rate=48000, layout="7.1")
        pcm = np.random.default_rng(7).integers(-9999, 9999, (1, 48000 * 8), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="7.1")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    with pytest.raises(errors.AudioOutOfRangeError, match="at most 7"):
        decode(buffer.getvalue())


def test_a_sample_type_that_no_decoder_gives_out(tones: Any, write_sound: Any) -> None:
    """WAV of 64-bit integers, which FFmpeg opens and PyAV makes no array of."""
    data = bytearray(write_sound(tones(16000), 16000, "WAV", "DOUBLE"))
    at = data.find(b"fmt ") + 8
    assert data[at : at + 2] == b"\x03\x00"
    data[at : at + 2] = b"\x01\x00"
    with pytest.raises(errors.CorruptAudioError, match="s64"):
        decode(bytes(data))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_that_was_written_to_a_pipe(tones: Any, write_sound: Any, size: int) -> None:
    """Its header states a length that nobody could know."""
    data = bytearray(write_sound(tones(16000), 16000))
    at = data.find(b"data") + 4
    data[4:8] = data[at : at + 4] = size.to_bytes(4, "little")
    assert decode(bytes(data)).seconds == 1.5


def test_damage_never_escapes_the_tree(tones: Any, write_sound: Any, write_av: Any) -> None:
    rng = np.random.default_rng(1)
    for data in (
        write_sound(tones(16000), 16000, "WAV"),
        write_sound(tones(16000), 16000, "FLAC"),
        write_sound(tones(16000), 16000, "OGG", "VORBIS"),
        write_sound(tones(16000), 16000, "MP3", None),
        write_av(tones(16000), 16000, "mp4", "aac"),
        write_av(tones(48000), 48000, "webm", "libopus"),
    ):
        for _ in range(15):
            broken = bytearray(data)
            for at in rng.integers(0, len(broken), 8):
                broken[at] = rng.integers(256)
            with contextlib.suppress(errors.AudioError):
                assert np.isfinite(decode(bytes(broken)).samples).all()


def test_samples_that_cannot_be_used(tones: Any, write_sound: Any) -> None:
    nan = np.full(16000, np.nan, dtype=np.float32)
    one = tones(16000)
    one[777] = np.inf
    for samples in (nan, one):
        for rate in (16000, 44100):
            with pytest.raises(errors.InvalidSamplesError):
                decode(write_sound(samples, rate, "WAV", "FLOAT"))
    for quiet in (np.zeros(44100), np.full(44100, 0.25), np.sign(np.sin(np.arange(44100))) / 32768):
        for rate in (16000, 44100):
            with pytest.raises(errors.SilentAudioError):
                decode(write_sound(quiet.astype(np.float32), rate))
    with pytest.raises(errors.EmptyAudioError):
        decode(write_sound(np.zeros(0, dtype=np.float32), 16000))


def test_a_file_that_grows_is_read_to_its_end(
    tones: Any, write_sound: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_sound(tones(16000, 2.0), 16000)
    path = tmp_path / "grows.wav"
    path.write_bytes(data[:1000])
    before = path.stat()
    path.write_bytes(data)
    monkeypatch.setattr(Path, "stat", lambda _, **__: before)
    assert decode(path).source_sha256 == decode(data).source_sha256
    with pytest.raises(errors.AudioTooLargeError):
        decode(path, limits=AudioLimits(max_bytes=len(data) - 1))


def test_limits(tones: Any, write_sound: Any, tmp_path: Path) -> None:
    data = write_sound(tones(16000, 2.0), 16000)
    path = tmp_path / "long.wav"
    path.write_bytes(data)
    for source in (data, path, io.BytesIO(data)):
        with pytest.raises(errors.AudioTooLargeError):
            decode(source, limits=AudioLimits(max_bytes=len(data) - 1))
        with pytest.raises(errors.AudioTooLongError):
            decode(io.BytesIO(data), limits=AudioLimits(max_seconds=1.9999))
    decode(data, limits=AudioLimits(max_bytes=len(data), max_seconds=2.0))
    with pytest.raises(errors.AudioOutOfRangeError):
        decode(data, limits=AudioLimits(min_rate=16001))
    with pytest.raises(errors.AudioOutOfRangeError):
        decode(data, limits=AudioLimits(max_rate=15999))
    with pytest.raises(errors.AudioOutOfRangeError):
        decode(write_sound(np.zeros((99, 3), np.float32), 16000), limits=AudioLimits(max_channels=2))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing.wav", tmp_path, tmp_path / "pipe", "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(errors.AudioNotFoundError):
            decode(path)


@pytest.mark.parametrize(("format", "subtype"), [("FLAC", "PCM_16"), ("OGG", "OPUS")])
def test_hours_in_a_small_file(write_sound: Any, format: str, subtype: str) -> None:
    hours = 10 if format == "FLAC" else 0.2  # encoding Opus is slow
    data = write_sound(np.zeros(int(8000 * 3600 * hours), dtype=np.int16), 8000, format, subtype)
    with pytest.raises(errors.AudioTooLongError, match=f"{3600 * hours:.0f} s"):
        decode(data, limits=AudioLimits(max_seconds=600))


def test_a_bomb_stops_at_the_limit(
    write_av: Any, write_sound: Any, tones: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No header says how long it is: what was taken from the decoder is counted."""
    taken = 0
    mono = decoding._mono

    def counting(blocks: Any, channel: int | None) -> Any:
        nonlocal taken
        for block in mono(blocks, channel):
            taken += len(block)
            yield block

    monkeypatch.setattr(decoding, "_mono", counting)
    bomb = write_av(np.zeros(48000 * 600, dtype=np.float32), 48000, "webm", "libopus", live="1")
    tracemalloc.start()
    with pytest.raises(errors.AudioTooLongError):
        decode(bomb, limits=AudioLimits(max_seconds=5))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{len(bomb)} bytes hold 600 s; {taken} samples were taken, {peak / 1e6:.1f} MB used at most")
    assert taken == 5 * 48000 + 1
    assert peak < 8_000_000 + len(bomb)


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_a_playlist_opens_nothing(playlist: str, tones: Any, write_sound: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(write_sound(tones(16000), 16000))
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for url in (f"http://127.0.0.1:{server.server_port}/a.wav", str(other), "other.wav"):
            path = tmp_path / "playlist.wav"
            path.write_text(playlist.format(url=url))
            with pytest.raises(errors.UnsupportedAudioError):
                decode(path)
    finally:
        server.shutdown()
        server.server_close()
    assert not asked


def test_decoding_and_detecting_never_load_torch(tones: Any, write_av: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(write_av(tones(44100), 44100, "ipod", "aac"))
    code = (
        "import sys; from voicevault.embedding import prepare; from voicevault.audio import *;"
        "prepare(sys.argv[1], SpeechDetector(), AudioLimits());"
        "bad = {'torch', 'silero_vad', 'faiss', 'sqlalchemy'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=Path(__file__).parents[2])
