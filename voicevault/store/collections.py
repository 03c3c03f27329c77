"""Collections: making, listing, deleting."""

from __future__ import annotations

import secrets
from uuid import uuid4

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from voicevault.errors import CollectionExistsError, DatabaseBusyError, RequestError
from voicevault.store.checks import checked_text
from voicevault.store.database import Database, find_collection, no_collection
from voicevault.store.tables import CollectionRow, GenerationRow, SpeakerRow, now
from voicevault.types import Collection

_speakers = (
    select(func.count())
    .where(SpeakerRow.collection_id == CollectionRow.id)
    .correlate(CollectionRow)
    .scalar_subquery()
)


def _record(row: CollectionRow, speakers: int) -> Collection:
    return Collection(
        row.name, row.uuid, row.model_id, row.dim, row.generation, speakers, row.created, row.keeps_audio
    )


class Collections(Database):
    def create_collection(
        self, name: str, model_id: str, dim: int, *, keeps_audio: bool = False, twin: str | None = None
    ) -> Collection:
        """Makes an empty collection for one model.

        Args:
            keeps_audio: Whether the speech of enrollments is kept.
            twin: UUID of a collection whose speakers this one is to hold on another model.

        Raises:
            CollectionExistsError: The name is taken.
            RequestError: Name or dimension cannot be used.
        """
        checked_text(name, "collection name")
        checked_text(model_id, "model id")
        if dim < 1:
            raise RequestError("An embedding has at least one dimension.", dim=dim)
        token = secrets.token_hex(16)
        row = CollectionRow(
            uuid=str(uuid4()),
            name=name,
            model_id=model_id,
            dim=dim,
            generation=0,
            token=token,
            created=now(),
            keeps_audio=keeps_audio,
        )
        with self._unordered() as session:
            if twin is not None:
                first = select(CollectionRow.twin).where(CollectionRow.uuid == twin)
                row.twin = session.scalar(first) or twin
            try:
                session.add(row)
                session.flush()
            except IntegrityError as error:
                raise CollectionExistsError(f"The collection {name!r} exists.", collection=name) from error
            session.execute(insert(GenerationRow).values(collection_id=row.id, generation=0, token=token))
            return _record(row, 0)

    def collections(self) -> list[Collection]:
        """All collections, by name."""
        with self._reading() as session:
            rows = session.execute(select(CollectionRow, _speakers).order_by(CollectionRow.name))
            return [_record(row, speakers) for row, speakers in rows]

    def collection(self, name: str) -> Collection:
        """Raises: CollectionNotFoundError."""
        with self._reading() as session:
            found = session.execute(
                select(CollectionRow, _speakers).where(CollectionRow.name == name)
            ).one_or_none()
            if found is None:
                raise no_collection(name)
            return _record(found[0], found[1])

    def delete_collection(self, name: str) -> str:
        """Deletes it with all its speakers; returns its UUID.

        Raises:
            CollectionNotFoundError: There is none of that name.
        """
        with self._writing(name) as write:
            uuid = find_collection(write.session, name).uuid
            write.session.execute(delete(CollectionRow).where(CollectionRow.id == write.collection_id))
        self._wipe_log()
        return uuid

    def keeps_audio(self, name: str) -> bool:
        """Whether the speech of enrollments is kept. Raises: CollectionNotFoundError."""
        with self._reading() as session:
            return find_collection(session, name).keeps_audio

    def twins_of(self, name: str) -> list[str]:
        """Names of the other collections of the same speakers, each on a model of its own. Raises: CollectionNotFoundError."""
        with self._reading() as session:
            found = find_collection(session, name)
            first = found.twin or found.uuid
            return list(
                session.scalars(
                    select(CollectionRow.name)
                    .where((CollectionRow.uuid == first) | (CollectionRow.twin == first))
                    .where(CollectionRow.uuid != found.uuid)
                    .order_by(CollectionRow.id)
                )
            )

    def exchange(self, name: str, other: str, backup: str, generation: int) -> None:
        """Collection `other` takes the name of `name`, which is called `backup` from then on: in one transaction.

        Args:
            generation: Of `name`, that `other` was made level with.

        Raises:
            CollectionNotFoundError: One of them is not there.
            CollectionExistsError: `backup` is the name of a third one.
            DatabaseBusyError: `name` was written to since that generation; make `other` level again.
        """
        checked_text(backup, "collection name")
        with self._writing(name) as write:
            if write.generation != generation + 1:
                raise DatabaseBusyError(
                    "The collection was written to meanwhile; try again.", collection=name
                )
            session = write.session
            old, new = find_collection(session, name), find_collection(session, other)
            # Names are unique at every moment: the new one steps aside first.
            new.name = str(uuid4())
            session.flush()
            old.name = backup
            try:
                session.flush()
            except IntegrityError as error:
                raise CollectionExistsError(
                    f"The collection {backup!r} exists.", collection=backup
                ) from error
            new.name = name
            session.flush()
