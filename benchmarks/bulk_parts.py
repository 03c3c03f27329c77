"""What bulk enrollment is held against: its stages one by one, and the bare encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from benchmarks.rows import Rows
from benchmarks.timing import one_thread, timed
from voicevault.types import DuplicatePolicy, Float32Array, ManifestRow, Waveform

if TYPE_CHECKING:
    from voicevault.bulk.stages import Embedded, Prepared
    from voicevault.embedding import EmbeddingPipeline
    from voicevault.settings import Settings
    from voicevault.vault import Vault

T = TypeVar("T")

_PATIENCE = 300.0
"""Seconds that one process of a crowd waits for the others."""


def stages_alone(vault: Vault, chosen: Sequence[ManifestRow], batch: int, rows: Rows, number: int) -> None:
    """Each stage by itself on one thread, in batches as bulk enrollment has them."""

    def stage(name: str, call: Callable[[], object]) -> None:
        took = timed(name, number, call)
        rows.append(
            "stage", round=number, stage=name, recordings=len(chosen), seconds=took.wall, cpu=took.cpu
        )

    collection = f"stages-{number}"
    vault.create_collection(collection)
    with _one_thread(vault), closing(_Committer(vault, collection)) as committer:
        vault.pipeline.encoder.embed([np.ones(16_000, dtype=np.float32)])  # the model is loaded and warm
        embedded = _embedded(vault, chosen, batch, stage)
        stage("commit", lambda: committer.commit(_parts(embedded, batch)))
    vault.delete_collection(collection)


def stages_crowded(vault: Vault, chosen: Sequence[ManifestRow], batch: int, rows: Rows, number: int) -> None:
    """The stages before the commit on every core at once, a process on each, all at the same stage.

    What a recording takes longer than in `stages_alone` is what the cores share: caches, memory, power.
    """
    from voicevault.cores import available_cores

    cores, context = available_cores(), get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(cores, mp_context=context) as pool,
    ):
        together = manager.Barrier(cores, timeout=_PATIENCE)
        crowd = [
            pool.submit(_one_of_a_crowd, vault.settings, list(chosen), batch, number, together)
            for _ in range(cores)
        ]
        for one in crowd:
            for name, cpu in one.result().items():
                rows.append("crowded", round=number, stage=name, recordings=len(chosen), cpu=cpu)


def _one_of_a_crowd(
    settings: Settings, chosen: Sequence[ManifestRow], batch: int, number: int, together: Barrier
) -> dict[str, float]:
    """CPU seconds of each stage, which all begin together."""
    from voicevault.vault import Vault

    took: dict[str, float] = {}

    def stage(name: str, call: Callable[[], object]) -> None:
        together.wait()
        took[name] = timed(name, number, call).cpu

    with Vault.open(settings) as vault, _one_thread(vault):
        for _ in range(2):  # the first time, for kernels to be made and memory to be had
            _embedded(vault, chosen, batch, stage)
    return took


@contextmanager
def _one_thread(vault: Vault) -> Iterator[None]:
    with one_thread(), vault.pipeline.encoder.one_thread_per_call():
        yield


def _embedded(
    vault: Vault,
    chosen: Sequence[ManifestRow],
    batch: int,
    stage: Callable[[str, Callable[[], object]], None],
) -> list[Embedded]:
    """Each of the stages before the commit as one call, given to `stage`."""
    from voicevault.audio import decode
    from voicevault.bulk.stages import fit
    from voicevault.embedding import judge

    pipeline, least = vault.pipeline, vault.settings.min_enroll_speech
    waveforms: list[Waveform] = []
    prepared: list[Prepared] = []
    embedded: list[Embedded] = []
    stage("decode", lambda: waveforms.extend(decode(row.path, limits=pipeline.limits) for row in chosen))
    heard = zip(chosen, waveforms, strict=True)
    stage(
        "speech",
        lambda: prepared.extend(
            fit(row, judge(waveform, pipeline.detector), least) for row, waveform in heard
        ),
    )
    prepared.sort(key=lambda item: len(item.recording.samples), reverse=True)
    batches = _parts(prepared, batch)
    stage("embed", lambda: embedded.extend(item for part in batches for item in _embed(vault, part)))
    return embedded


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _embed(vault: Vault, part: Sequence[Prepared]) -> list[Embedded]:
    from voicevault.bulk.stages import Embedded, embed_batch

    done = embed_batch(part, vault.pipeline, vault.settings.min_enroll_speech)
    return [item for item in done if isinstance(item, Embedded)]


class _Committer:
    """Bulk enrollment's last stage by itself."""

    def __init__(self, vault: Vault, collection: str) -> None:
        from voicevault.bootstrap import open_store

        self._store = open_store(vault.settings)
        self._collection = collection

    def commit(self, parts: Sequence[Sequence[Embedded]]) -> None:
        from voicevault.bulk.stages import commit_batch

        for part in parts:
            told = {item.row.speaker: item.row for item in part}
            commit_batch(part, self._store, self._collection, DuplicatePolicy.SKIP, told)

    def close(self) -> None:
        self._store.close()


def bare_encoder(vault: Vault, chosen: Sequence[ManifestRow], batch: int, rows: Rows, number: int) -> None:
    """The encoder alone on all cores: speech in memory to embeddings, one batch per core at a time."""
    from voicevault.cores import available_cores

    speech = _speech(vault.pipeline, chosen)
    parts = _parts(sorted(speech, key=len), batch)
    encoder = vault.pipeline.encoder
    with encoder.one_thread_per_call(), ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(encoder.embed, parts))  # every thread is warm
        took = timed("encoder", number, lambda: list(pool.map(encoder.embed, parts)))
    rows.append("encoder", round=number, recordings=len(chosen), seconds=took.wall, cpu=took.cpu)


def _speech(pipeline: EmbeddingPipeline, chosen: Sequence[ManifestRow]) -> list[Float32Array]:
    from voicevault.audio.level import normalise

    return [normalise(pipeline.prepare(row.path).speech) for row in chosen]
