"""The use cases: enroll, verify, identify, forget. Command line, HTTP and Python call these same methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from voicevault.catalogue import Catalogue, Model
from voicevault.errors import (
    CollectionNotFoundError,
    IndexUnavailableError,
    ModelMismatchError,
    RequestError,
)
from voicevault.forgetting import forget
from voicevault.gallery import Galleries
from voicevault.scoring.decide import identification_threshold, verification_threshold
from voicevault.scoring.policy import Policy
from voicevault.settings import Settings
from voicevault.store import UNSET, Store, Unset
from voicevault.store.checks import check_labels
from voicevault.text import printable
from voicevault.types import (
    AudioSource,
    Candidate,
    Collection,
    DuplicatePolicy,
    Duplicates,
    Embedding,
    Enrollment,
    GalleryPosition,
    Identification,
    ImportSummary,
    ManifestRow,
    RowOutcome,
    SimilarPair,
    Speaker,
    Verification,
)

if TYPE_CHECKING:
    from voicevault.embedding import EmbeddingPipeline
    from voicevault.migration import Migration

DEFAULT_COLLECTION = "default"
_PAGE = 1000
_WARMED = 64


class Vault:
    """A speaker database. Thread-safe; use it as a context manager or call `close`.

    Each collection is bound to one model, and answers with that one; the vault's own model is that of new
    collections. Made by `Vault.open`. Methods raise the errors of `voicevault.errors`; every one that names a
    collection raises CollectionNotFoundError, and those that compare voices ModelMismatchError where the
    collection's model is not there.
    """

    def __init__(self, settings: Settings, store: Store, catalogue: Catalogue, galleries: Galleries) -> None:
        self._settings, self._store = settings, store
        self._catalogue, self._galleries = catalogue, galleries

    @classmethod
    def open(cls, target: str | Path | Settings | None = None) -> Vault:
        """See `voicevault.bootstrap.open_vault`."""
        from voicevault.bootstrap import open_vault

        return open_vault(target)

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def model_id(self) -> str:
        return self._catalogue.default.model_id

    @property
    def dim(self) -> int:
        return self._catalogue.default.dim

    @property
    def encoder_name(self) -> str:
        return self._catalogue.default.name

    @property
    def policy(self) -> Policy | None:
        return self._catalogue.default.policy

    @property
    def pipeline(self) -> EmbeddingPipeline:
        """From a recording to an embedding, with this vault's own model and limits."""
        return self._catalogue.default.pipeline

    def models(self) -> list[Model]:
        """The models that collections can be bound to, this vault's own first."""
        return self._catalogue.models()

    # --- collections -------------------------------------------------------------------------------------

    def collections(self) -> list[Collection]:
        """All collections, by name."""
        return [self._with_search(found) for found in self._store.collections()]

    def collection(self, name: str = DEFAULT_COLLECTION) -> Collection:
        return self._with_search(self._store.collection(name))

    def create_collection(
        self, name: str, model: str | None = None, *, keep_audio: bool = False
    ) -> Collection:
        """An empty collection.

        Args:
            keep_audio: Whether the speech of enrollments is kept, in the database, so that a change of the model
                needs no new enrollments. Whoever may read the database can listen to it.
            model: The model that it is bound to: a name in ``HOME/models`` or the start of a model_id, of 8
                digits at least; None is this vault's own.

        Raises:
            CollectionExistsError, ModelNotFoundError, CheckpointError.
        """
        chosen = self._catalogue.named(model)
        made = self._store.create_collection(name, chosen.model_id, chosen.dim, keeps_audio=keep_audio)
        if chosen is self._catalogue.default:
            self._catalogue.keep_default()
        return made

    def migrate(
        self,
        collection: str,
        model: str,
        *,
        switch: bool = True,
        leave_out: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Migration:
        """Changes the model of a collection: embeds the speech that it kept again, and exchanges it for the result.

        The collection answers as before until then, and stays as ``NAME@...`` of its former model. To go back is to
        migrate to that model: what was enrolled and forgotten since is done there too.

        Args:
            model: As in `create_collection`.
            switch: Whether to exchange them; else all is made ready and measured, and a second call does it.
            leave_out: Whether to go on without the enrollments whose speech was not kept.
            progress: Called with how many recordings are embedded, and of how many.

        Raises:
            AudioNotKeptError: Some speech was not kept; it names who must enroll again.
            ModelNotFoundError, RequestError, CollectionExistsError, DatabaseBusyError.
        """
        from voicevault.migration import migrate

        chosen = self._catalogue.named(model)
        if chosen is self._catalogue.default:
            self._catalogue.keep_default()
        return migrate(self._store, collection, chosen, switch=switch, leave_out=leave_out, progress=progress)

    def delete_collection(self, name: str) -> None:
        """Deletes it with all its speakers. The collections of its `twins` stay."""
        self._galleries.drop(self._store.delete_collection(name))

    def twins(self, name: str) -> list[str]:
        """Names of the other collections of the same speakers: what changes of the model have left or begun."""
        return self._store.twins_of(name)

    # --- speakers ----------------------------------------------------------------------------------------

    def create_speaker(
        self,
        id: str | None = None,
        *,
        name: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        collection: str = DEFAULT_COLLECTION,
    ) -> Speaker:
        """A speaker without enrollments; without an id it gets one. Raises SpeakerExistsError."""
        return self._store.create_speaker(collection, id, name, attributes, tags)

    def speaker(self, id: str, *, collection: str = DEFAULT_COLLECTION) -> Speaker:
        """Raises SpeakerNotFoundError."""
        return self._store.speaker(collection, id)

    def speakers(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        tags: Iterable[str] = (),
        after: str | None = None,
        limit: int | None = None,
    ) -> list[Speaker]:
        """Speakers that carry all of `tags`, by id, behind id `after`; all of them where `limit` is None."""
        if limit is not None:
            return self._store.speakers(collection, tags=tags, after=after, limit=limit)
        wanted = tags if isinstance(tags, str) else list(tags)
        found: list[Speaker] = []
        while True:
            page = self._store.speakers(collection, tags=wanted, after=after, limit=_PAGE)
            found += page
            if len(page) < _PAGE:
                return found
            after = page[-1].id

    def check_speaker(
        self,
        *,
        name: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Whether a speaker may have these, before work is begun for them. Raises RequestError."""
        self._store.check_speaker(name, attributes, tags)

    def update_speaker(
        self,
        id: str,
        *,
        name: str | Unset | None = UNSET,
        attributes: Mapping[str, Any] | Unset | None = UNSET,
        tags: Iterable[str] | Unset | None = UNSET,
        add: bool = False,
        collection: str = DEFAULT_COLLECTION,
    ) -> Speaker:
        """Replaces what is given; None empties a field. With `add`, attributes and tags join those that are there.

        Raises:
            SpeakerNotFoundError, RequestError.
        """
        return self._store.update_speaker(
            collection, id, name=name, attributes=attributes, tags=tags, add=add
        )

    def forget(
        self, speaker_id: str, enrollment_id: str | None = None, *, collection: str = DEFAULT_COLLECTION
    ) -> None:
        """Deletes a speaker with everything known of them, or one enrollment (the speaker then stays).

        What changes of the model left of the collection forgets the same.

        Raises:
            SpeakerNotFoundError, EnrollmentNotFoundError.
        """
        forget(self._store, self._galleries, collection, speaker_id, enrollment_id)

    # --- enrollment --------------------------------------------------------------------------------------

    def enroll(
        self,
        speaker_id: str,
        recording: AudioSource,
        *,
        collection: str = DEFAULT_COLLECTION,
        create: bool = True,
        channel: int | None = None,
        duplicates: DuplicatePolicy | str | None = None,
        source_name: str | None = None,
    ) -> Enrollment:
        """Adds a recording to a speaker's voiceprint, in one transaction.

        Args:
            create: Make the speaker where there is none.
            channel: The channel to listen to, from 0; None mixes them.
            duplicates: For a recording that the speaker has already: None is an error, SKIP returns the
                enrollment that is there, REPLACE and ADD do as they say.
            source_name: What to call the recording; the file's name where it is a path.

        Raises:
            AudioError: The recording cannot be used; NotEnoughSpeechError below `min_enroll_speech` seconds.
            SpeakerNotFoundError: `create` is off and there is no such speaker.
            DuplicateRecordingError: The recording is there and `duplicates` is None.
            RequestError: `speaker_id` or `source_name` cannot be kept.
        """
        check_labels(speaker_id, source_name)  # before the work of decoding
        policy = None if duplicates is None else _policy(duplicates)
        model = self._model_of(collection)
        if not create:
            self._store.speaker(collection, speaker_id)
        if source_name is None and isinstance(recording, str | Path):
            source_name = printable(Path(recording).name, "?")
        prepared = model.pipeline.prepare(recording, channel)
        there = self._store.enrolled(collection, speaker_id, prepared.source_sha256, policy)
        if there is not None:
            return there
        [embedding] = model.pipeline.embed(
            [prepared],
            min_speech=self._settings.min_enroll_speech,
            keep_audio=self._store.keeps_audio(collection),
        )
        return self._store.add_enrollment(
            collection, speaker_id, embedding, source_name, create_speaker=create, policy=policy
        )

    def enrollments(self, speaker_id: str, *, collection: str = DEFAULT_COLLECTION) -> list[Enrollment]:
        """A speaker's enrollments, oldest first. Raises SpeakerNotFoundError."""
        return self._store.enrollments(collection, speaker_id)

    def enroll_many(
        self,
        source: str | Path | Iterable[ManifestRow],
        *,
        collection: str = DEFAULT_COLLECTION,
        duplicates: DuplicatePolicy | str = DuplicatePolicy.SKIP,
        workers: int | None = None,
        batch: int = 32,
        results: Path | None = None,
        progress: Callable[[RowOutcome], None] | None = None,
        audio_root: Path | None = None,
    ) -> ImportSummary:
        """Bulk enrollment of a folder, a manifest or rows. See `voicevault.bulk.enroll_many`."""
        from voicevault.bulk import enroll_many, refuse_overwriting
        from voicevault.manifest import read_corpus

        if results is not None and isinstance(source, str | Path):
            refuse_overwriting(results, source)
        model = self._model_of(collection)
        rows = read_corpus(source, audio_root) if isinstance(source, str | Path) else source
        return enroll_many(
            rows,
            self._store,
            model.pipeline,
            collection=collection,
            duplicates=_policy(duplicates),
            min_speech=self._settings.min_enroll_speech,
            workers=workers if workers is not None else self._settings.workers,
            batch=batch,
            results=results,
            progress=progress,
        )

    # --- answers -----------------------------------------------------------------------------------------

    def embed(
        self,
        recording: AudioSource,
        *,
        min_speech: float | None = -1.0,
        channel: int | None = None,
        model: str | None = None,
    ) -> Embedding:
        """The embedding of a recording's speech.

        Args:
            min_speech: Seconds of net speech it needs; below zero (the default) is `min_probe_speech` of the
                settings, and None refuses nothing.
            channel: The channel to listen to, from 0; None mixes them.
            model: As in `create_collection`.

        Raises:
            AudioError: The recording cannot be used.
            ModelNotFoundError: There is no such model.
        """
        return self._probe(self._catalogue.named(model), recording, channel, min_speech)

    def verify(
        self,
        speaker_id: str,
        recording: AudioSource,
        *,
        collection: str = DEFAULT_COLLECTION,
        threshold: float | None = None,
        fmr: float | None = None,
        channel: int | None = None,
    ) -> Verification:
        """Is it this speaker? Decided by `threshold`, or by the model's policy at `fmr` (by default 1 %).

        Raises:
            AudioError, SpeakerNotFoundError, NotEnrolledError, NoThresholdError, RequestError.
        """
        start = time.perf_counter()
        model = self._model_of(collection)
        decided_by = verification_threshold(model.policy, threshold, fmr)
        self._store.voiceprint(collection, speaker_id)  # before the work of decoding
        embedding = self._probe(model, recording, channel)
        vector, generation = self._store.voiceprint(collection, speaker_id)
        # It may have been made anew meanwhile, for another model.
        _check_model(self._store.position(collection), model, collection)
        product = float(np.dot(vector.astype(np.float64), embedding.vector.astype(np.float64)))
        score = float(np.clip(np.float32(product), -1.0, 1.0))
        return Verification(
            speaker_id=speaker_id,
            accepted=score >= decided_by.value,
            score=score,
            threshold=decided_by,
            quality=embedding.quality,
            model_id=model.model_id,
            collection=collection,
            generation=generation,
            timing={**embedding.timing, "total": time.perf_counter() - start},
        )

    def identify(
        self,
        recording: AudioSource,
        *,
        collection: str = DEFAULT_COLLECTION,
        k: int = 5,
        threshold: float | None = None,
        fmr: float | None = None,
        tags: Iterable[str] = (),
        channel: int | None = None,
    ) -> Identification:
        """Who is it? The `k` nearest of the speakers that carry all of `tags`, and the decision.

        Args:
            threshold: Cosine from which a candidate is accepted.
            fmr: Or the false match rate of one comparison; by default 0.01 over the size of the gallery.

        An empty gallery answers nobody, without candidates.

        Raises:
            AudioError, NoThresholdError, RequestError.
        """
        start = time.perf_counter()
        if k < 1:
            raise RequestError("k must be 1 or more.", k=k)
        wanted = tags if isinstance(tags, str) else list(tags)
        model = self._model_of(collection)
        identification_threshold(model.policy, 1, threshold, fmr)  # refused before the work of decoding
        embedding = self._probe(model, recording, channel)
        embedded = time.perf_counter()
        for last in (False, False, True):
            allow = self._store.keys_with_tags(collection, wanted) if wanted else None
            found, size = self._galleries.search(
                collection,
                embedding.vector[None],
                k,
                allow,
                check=partial(_check_model, model=model, name=collection),
            )
            size = size if allow is None else len(allow)
            names = self._store.names_of(collection, found.ids[0].tolist())
            # Somebody may have been forgotten since the search; then ask again.
            if last or len(names) == found.ids.shape[1]:
                break
        decided_by = identification_threshold(model.policy, size, threshold, fmr)
        known = [
            (key, score)
            for key, score in zip(*_first_row(found.ids, found.scores), strict=True)
            if key in names
        ]
        candidates = tuple(
            Candidate(rank, *names[key], score, score >= decided_by.value)
            for rank, (key, score) in enumerate(known, start=1)
        )
        end = time.perf_counter()
        return Identification(
            speaker_id=candidates[0].speaker_id if candidates and candidates[0].accepted else None,
            candidates=candidates,
            threshold=decided_by,
            gallery=size,
            quality=embedding.quality,
            model_id=model.model_id,
            collection=collection,
            generation=found.generation,
            timing={**embedding.timing, "search": end - embedded, "total": end - start},
            approximate=found.approximate,
        )

    def duplicates(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        threshold: float | None = None,
        fmr: float | None = None,
        most: int = 1000,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Duplicates:
        """Speakers who may be one person: every voiceprint compared with every other, exactly.

        The gallery is read into memory; the time grows with the square of its size (100,000: some ten seconds).

        Args:
            threshold: Cosine from which a pair is named.
            fmr: Or the false match rate of one comparison; by default as for `identify`.
            most: At most so many pairs, the best; at least 1.
            progress: Told how much is done, and of how much.

        Raises:
            NoThresholdError, RequestError.
        """
        from voicevault.index.pairs import similar_pairs

        model = self._model_of(collection)
        identification_threshold(model.policy, 1, threshold, fmr)  # refused before the work
        position, keys, vectors = self._store.snapshot(collection)
        _check_model(position, model, collection)
        decided_by = identification_threshold(model.policy, len(keys), threshold, fmr)
        pairs, scores = similar_pairs(keys, vectors, decided_by.value, most, progress)
        names = self._store.names_of(collection, pairs.reshape(-1).tolist())
        found = tuple(
            SimilarPair(score, *names[left], *names[right])
            for (left, right), score in zip(pairs.tolist(), scores.tolist(), strict=True)
            if left in names and right in names  # forgotten meanwhile
        )
        return Duplicates(found, decided_by, len(keys), collection, position.generation)

    # --- the vault itself --------------------------------------------------------------------------------

    def ready(self) -> dict[str, object]:
        """Checks that the database answers with the right schema and that the model loads.

        Raises:
            DatabaseUnavailableError, SchemaOutdatedError, CheckpointError.
            IndexUnavailableError: The index of a collection is just being rebuilt from the database.
        """
        self._store.check_schema()
        if self._galleries.rebuilding:
            raise IndexUnavailableError("An index is being rebuilt from the database; its collection waits.")
        collections = len(self._store.collections())
        self._catalogue.default.encoder.embed([np.ones(1600, dtype=np.float32) * np.float32(0.1)])
        return {
            "database": self._store.url.get_backend_name(),
            "collections": collections,
            "model": self.encoder_name,
            "model_id": self.model_id,
            "policy": self.policy is not None,
        }

    @property
    def index_rebuilds(self) -> int:
        """Indexes that had to be read from the database since the vault was opened."""
        return self._galleries.rebuilds

    def warm(self) -> dict[str, object]:
        """Loads the model and the index of each of its collections, for which the first request would wait.

        Returns what `ready` returns, and raises what it raises.
        """
        found = self.ready()
        _ = self.pipeline
        # Of very many, the largest: the others open in milliseconds.
        for collection in sorted(self._store.collections(), key=lambda found: -found.speakers)[:_WARMED]:
            if collection.model_id == self.model_id:
                with suppress(CollectionNotFoundError):  # deleted meanwhile
                    self._galleries.current(collection.name)
        return found

    def close(self) -> None:
        """Saves the index files and closes the database connections."""
        self._galleries.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _with_search(self, collection: Collection) -> Collection:
        return replace(collection, approximate=self._galleries.approximation(collection.uuid))

    def _model_of(self, collection: str) -> Model:
        position = self._store.position(collection)
        model = self._catalogue.of(position.model_id, collection)
        _check_model(position, model, collection)
        return model

    def _probe(
        self, model: Model, recording: AudioSource, channel: int | None, min_speech: float | None = -1.0
    ) -> Embedding:
        needed = min_speech
        if needed is not None and needed < 0:
            needed = self._settings.min_probe_speech
        return model.pipeline.embed_one(recording, min_speech=needed, channel=channel)


def _check_model(position: GalleryPosition, model: Model, name: str) -> None:
    if (position.model_id, position.dim) != (model.model_id, model.dim):
        raise ModelMismatchError(
            f"The collection {name!r} belongs to another model than {model.name!r}, which was asked. Try again.",
            collection=name,
            collection_model=position.model_id,
            model=model.model_id,
        )


def _policy(duplicates: DuplicatePolicy | str) -> DuplicatePolicy:
    try:
        return DuplicatePolicy(duplicates)
    except ValueError as error:
        policies = ", ".join(DuplicatePolicy)
        raise RequestError(
            f"There is no policy {duplicates!r} for duplicates; there are: {policies}.", policies=policies
        ) from error


def _first_row(ids: Any, scores: Any) -> tuple[list[int], list[float]]:
    return ids[0].tolist(), scores[0].tolist()
