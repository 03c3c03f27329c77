"""Bulk enrollment on one machine: processes that decode, threads that embed, and the caller's that commits."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from queue import Queue
from threading import Lock, Thread
from typing import TYPE_CHECKING

from voicevault.bulk.decoder import Decoder, DecoderClosed
from voicevault.bulk.flow import Pool
from voicevault.bulk.permits import Permit, Permits
from voicevault.bulk.results import ResultFile
from voicevault.bulk.stages import (
    ENROLLED,
    REJECTED,
    SKIPPED,
    Embedded,
    commit_batch,
    embed_batch,
    skipped,
)
from voicevault.cores import available_cores
from voicevault.embedding import EmbeddingPipeline
from voicevault.errors import DatabaseBusyError, RequestError
from voicevault.types import DuplicatePolicy, ImportSummary, ManifestRow, RowOutcome

if TYPE_CHECKING:
    from voicevault.store import Store

log = logging.getLogger(__name__)

_BLOCK = 256
"""Rows that are read at a time, to look up together what their speakers have."""
_ATTEMPTS = 5
"""Times that a batch is tried while other writers hold the collection."""


def enroll_many(
    rows: Iterable[ManifestRow],
    store: Store,
    pipeline: EmbeddingPipeline,
    *,
    collection: str,
    duplicates: DuplicatePolicy = DuplicatePolicy.SKIP,
    min_speech: float = 2.0,
    workers: int | None = None,
    batch: int = 32,
    results: Path | None = None,
    progress: Callable[[RowOutcome], None] | None = None,
    timeout: float | None = None,
) -> ImportSummary:
    """Enrolls recordings, all stages at once, and commits after each batch.

    A recording that cannot be used is rejected and stops nothing, nor does one that crashes or hangs its
    decoder. Whatever ends the run, Ctrl-C too, leaves what was committed; a second run skips it. Never do
    more recordings compute at a time than there are cores: each is either decoded, in a process of its own,
    or embedded, on one thread.

    Args:
        rows: Read as they are needed. The first row of a speaker gives name, tags and attributes.
        duplicates: For recordings (by the SHA-256 of their file) that their speaker has already. SKIP does not
            decode them.
        min_speech: Seconds of net speech that each recording needs.
        workers: Decoding processes; None is one per core.
        batch: Recordings that are embedded and committed together. The memory that is taken grows with it, and
            with the number of cores; see `voicevault.bulk.flow.Pool`.
        results: A .jsonl or .tsv file that gets a line per recording, in the order in which they are done.
        progress: Called with each outcome, in this thread.
        timeout: Seconds after which a recording that is still being decoded is given up; None is 60 and a
            tenth of the longest recording that the pipeline's limits allow.

    Raises:
        RequestError: An argument is wrong.
        CollectionNotFoundError, ModelMismatchError, StoreError, CheckpointError: The run cannot go on.
    """
    if workers is not None and workers < 1:
        raise RequestError("workers must be 1 or more.", workers=workers)
    if batch < 1:
        raise RequestError("batch must be 1 or more.", batch=batch)
    start = time.monotonic()

    def known_sources(speakers: Iterable[str]) -> dict[str, set[str]]:
        return store.known_sources(collection, speakers) if duplicates is DuplicatePolicy.SKIP else {}

    statuses: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    with ExitStack() as stack:
        file = stack.enter_context(ResultFile(results)) if results is not None else None
        keep_audio = store.keeps_audio(collection)
        run = _Run(rows, pipeline, known_sources, min_speech, workers, batch, timeout, keep_audio)
        committer = _Committer(store, collection, duplicates, run.speakers)
        for event in stack.enter_context(closing(run.events())):
            for outcome in [event] if isinstance(event, RowOutcome) else committer.commit(event):
                statuses[outcome.status] += 1
                if outcome.code is not None:
                    codes[outcome.code] += 1
                if file is not None:
                    file.write(outcome)
                if progress is not None:
                    progress(outcome)
    return ImportSummary(
        recordings=statuses.total(),
        enrolled=statuses[ENROLLED],
        skipped=statuses[SKIPPED],
        rejected=statuses[REJECTED],
        speakers=len(run.speakers),
        seconds=time.monotonic() - start,
        audio_seconds=committer.audio_seconds,
        codes=dict(codes),
    )


class _Committer:
    def __init__(
        self, store: Store, collection: str, policy: DuplicatePolicy, speakers: dict[str, ManifestRow]
    ) -> None:
        self._store, self._collection, self._policy, self._speakers = store, collection, policy, speakers
        self._replaced: set[tuple[str, str]] = set()
        self.audio_seconds = 0.0

    def commit(self, batch: list[Embedded | RowOutcome]) -> Iterator[RowOutcome]:
        """Enrolls a batch and tells what became of each."""
        new: list[Embedded] = []
        for item in batch:
            if isinstance(item, RowOutcome):
                yield item
                continue
            if self._policy is DuplicatePolicy.REPLACE:
                source = (item.row.speaker, item.embedding.source_sha256)
                if source in self._replaced:
                    yield skipped(item.row)  # two rows name it
                    continue
                self._replaced.add(source)
            new.append(item)
        for item, outcome in zip(new, self._commit(new), strict=True):
            if outcome.status == ENROLLED:
                self.audio_seconds += item.embedding.quality.seconds
            yield outcome

    def _commit(self, new: list[Embedded]) -> list[RowOutcome]:
        for attempt in range(_ATTEMPTS):
            try:
                return commit_batch(new, self._store, self._collection, self._policy, self._speakers)
            except DatabaseBusyError:
                if attempt == _ATTEMPTS - 1:
                    raise
                log.warning("the database is busy; trying again")
        raise AssertionError("unreachable")


class _Run:
    """The threads of one run. Those that decode drive a process each."""

    def __init__(
        self,
        rows: Iterable[ManifestRow],
        pipeline: EmbeddingPipeline,
        known_sources: Callable[[Iterable[str]], dict[str, set[str]]],
        min_speech: float,
        workers: int | None,
        batch: int,
        timeout: float | None,
        keep_audio: bool,
    ) -> None:
        cores = available_cores()
        workers = cores if workers is None else workers
        limits = pipeline.limits
        timeout = 60.0 + limits.max_seconds / 10 if timeout is None else timeout
        self.speakers: dict[str, ManifestRow] = {}
        self._rows, self._block, self._reading = iter(rows), deque[ManifestRow](), Lock()
        self._known: dict[str, set[str]] = {}
        self._keep_audio = keep_audio
        self._known_sources, self._pipeline, self._min_speech = known_sources, pipeline, min_speech
        self._decoders = [Decoder(pipeline.detector, limits, min_speech, timeout) for _ in range(workers)]
        # Whoever computes holds a core. Where the pool is full those that decode let go of theirs, where it is
        # empty those that embed: neither kind needs a share of its own, and no core is idle. A recording that hangs
        # holds none.
        self._cores = Permits(cores)
        self._pool = Pool(batch, takers=cores, putters=workers)
        self._model = ExitStack()
        self._model_lock, self._model_ready = Lock(), False
        self._events: Queue[RowOutcome | list[Embedded | RowOutcome] | BaseException | None] = Queue(
            maxsize=64 + 4 * cores
        )
        self._threads = [
            Thread(target=self._guarded, args=(self._decode, decoder), daemon=True)
            for decoder in self._decoders
        ] + [Thread(target=self._guarded, args=(self._embed,), daemon=True) for _ in range(cores)]

    def events(self) -> Generator[RowOutcome | list[Embedded | RowOutcome], None, None]:
        """Recordings that are through, one by one, or in batches that are to be committed."""
        try:
            for thread in self._threads:
                thread.start()
            left = len(self._threads)
            while left:
                event = self._events.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    left -= 1
                else:
                    yield event
        finally:
            self._end()

    def _end(self) -> None:
        self._pool.stop()
        for decoder in self._decoders:
            decoder.interrupt()
        for thread in self._threads:
            while thread.is_alive():
                while not self._events.empty():  # or they would wait for ever to put something there
                    self._events.get_nowait()
                thread.join(0.05)
        self._model.close()

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
            self._events.put(None)
        except BaseException as error:  # it is the caller's thread that reports it
            self._events.put(error)

    def _decode(self, decoder: Decoder) -> None:
        try:
            row: ManifestRow | None = None
            while (row := row or self._next_row(wait=True)) is not None:
                with Permit(self._cores) as core:
                    row = self._prepare(row, decoder, core)
        except DecoderClosed:
            return
        finally:
            decoder.close()
            self._pool.finished()

    def _prepare(self, row: ManifestRow, decoder: Decoder, core: Permit) -> ManifestRow | None:
        """Prepares a recording, and others for as long as there is room and nobody wants the core to embed; -> one that was
        taken on and is not begun.

        It does not make way for another that decodes: they would take turns at every recording, which costs them the core's
        cache, and each time the core waits for both threads.
        """
        known = self._known.get(row.speaker)
        if known and decoder.fingerprint(row.path, core.let_go) in known:
            self._events.put(skipped(row))
            return None
        decoder.begin(row)
        following: ManifestRow | None = None
        while decoder.busy:
            if following is None and not self._cores.wanted:
                following = self._next_row(wait=False)
            if following is not None and not self._known.get(following.speaker):
                decoder.begin(following)  # now, so that it never waits for this thread
                following = None
            core.hold()
            done = decoder.finish(core.let_go)
            if isinstance(done, RowOutcome):
                self._events.put(done)
            else:
                self._pool.put(done)
        return following

    def _next_row(self, wait: bool) -> ManifestRow | None:
        """None at the end, and where there is no room for another; with `wait` there soon is."""
        if not self._pool.room(wait):
            return None
        with self._reading:
            if not self._block:
                self._block.extend(islice(self._rows, _BLOCK))
                new = {row.speaker for row in self._block} - self.speakers.keys()
                self._known |= self._known_sources(new) if new else {}
                for row in self._block:
                    self.speakers.setdefault(row.speaker, row)
            return self._block.popleft() if self._block else None

    def _embed(self) -> None:
        if not self._pool.expects():
            return
        with self._model_lock:
            if not self._model_ready:
                # Loading it is work too, and there is decoding to be done meanwhile.
                with Permit(self._cores, asks=True):
                    self._model.enter_context(self._pipeline.encoder.one_thread_per_call())
                self._model_ready = True
        while (batch := self._pool.take()) is not None:
            with Permit(self._cores, asks=True):
                while batch is not None:
                    done = embed_batch(batch, self._pipeline, self._min_speech, self._keep_audio)
                    self._events.put(done)
                    batch = self._pool.exchange(batch)
