"""What bulk enrollment is held against: its stages one by one, and the bare encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from benchmarks.rows import Rows
from benchmarks.timing import one_thread, timed
from voicevault.types import DuplicatePolicy, Float32Array, ManifestRow, Waveform

if TYPE_CHECKING:
    from voicevault.bulk.stages import Embedded, Prepared
    from voicevault.embedding import EmbeddingPipeline
    from voicevault.vault import Vault

T = TypeVar("T")


def stages_alone(vault: Vault, chosen: Sequence[ManifestRow], batch: int, rows: Rows, number: int) -> None:
    """Each stage by itself on one thread, in batches as bulk enrollment has them."""
    from voicevault.audio import decode
    from voicevault.bulk.stages import fit
    from voicevault.embedding import judge

    pipeline = vault.pipeline
    waveforms: list[Waveform] = []
    prepared: list[Prepared] = []
    embedded: list[Embedded] = []
    collection = f"stages-{number}"
    vault.create_collection(collection)
    with (
        one_thread(),
        pipeline.encoder.one_thread_per_call(),
        closing(_Committer(vault, collection)) as committer,
    ):
        pipeline.encoder.embed([np.ones(16_000, dtype=np.float32)])  # the model is loaded and warm

        def stage(name: str, call: Callable[[], object]) -> None:
            took = timed(name, number, call)
            rows.append(
                "stage", round=number, stage=name, recordings=len(chosen), seconds=took.wall, cpu=took.cpu
            )

        stage("decode", lambda: waveforms.extend(decode(row.path, limits=pipeline.limits) for row in chosen))
        found = zip(chosen, waveforms, strict=True)
        least = vault.settings.min_enroll_speech
        stage(
            "speech",
            lambda: prepared.extend(fit(row, judge(heard, pipeline.detector), least) for row, heard in found),
        )
        prepared.sort(key=lambda item: len(item.recording.samples), reverse=True)
        batches = _parts(prepared, batch)
        stage("embed", lambda: embedded.extend(item for part in batches for item in _embed(vault, part)))
        stage("commit", lambda: committer.commit(_parts(embedded, batch)))
    vault.delete_collection(collection)


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
