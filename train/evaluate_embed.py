"""Recordings to embeddings for an evaluation: exactly as a vault embeds, none refused, each computed once.

Decoding and speech detection run in worker processes, which load no torch; the model runs in this one.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from train.conditions import Babble, Condition, Length
from train.embedding_cache import EmbeddingCache
from train.trials import Recording
from voicevault.audio import AudioLimits, SpeechDetector, decode
from voicevault.audio.quality import measure
from voicevault.cores import available_cores
from voicevault.embedding import WHOLE_BELOW, EmbeddingPipeline, PreparedRecording, judge
from voicevault.encoder import default_model_dir, load_encoder
from voicevault.encoder.importing import kind_of
from voicevault.errors import (
    AudioError,
    AudioNotFoundError,
    CheckpointError,
    CorruptAudioError,
    ModelNotFoundError,
)
from voicevault.types import SAMPLE_RATE, Float32Array, Segment, Waveform

CHUNK = 128
"""Recordings that are embedded together, and that wait decoded in memory meanwhile."""
FEW = 16
"""Up to so many recordings, processes cost more than they save."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Embeddings of a list of recordings, in its order.

    Attributes:
        vectors: float32 [n, d] unit rows; zero rows where `failures` has an entry.
        seconds: float64 [n], length of each recording.
        speech_seconds: float64 [n], net speech found in it.
        audio_sha256: [n], hash of the decoded audio.
        failures: Place to why it cannot be used.
    """

    vectors: Float32Array
    seconds: np.ndarray[tuple[int], np.dtype[np.float64]]
    speech_seconds: np.ndarray[tuple[int], np.dtype[np.float64]]
    audio_sha256: tuple[str, ...]
    failures: dict[int, AudioError]

    @property
    def whole(self) -> int:
        """How many hold less speech than an enrollment needs, and were embedded whole therefore."""
        used = np.array([i not in self.failures for i in range(len(self.seconds))], dtype=np.bool_)
        return int((used & (self.speech_seconds < WHOLE_BELOW)).sum())

    def chosen(self, places: Sequence[int]) -> Embedded:
        """Those recordings, in that order."""
        return Embedded(
            self.vectors[places],
            self.seconds[places],
            self.speech_seconds[places],
            tuple(self.audio_sha256[i] for i in places),
            {new: self.failures[old] for new, old in enumerate(places) if old in self.failures},
        )

    def require_all(self, recordings: Sequence[Recording]) -> None:
        """Raise the first failure, and say how many there are, if there are any."""
        for place, error in self.failures.items():
            more = len(self.failures) - 1
            raise type(error)(
                f"{recordings[place].name}: {error.message}"
                + (f" {more} more recordings cannot be used either." if more else ""),
                **{**error.facts, "recordings": [recordings[i].name for i in self.failures][:50]},
            )


def load_pipeline(
    model: str, *, threads: int | None = None, device: str = "cpu", precision: str | None = None
) -> EmbeddingPipeline:
    """The pipeline of ``default``, the model that comes with the package, or of a model folder.

    Args:
        precision: ``fp32``, ``int8``, or None for the model's own choice.

    Raises:
        ModelNotFoundError, CheckpointError, SettingsError.
    """
    folder = model_folder(model)
    return EmbeddingPipeline(load_encoder(folder, threads=threads, device=device, precision=precision))


def model_folder(model: str) -> Path:
    """The folder of ``default`` or of a path.

    Raises:
        ModelNotFoundError: There is none.
        CheckpointError: It is one of another toolkit.
    """
    folder = default_model_dir() if model == "default" else Path(model)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} is no model folder: it has no config.json.", model=model)
    if (kind := kind_of(folder)) != "voicevault":
        raise CheckpointError(
            f"{folder} is a model as {kind} saves it: run `voicevault models import {folder}` and name the folder that"
            " it writes."
        )
    return folder


@dataclass(frozen=True, slots=True)
class _Task:
    path: Path
    part: tuple[int, int]
    condition: Condition | None
    key: str


def _task(recording: Recording, audio_root: Path, digest: str, condition: Condition | None) -> _Task:
    if isinstance(condition, Babble):
        condition = condition.without(recording.speaker)
    key = f"{digest}:{recording.part[0]}/{recording.part[1]}"
    if condition is not None:  # its name does not tell which noises there are
        key += f":{condition.name}:{hashlib.sha256(repr(condition).encode()).hexdigest()[:8]}"
    return _Task(audio_root / recording.path, recording.part, condition, key)


def require_recordings(
    recordings: Sequence[Recording], audio_root: Path, option: str = "--audio-root"
) -> None:
    """Raises AudioNotFoundError where a file is missing below the folder that the command line names by `option`."""
    missing = sorted({r.path for r in recordings if not (audio_root / r.path).is_file()})
    if missing:
        raise AudioNotFoundError(
            f"{len(missing)} recordings are not below {audio_root}; the first is {missing[0]}. Check {option}.",
            missing=missing[:50],
        )


def embed_recordings(
    pipeline: EmbeddingPipeline,
    recordings: Sequence[Recording],
    audio_root: Path,
    *,
    condition: Condition | None = None,
    cache: EmbeddingCache | None = None,
    workers: int | None = None,
    description: str = "embedding",
) -> Embedded:
    """Embed recordings, or pieces of them, as `Vault.embed` does; one with too little speech is embedded whole.

    Args:
        pipeline: What a vault embeds with.
        recordings: Their paths start from `audio_root`.
        audio_root: A folder.
        condition: What is done to each after decoding.
        cache: Where results are looked up and kept.
        workers: Processes that decode; None is one per core but one, 0 decodes in this process.
        description: Of the progress bar.

    Raises:
        AudioNotFoundError: Files are missing; before anything is computed.
    """
    require_recordings(recordings, audio_root)
    hashes = {path: _sha256(audio_root / path) for path in {r.path for r in recordings}}
    tasks = [_task(r, audio_root, hashes[r.path], condition) for r in recordings]
    found: dict[str, tuple[Float32Array, float, float, str]] = {}
    failed: dict[str, AudioError] = {}
    todo: dict[str, _Task] = {}
    for task in tasks:
        if cache is not None and (known := cache.get(task.key)) is not None:
            found[task.key] = known
        else:
            todo.setdefault(task.key, task)
    with _bar() as bar:
        job = bar.add_task(description, total=len(tasks), completed=len(tasks) - len(todo))
        for chunk, prepared in _prepared(list(todo.values()), pipeline, workers):
            usable = [
                (t, p) for t, p in zip(chunk, prepared, strict=True) if isinstance(p, PreparedRecording)
            ]
            failed |= {t.key: p for t, p in zip(chunk, prepared, strict=True) if isinstance(p, AudioError)}
            embeddings = pipeline.embed([p for _, p in usable], min_speech=None)
            for (task, _), e in zip(usable, embeddings, strict=True):
                row = (e.vector, e.quality.seconds, e.quality.speech_seconds, e.audio_sha256)
                found[task.key] = row
                if cache is not None:
                    cache.put(task.key, *row)
            bar.advance(job, len(chunk))
    if cache is not None:
        cache.save()
    empty = (np.zeros(pipeline.encoder.dim, dtype=np.float32), 0.0, 0.0, "")
    rows = [found.get(task.key, empty) for task in tasks]
    return Embedded(
        vectors=np.stack([row[0] for row in rows]),
        seconds=np.array([row[1] for row in rows], dtype=np.float64),
        speech_seconds=np.array([row[2] for row in rows], dtype=np.float64),
        audio_sha256=tuple(row[3] for row in rows),
        failures={i: failed[task.key] for i, task in enumerate(tasks) if task.key in failed},
    )


def _prepared(
    tasks: Sequence[_Task], pipeline: EmbeddingPipeline, workers: int | None
) -> Iterator[tuple[Sequence[_Task], list[PreparedRecording | AudioError]]]:
    """Chunks of tasks with what became of them; the next chunk is prepared while one is embedded."""
    chunks = [tasks[i : i + CHUNK] for i in range(0, len(tasks), CHUNK)]
    count = max(1, available_cores() - 1) if workers is None else workers
    if count == 0 or len(tasks) <= FEW:
        for chunk in chunks:
            yield chunk, [_prepare(task, pipeline.detector, pipeline.limits) for task in chunk]
        return
    with ExitStack() as stack:
        # Not forked: this process has torch's threads.
        pool: Executor = stack.enter_context(
            ProcessPoolExecutor(
                count,
                multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(pipeline.detector, pipeline.limits),
            )
        )
        ahead: list[list[Future[PreparedRecording | AudioError]]] = []
        try:
            for i, chunk in enumerate(chunks):
                while len(ahead) < min(i + 2, len(chunks)):
                    ahead.append([pool.submit(_work, task) for task in chunks[len(ahead)]])
                yield chunk, [future.result() for future in ahead[i]]
                ahead[i] = []
        except BrokenProcessPool as error:
            raise CorruptAudioError(
                "A decoder process crashed. Run again with --workers 0 to see which recording it is."
            ) from error


_worker: tuple[SpeechDetector, AudioLimits] | None = None


def _start_worker(detector: SpeechDetector, limits: AudioLimits) -> None:
    global _worker
    _worker = (detector, limits)


def _work(task: _Task) -> PreparedRecording | AudioError:
    assert _worker is not None
    return _prepare(task, *_worker)


def _prepare(task: _Task, detector: SpeechDetector, limits: AudioLimits) -> PreparedRecording | AudioError:
    try:
        waveform = decode(task.path, limits=limits)
    except AudioError as error:
        return error
    i, n = task.part
    if n > 1:
        length = len(waveform.samples) // n
        waveform = _changed(waveform, waveform.samples[i * length : (i + 1) * length])
    if task.condition is None:
        return judge(waveform, detector)
    seed = int.from_bytes(hashlib.sha256(task.key.encode()).digest()[:8], "big")
    if not isinstance(task.condition, Length):
        return judge(_changed(waveform, task.condition(waveform.samples, seed)), detector)
    judged = judge(waveform, detector)
    if not judged.segments:
        return judged
    kept = task.condition(judged.speech, seed)
    everywhere = (Segment(0.0, len(kept) / SAMPLE_RATE),)
    return replace(judged, samples=kept, segments=everywhere, quality=measure(kept, everywhere))


def _changed(waveform: Waveform, samples: Float32Array) -> Waveform:
    # As decoding does it: what is beyond full scale is scaled, never clipped.
    peak = float(np.max(np.abs(samples), initial=0.0))
    scaled = samples / np.float32(peak) if peak > 1.0 else samples
    return replace(waveform, samples=np.ascontiguousarray(scaled, dtype=np.float32))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
