"""Enrollments, and the voiceprint that each write makes of them anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from voicevault.errors import DuplicateRecordingError, EnrollmentNotFoundError, SpeakerNotFoundError
from voicevault.store.checks import (
    check_embedding,
    check_labels,
    checked_attributes,
    checked_name,
    checked_tags,
)
from voicevault.store.database import Database, Write, find_collection
from voicevault.store.speakers import find_speaker, new_speaker, set_tags
from voicevault.store.tables import AudioRow, EnrollmentRow, SpeakerRow, VoiceprintRow, now
from voicevault.types import DuplicatePolicy, Embedding, Enrollment, Float32Array, Op, Quality

# Rows per IN list: well below the 32,766 parameters that SQLite takes.
CHUNK = 5000


@dataclass(frozen=True, slots=True, eq=False)
class NewEnrollment:
    """One recording to enroll. Name, attributes and tags describe its speaker; None leaves them."""

    speaker_id: str
    embedding: Embedding
    source_name: str | None = None
    name: str | None = None
    attributes: Mapping[str, Any] | None = None
    tags: Iterable[str] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class KeptEnrollment:
    """An enrollment with its embedding, float32 [d], and whether its speech is kept."""

    enrollment: Enrollment
    vector: Float32Array
    audio: bool


def _checked(row: NewEnrollment) -> NewEnrollment:
    check_labels(row.speaker_id, row.source_name)
    return NewEnrollment(
        row.speaker_id,
        row.embedding,
        row.source_name,
        checked_name(row.name),
        None if row.attributes is None else checked_attributes(row.attributes),
        None if row.tags is None else checked_tags(row.tags),
    )


def _duplicate(speaker_id: str, source_sha256: str) -> DuplicateRecordingError:
    return DuplicateRecordingError(
        f"This recording is enrolled for {speaker_id!r} already.",
        speaker=speaker_id,
        source_sha256=source_sha256,
    )


def _record(row: EnrollmentRow, speaker_id: str) -> Enrollment:
    quality = Quality(row.seconds, row.speech_seconds, row.level_dbfs, row.clipped, row.snr_db)
    return Enrollment(
        row.public_id,
        speaker_id,
        row.model_id,
        quality,
        row.source_sha256,
        row.audio_sha256,
        row.source_name,
        row.created,
    )


def _row(new: NewEnrollment, speaker_key: int) -> EnrollmentRow:
    embedding, quality = new.embedding, new.embedding.quality
    return EnrollmentRow(
        public_id=uuid4().hex,
        speaker_key=speaker_key,
        vector=embedding.vector,
        model_id=embedding.model_id,
        seconds=float(quality.seconds),
        speech_seconds=float(quality.speech_seconds),
        level_dbfs=float(quality.level_dbfs),
        clipped=float(quality.clipped),
        snr_db=None if quality.snr_db is None else float(quality.snr_db),
        source_sha256=embedding.source_sha256,
        audio_sha256=embedding.audio_sha256,
        source_name=new.source_name,
        created=now(),
    )


def fuse(vectors: Sequence[Float32Array]) -> Float32Array:
    """Normalised mean of unit vectors [n, d], n >= 1; the newest alone where they cancel out."""
    mean = np.mean(np.asarray(vectors, dtype=np.float64), axis=0)
    norm = float(np.linalg.norm(mean))
    if norm < 1e-6:
        mean = np.asarray(vectors[-1], dtype=np.float64)
        norm = float(np.linalg.norm(mean))
    return np.asarray(mean / norm, dtype=np.float32)


def _refresh(write: Write, keys: Iterable[int]) -> None:
    """Makes the voiceprints of these speakers anew and notes the changes."""
    session = write.session
    wanted = sorted(keys)
    for start in range(0, len(wanted), CHUNK):
        chunk = wanted[start : start + CHUNK]
        vectors: dict[int, list[Float32Array]] = {key: [] for key in chunk}
        query = select(EnrollmentRow.speaker_key, EnrollmentRow.vector).where(
            EnrollmentRow.speaker_key.in_(chunk)
        )
        for key, vector in session.execute(query.order_by(EnrollmentRow.key)):
            vectors[key].append(vector)
        known = {
            row.speaker_key: row
            for row in session.scalars(select(VoiceprintRow).where(VoiceprintRow.speaker_key.in_(chunk)))
        }
        for key in chunk:
            row = known.get(key)
            if not vectors[key]:
                if row is not None:
                    session.delete(row)
                write.changes[key] = Op.REMOVE
                continue
            write.changes[key] = Op.UPSERT
            if row is None:
                row = VoiceprintRow(speaker_key=key, collection_id=write.collection_id)
                session.add(row)
            row.vector = fuse(vectors[key])


def _known_speakers(session: Session, collection_id: int, ids: Iterable[str]) -> dict[str, SpeakerRow]:
    wanted = sorted(ids)
    found: dict[str, SpeakerRow] = {}
    for start in range(0, len(wanted), CHUNK):
        query = select(SpeakerRow).where(
            SpeakerRow.collection_id == collection_id,
            SpeakerRow.public_id.in_(wanted[start : start + CHUNK]),
        )
        found.update((row.public_id, row) for row in session.scalars(query))
    return found


class Enrollments(Database):
    def add_enrollment(
        self,
        collection: str,
        speaker_id: str,
        embedding: Embedding,
        source_name: str | None = None,
        *,
        create_speaker: bool = True,
        name: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        tags: Iterable[str] | None = None,
        policy: DuplicatePolicy | None = None,
    ) -> Enrollment:
        """Enrolls one recording in one transaction; see `add_enrollments`. SKIP returns the one there."""
        row = NewEnrollment(speaker_id, embedding, source_name, name, attributes, tags)
        enrollment = self.add_enrollments(collection, [row], create_speakers=create_speaker, policy=policy)[0]
        enrollment = enrollment or self.enrolled(collection, speaker_id, embedding.source_sha256, policy)
        if enrollment is None:
            raise EnrollmentNotFoundError("The enrollment that was there has just been forgotten; try again.")
        return enrollment

    def enrolled(
        self, collection: str, speaker_id: str, source_sha256: str, policy: DuplicatePolicy | None
    ) -> Enrollment | None:
        """The enrollment that is there in place of a new one of this recording; None where a new one is to be made.

        Raises:
            CollectionNotFoundError: There is no such collection.
            DuplicateRecordingError: It is there already and no policy is given.
        """
        if policy not in (None, DuplicatePolicy.SKIP):
            return None
        with suppress(SpeakerNotFoundError):
            for there in self.enrollments(collection, speaker_id):
                if there.source_sha256 == source_sha256:
                    if policy is None:
                        raise _duplicate(speaker_id, source_sha256)
                    return there
        return None

    def add_enrollments(
        self,
        collection: str,
        rows: Sequence[NewEnrollment],
        *,
        create_speakers: bool = True,
        policy: DuplicatePolicy | None = None,
    ) -> list[Enrollment | None]:
        """Enrolls a batch in one transaction: all or none.

        Args:
            create_speakers: Make the speakers that are not there; else they are an error.
            policy: For a recording (by the SHA-256 of its file) that the speaker has already: None refuses
                the batch, SKIP leaves it, REPLACE puts the new one in its place, ADD keeps both. What a row
                says of a speaker who exists already is taken over by REPLACE only.

        Returns:
            One per row, in order; None where it was skipped.

        Raises:
            CollectionNotFoundError: There is no such collection.
            SpeakerNotFoundError: `create_speakers` is off and one is missing.
            DuplicateRecordingError: A recording is there already and no policy is given.
            ModelMismatchError: An embedding comes from another model.
            RequestError: A row cannot be kept as it is.
        """
        checked = [_checked(row) for row in rows]
        if not checked:
            return []
        with self._writing(collection) as write:
            session = write.session
            for new in checked:
                check_embedding(new.embedding, write.model_id, write.dim)
            speakers = self._speakers_for(write, checked, create_speakers, policy)
            session.flush()
            there = self._sources(session, [speakers[new.speaker_id].key for new in checked])
            answers: list[EnrollmentRow | None] = []
            touched: set[int] = set()
            for new in checked:
                key = speakers[new.speaker_id].key
                source = (key, new.embedding.source_sha256)
                if source in there:
                    if policy is None:
                        raise _duplicate(new.speaker_id, source[1])
                    if policy is DuplicatePolicy.SKIP:
                        answers.append(None)
                        continue
                    if policy is DuplicatePolicy.REPLACE:
                        session.flush()
                        session.execute(
                            delete(EnrollmentRow).where(
                                EnrollmentRow.speaker_key == key, EnrollmentRow.source_sha256 == source[1]
                            ),
                            execution_options={"synchronize_session": False},
                        )
                row = _row(new, key)
                session.add(row)
                answers.append(row)
                there.add(source)
                touched.add(key)
                speakers[new.speaker_id].updated = row.created
            session.flush()
            session.add_all(
                AudioRow(enrollment_key=row.key, flac=new.embedding.audio)
                for row, new in zip(answers, checked, strict=True)
                if row is not None and new.embedding.audio is not None
            )
            _refresh(write, touched)
            return [
                None if row is None else _record(row, new.speaker_id)
                for row, new in zip(answers, checked, strict=True)
            ]

    @staticmethod
    def _speakers_for(
        write: Write, rows: Sequence[NewEnrollment], create: bool, policy: DuplicatePolicy | None
    ) -> dict[str, SpeakerRow]:
        speakers = _known_speakers(write.session, write.collection_id, {row.speaker_id for row in rows})
        for row in rows:
            known = speakers.get(row.speaker_id)
            if known is None:
                if not create:
                    raise SpeakerNotFoundError(
                        f"There is no speaker {row.speaker_id!r}.", speaker=row.speaker_id
                    )
                speakers[row.speaker_id] = new_speaker(
                    write.session,
                    write.collection_id,
                    row.speaker_id,
                    row.name,
                    dict(row.attributes or {}),
                    list(row.tags or ()),
                )
            elif policy is DuplicatePolicy.REPLACE:
                known.name = known.name if row.name is None else row.name
                known.attributes = known.attributes if row.attributes is None else dict(row.attributes)
                if row.tags is not None:
                    set_tags(known, list(row.tags))
        return speakers

    @staticmethod
    def _sources(session: Session, keys: Sequence[int]) -> set[tuple[int, str]]:
        wanted = sorted(set(keys))
        found: set[tuple[int, str]] = set()
        for start in range(0, len(wanted), CHUNK):
            query = select(EnrollmentRow.speaker_key, EnrollmentRow.source_sha256).where(
                EnrollmentRow.speaker_key.in_(wanted[start : start + CHUNK])
            )
            found.update((key, sha) for key, sha in session.execute(query))
        return found

    def enrollments(self, collection: str, speaker_id: str) -> list[Enrollment]:
        """A speaker's enrollments, oldest first. Raises: CollectionNotFoundError, SpeakerNotFoundError."""
        with self._reading() as session:
            speaker = find_speaker(session, find_collection(session, collection).id, speaker_id)
            rows = session.scalars(
                select(EnrollmentRow)
                .where(EnrollmentRow.speaker_key == speaker.key)
                .order_by(EnrollmentRow.key)
            )
            return [_record(row, speaker_id) for row in rows]

    def kept(self, collection: str) -> tuple[int, list[KeptEnrollment]]:
        """The collection's generation, and all its enrollments, oldest first. Raises: CollectionNotFoundError."""
        with self._reading() as session:
            found = find_collection(session, collection)
            rows = session.execute(
                select(EnrollmentRow, SpeakerRow.public_id, AudioRow.enrollment_key)
                .join(SpeakerRow, SpeakerRow.key == EnrollmentRow.speaker_key)
                .outerjoin(AudioRow, AudioRow.enrollment_key == EnrollmentRow.key)
                .where(SpeakerRow.collection_id == found.id)
                .order_by(EnrollmentRow.key)
            )
            return found.generation, [
                KeptEnrollment(_record(row, speaker), row.vector, audio is not None)
                for row, speaker, audio in rows
            ]

    def audio_of(self, enrollment_id: str) -> bytes | None:
        """The speech of an enrollment as FLAC; None where it is not kept, or the enrollment is gone."""
        with self._reading() as session:
            return session.scalar(
                select(AudioRow.flac)
                .join(EnrollmentRow, EnrollmentRow.key == AudioRow.enrollment_key)
                .where(EnrollmentRow.public_id == enrollment_id)
            )

    def forget_enrollment(self, collection: str, speaker_id: str, enrollment_id: str) -> None:
        """Deletes one enrollment; the last one takes the voiceprint with it, the speaker stays.

        Raises: CollectionNotFoundError, SpeakerNotFoundError, EnrollmentNotFoundError.
        """
        with self._writing(collection) as write:
            speaker = find_speaker(write.session, write.collection_id, speaker_id)
            row = write.session.scalar(
                select(EnrollmentRow).where(
                    EnrollmentRow.speaker_key == speaker.key, EnrollmentRow.public_id == enrollment_id
                )
            )
            if row is None:
                raise EnrollmentNotFoundError(
                    f"{speaker_id!r} has no enrollment {enrollment_id!r}.", enrollment=enrollment_id
                )
            write.session.delete(row)
            speaker.updated = now()
            write.session.flush()
            _refresh(write, [speaker.key])
        self._wipe_log()
