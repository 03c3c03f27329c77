"""What the index and the decision read: positions, changes, voiceprints, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from sqlalchemy import LargeBinary, Result, func, select, type_coerce
from sqlalchemy.orm import Session

from voicevault.errors import NotEnrolledError
from voicevault.store.checks import can_be_id, checked_tags
from voicevault.store.database import Database, find_collection
from voicevault.store.enrollments import CHUNK
from voicevault.store.speakers import find_speaker
from voicevault.store.tables import (
    ChangeRow,
    CollectionRow,
    EnrollmentRow,
    GenerationRow,
    SpeakerRow,
    TagRow,
    VoiceprintRow,
)
from voicevault.types import Change, Float32Array, GalleryPosition, Int64Array, Op

STREAMED = 4096
"""Voiceprints per block of a stream."""
SLICE = 1 << 16
"""Changes that are read at a time, so that an import of any size is caught up with in bounded memory. A search that falls
between two slices may meet voiceprints of later writes beside those of the generation it asked for."""


def _position(row: CollectionRow) -> GalleryPosition:
    return GalleryPosition(row.uuid, row.model_id, row.dim, row.generation, row.token)


def _count(session: Session, found: CollectionRow) -> int:
    query = select(func.count()).select_from(VoiceprintRow).where(VoiceprintRow.collection_id == found.id)
    return session.scalar(query) or 0


def _keys(session: Session, collection_id: int, tags: list[str]) -> Int64Array:
    query = select(VoiceprintRow.speaker_key).where(VoiceprintRow.collection_id == collection_id)
    for tag in tags:
        query = query.where(
            VoiceprintRow.speaker_key.in_(select(TagRow.speaker_key).where(TagRow.tag == tag))
        )
    return np.array(session.scalars(query.order_by(VoiceprintRow.speaker_key)).all(), dtype=np.int64)


def _blocks(
    transaction: ExitStack, rows: Result[int, bytes], dim: int
) -> Iterator[tuple[Int64Array, Float32Array]]:
    with transaction:
        for part in rows.partitions():
            keys = np.array([row[0] for row in part], dtype=np.int64)
            vectors = np.frombuffer(b"".join([row[1] for row in part]), dtype="<f4").reshape(-1, dim)
            yield keys, vectors.astype(np.float32, copy=False)


class Gallery(Database):
    """Every method reads in one fresh transaction and raises CollectionNotFoundError."""

    def position(self, collection: str) -> GalleryPosition:
        """Where the collection stands now."""
        with self._reading() as session:
            return _position(find_collection(session, collection))

    def token_at(self, collection: str, generation: int) -> str | None:
        """The token of a generation; None where the collection has not come so far."""
        with self._reading() as session:
            return session.scalar(
                select(GenerationRow.token).where(
                    GenerationRow.collection_id == find_collection(session, collection).id,
                    GenerationRow.generation == generation,
                )
            )

    def size(self, collection: str) -> tuple[GalleryPosition, int]:
        """Where the collection stands now, and the number of its voiceprints."""
        with self._reading() as session:
            found = find_collection(session, collection)
            return _position(found), _count(session, found)

    def changes(
        self, collection: str, since_generation: int, most: int | None = None
    ) -> tuple[GalleryPosition, list[Change]]:
        """The position and all changes behind `since_generation`, in order.

        With `most`, where there are more of them than that: those up to the end of the generation in which that number
        is reached, and the position at that generation. Fewer than `most` are hence the last ones.

        A caller compares `token_at(collection, since_generation)` first: to an index that is ahead or foreign
        the changes make no sense.
        """
        return self._changes(collection, since_generation, most)[:2]

    def _changes(
        self, collection: str, since_generation: int, most: int | None
    ) -> tuple[GalleryPosition, list[Change], int]:
        with self._reading() as session:
            found = find_collection(session, collection)
            query = (
                select(
                    ChangeRow.generation,
                    GenerationRow.token,
                    ChangeRow.speaker_key,
                    ChangeRow.op,
                    VoiceprintRow.vector,
                )
                .join(
                    GenerationRow,
                    (GenerationRow.collection_id == ChangeRow.collection_id)
                    & (GenerationRow.generation == ChangeRow.generation),
                )
                .outerjoin(VoiceprintRow, VoiceprintRow.speaker_key == ChangeRow.speaker_key)
                .where(ChangeRow.collection_id == found.id, ChangeRow.generation > since_generation)
                .order_by(ChangeRow.generation, ChangeRow.speaker_key)
            )
            cut = None
            if most is not None:
                cut = session.scalar(
                    select(ChangeRow.generation)
                    .where(ChangeRow.collection_id == found.id, ChangeRow.generation > since_generation)
                    .order_by(ChangeRow.generation)
                    .offset(most - 1)
                    .limit(1)
                )
                if cut is not None:
                    query = query.where(ChangeRow.generation <= cut)
            changes: list[Change] = []
            for generation, token, key, op, vector in session.execute(query):
                # An upsert whose voiceprint has gone since is read as a removal.
                if op == Op.REMOVE or vector is None:
                    changes.append(Change(generation, token, key, Op.REMOVE, None))
                else:
                    changes.append(Change(generation, token, key, Op.UPSERT, vector))
            if cut is None:
                return _position(found), changes, found.generation
            position = replace(_position(found), generation=cut, token=changes[-1].token)
            return position, changes, found.generation

    def changes_in_slices(
        self, collection: str, since_generation: int, most: int | None = None
    ) -> Iterator[tuple[GalleryPosition, list[Change], int]]:
        """`changes`, so many at a time (None is SLICE) and some more where one write has more, each slice in a transaction
        of its own; and the generation that this transaction saw, whose voiceprints these are."""
        most = SLICE if most is None else most
        while True:
            position, changes, read_at = self._changes(collection, since_generation, most)
            yield position, changes, read_at
            if len(changes) < most:
                return
            since_generation = position.generation

    def snapshot(self, collection: str) -> tuple[GalleryPosition, Int64Array, Float32Array]:
        """The position, keys int64 [n] in rising order and voiceprints float32 [n, d]."""
        position, count, blocks = self.stream(collection)
        keys = np.empty(count, dtype=np.int64)
        vectors = np.empty((count, position.dim), dtype=np.float32)
        done = 0
        for some_keys, some_vectors in blocks:
            part = slice(done, done + len(some_keys))
            keys[part], vectors[part] = some_keys, some_vectors
            done += len(some_keys)
        return position, keys, vectors

    def stream(
        self, collection: str
    ) -> tuple[GalleryPosition, int, Iterator[tuple[Int64Array, Float32Array]]]:
        """The position, the number of voiceprints, and all of them as `snapshot` has them, in blocks.

        The read transaction is open until the iterator is exhausted or closed.
        """
        with ExitStack() as stack:
            session = stack.enter_context(self._reading())
            found = find_collection(session, collection)
            count = _count(session, found)
            rows = session.execute(
                # The bytes as they are: a million arrays of their own take longer than the query.
                select(VoiceprintRow.speaker_key, type_coerce(VoiceprintRow.vector, LargeBinary))
                .where(VoiceprintRow.collection_id == found.id)
                .order_by(VoiceprintRow.speaker_key)
                .execution_options(yield_per=STREAMED)
            )
            dim, rest = found.dim, stack.pop_all()
        return _position(found), count, _blocks(rest, rows, dim)

    def voiceprint(self, collection: str, speaker_id: str) -> tuple[Float32Array, int]:
        """A speaker's voiceprint, and the collection's generation at which it was read.

        Raises:
            CollectionNotFoundError: There is no such collection.
            SpeakerNotFoundError: There is no such speaker.
            NotEnrolledError: The speaker has no enrollment.
        """
        with self._reading() as session:
            found = find_collection(session, collection)
            speaker = find_speaker(session, found.id, speaker_id)
            row = session.get(VoiceprintRow, speaker.key)
            if row is None:
                raise NotEnrolledError(f"The speaker {speaker_id!r} has no enrollment.", speaker=speaker_id)
            return row.vector, found.generation

    def known_sources(self, collection: str, speakers: Iterable[str]) -> dict[str, set[str]]:
        """The SHA-256 of the source file of each enrollment, by speaker id; who has none is left out."""
        wanted = sorted(speaker for speaker in set(speakers) if can_be_id(speaker))
        known: dict[str, set[str]] = {}
        with self._reading() as session:
            found = find_collection(session, collection)
            for start in range(0, len(wanted), CHUNK):
                query = (
                    select(SpeakerRow.public_id, EnrollmentRow.source_sha256)
                    .join(EnrollmentRow, EnrollmentRow.speaker_key == SpeakerRow.key)
                    .where(
                        SpeakerRow.collection_id == found.id,
                        SpeakerRow.public_id.in_(wanted[start : start + CHUNK]),
                    )
                )
                for speaker, sha in session.execute(query):
                    known.setdefault(speaker, set()).add(sha)
        return known

    def keys_with_tags(self, collection: str, tags: Iterable[str]) -> Int64Array:
        """Keys of the speakers that have a voiceprint and carry all of `tags`: sorted, unique, int64."""
        wanted = checked_tags(tags)
        with self._reading() as session:
            return _keys(session, find_collection(session, collection).id, wanted)

    def names_of(self, collection: str, keys: Iterable[int]) -> dict[int, tuple[str, str | None]]:
        """Key -> (public id, name); keys that are gone are missing from the answer."""
        wanted = sorted({int(key) for key in keys})
        names: dict[int, tuple[str, str | None]] = {}
        with self._reading() as session:
            found = find_collection(session, collection)
            for start in range(0, len(wanted), CHUNK):
                query = select(SpeakerRow.key, SpeakerRow.public_id, SpeakerRow.name).where(
                    SpeakerRow.collection_id == found.id,
                    SpeakerRow.key.in_(wanted[start : start + CHUNK]),
                )
                names.update((key, (id, name)) for key, id, name in session.execute(query))
        return names
