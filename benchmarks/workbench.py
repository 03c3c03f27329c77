"""What is measured with: recordings, clips cut from them, the model, and a vault of its own."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.benchmark import Options
from voicevault.errors import RequestError
from voicevault.types import SAMPLE_RATE, Float32Array, ManifestRow

if TYPE_CHECKING:
    from voicevault.embedding import EmbeddingPipeline
    from voicevault.settings import Settings
    from voicevault.store import Store
    from voicevault.vault import Vault


def model_path(options: Options) -> Path:
    """The folder of the model that the options name. Raises ModelNotFoundError."""
    from voicevault.bootstrap import model_folder
    from voicevault.settings import Settings

    return model_folder(Settings(model=options.model))


def bundled_voices() -> Path:
    """The folder of the synthetic voices that come with the package."""
    import voicevault

    return Path(voicevault.__file__).parent / "demo" / "voices"


def find_recordings(options: Options) -> list[ManifestRow]:
    """The recordings that the options name, or the bundled ones, in a stable order.

    Raises:
        ManifestError: The folder or manifest cannot be read.
        RequestError: There are no bundled voices.
    """
    from voicevault.manifest import read_corpus

    source = options.voices if options.voices is not None else bundled_voices()
    if not source.exists():
        raise RequestError(
            f"There are no recordings at {source}. Give some: --voices FOLDER (speaker/recording) or MANIFEST.",
            path=str(source),
        )
    return read_corpus(source)


def by_speaker(rows: Sequence[ManifestRow]) -> dict[str, list[ManifestRow]]:
    """The recordings of each speaker, in order."""
    found: dict[str, list[ManifestRow]] = {}
    for row in rows:
        found.setdefault(row.speaker, []).append(row)
    return found


@contextmanager
def temporary_settings(options: Options, beside: Path, **changes: Any) -> Iterator[Settings]:
    """Settings of a vault of its own, on the disk of `beside`, deleted afterwards.

    The database of the user, which the environment may name, is never touched.
    """
    from voicevault.settings import Settings

    with tempfile.TemporaryDirectory(prefix="vault-", dir=beside.parent) as folder:
        home = Path(folder).absolute()
        yield Settings(
            home=home,
            database_url=f"sqlite:///{home / 'voicevault.db'}",
            model=str(model_path(options).absolute()),
            **changes,
        )


def open_database(settings: Settings) -> closing[Store]:
    """The database of a vault, for what a vault does not show."""
    from voicevault.bootstrap import open_store

    return closing(open_store(settings))


def synthetic_gallery(size: int, dim: int, seed: int) -> Float32Array:
    """Unit vectors float32 [size, dim] in random directions: a scan's time does not depend on them."""
    vectors = np.random.default_rng(seed).standard_normal((size, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def fill_gallery(settings: Settings, vault: Vault, speakers: int, seed: int) -> None:
    """Puts synthetic voiceprints into the collection, one speaker each."""
    from voicevault.store import NewEnrollment
    from voicevault.types import Embedding, Quality
    from voicevault.vault import DEFAULT_COLLECTION

    vectors = synthetic_gallery(speakers, vault.dim, seed)
    quality = Quality(3.0, 3.0, -20.0, 0.0, None)
    with open_database(settings) as store:
        for start in range(0, speakers, 1_000):
            batch = [
                NewEnrollment(
                    f"speaker-{place}",
                    Embedding(vectors[place], vault.model_id, quality, f"f{place:063x}", f"f{place:063x}"),
                )
                for place in range(start, min(start + 1_000, speakers))
            ]
            store.add_enrollments(DEFAULT_COLLECTION, batch)


def speech_clip(pipeline: EmbeddingPipeline, rows: Sequence[ManifestRow], seconds: float) -> Float32Array:
    """float32 [seconds * 16,000] of speech without its pauses, from recordings of one speaker, repeated where
    they are too short.

    Raises:
        RequestError: There is no speech in them.
    """
    wanted, have, parts = round(seconds * SAMPLE_RATE), 0, []
    for row in rows:
        speech = pipeline.prepare(row.path).speech
        parts.append(speech)
        have += len(speech)
        if have >= wanted:
            break
    if not have:
        raise RequestError(f"The recordings of {rows[0].speaker} hold no speech.", speaker=rows[0].speaker)
    return np.resize(np.concatenate(parts), wanted).astype(np.float32)


SOUNDFILE = {
    "WAV": ("WAV", "PCM_16", SAMPLE_RATE),
    "WAV 48 kHz": ("WAV", "PCM_24", 48_000),
    "FLAC": ("FLAC", "PCM_16", SAMPLE_RATE),
    "MP3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "Ogg Vorbis": ("OGG", "VORBIS", SAMPLE_RATE),
    "Ogg Opus": ("OGG", "OPUS", SAMPLE_RATE),
}
AAC = "M4A AAC"
FORMATS = (*SOUNDFILE, AAC)


def encode_audio(samples: Float32Array, format: str) -> bytes:
    """A file of one of FORMATS that holds `samples` (mono, 16 kHz), as a client would send it."""
    buffer = io.BytesIO()
    if format == AAC:
        import av

        with av.open(buffer, "w", format="ipod") as output:
            stream: Any = output.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            pcm = np.rint(samples * 32767).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                output.mux(packet)
        return buffer.getvalue()
    import soundfile
    import soxr

    container, codec, rate = SOUNDFILE[format]
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, SAMPLE_RATE, rate)
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0), rate, format=container, subtype=codec)
    return buffer.getvalue()
