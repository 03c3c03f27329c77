"""Speakers: the people of a collection, with what is known of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from voicevault.errors import RequestError, SpeakerExistsError, SpeakerNotFoundError
from voicevault.store.checks import checked_attributes, checked_name, checked_tags, checked_text
from voicevault.store.database import Database, find_collection
from voicevault.store.tables import EnrollmentRow, SpeakerRow, TagRow, now
from voicevault.types import Op, Speaker

_MOST = 2**31 - 1
"""What both databases take for a number of rows."""


class Unset(Enum):
    """The value of an argument that was not given, where None means something."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


def new_speaker(
    session: Session,
    collection_id: int,
    id: str | None,
    name: str | None,
    attributes: dict[str, Any],
    tags: list[str],
) -> SpeakerRow:
    """Adds a row; what goes into it was checked before."""
    moment = now()
    row = SpeakerRow(
        collection_id=collection_id,
        public_id=id if id is not None else secrets.token_hex(8),
        name=name,
        attributes=attributes,
        tags=[TagRow(tag=tag) for tag in tags],
        created=moment,
        updated=moment,
    )
    session.add(row)
    return row


def set_tags(row: SpeakerRow, tags: list[str]) -> None:
    # Kept rows stay: deleting and adding the same primary key in one flush would collide.
    kept = [tag for tag in row.tags if tag.tag in tags]
    there = {tag.tag for tag in kept}
    row.tags = kept + [TagRow(tag=tag) for tag in tags if tag not in there]


def find_speaker(session: Session, collection_id: int, id: str) -> SpeakerRow:
    """Raises: SpeakerNotFoundError."""
    row = session.scalar(
        select(SpeakerRow).where(SpeakerRow.collection_id == collection_id, SpeakerRow.public_id == id)
    )
    if row is None:
        raise SpeakerNotFoundError(f"There is no speaker {id!r}.", speaker=id)
    return row


def _records(session: Session, rows: Sequence[SpeakerRow]) -> list[Speaker]:
    counts: dict[int, int] = dict(
        session.execute(
            select(EnrollmentRow.speaker_key, func.count())
            .where(EnrollmentRow.speaker_key.in_([row.key for row in rows]))
            .group_by(EnrollmentRow.speaker_key)
        )
        .tuples()
        .all()
    )
    return [
        Speaker(
            row.public_id,
            row.key,
            row.name,
            row.attributes,
            tuple(sorted(tag.tag for tag in row.tags)),
            counts.get(row.key, 0),
            row.created,
            row.updated,
        )
        for row in rows
    ]


class Speakers(Database):
    @staticmethod
    def check_speaker(
        name: str | None, attributes: Mapping[str, Any] | None, tags: Iterable[str] | None
    ) -> None:
        """Raises: RequestError where name, attributes or tags cannot be kept."""
        checked_name(name), checked_attributes(attributes), checked_tags(tags)

    def create_speaker(
        self,
        collection: str,
        id: str | None = None,
        name: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        tags: Iterable[str] | None = None,
    ) -> Speaker:
        """Adds a speaker without enrollments; without an id it gets one.

        Raises:
            CollectionNotFoundError: There is no such collection.
            SpeakerExistsError: The id is taken.
            RequestError: Id, name, attributes or tags cannot be kept.
        """
        if id is not None:
            checked_text(id, "speaker id")
        kept = checked_name(name), checked_attributes(attributes), checked_tags(tags)
        with self._writing(collection) as write:
            if id is not None and write.session.scalar(
                select(SpeakerRow.key).where(
                    SpeakerRow.collection_id == write.collection_id, SpeakerRow.public_id == id
                )
            ):
                raise SpeakerExistsError(f"The speaker {id!r} exists.", speaker=id)
            row = new_speaker(write.session, write.collection_id, id, *kept)
            write.session.flush()
            return _records(write.session, [row])[0]

    def speaker(self, collection: str, id: str) -> Speaker:
        """Raises: CollectionNotFoundError, SpeakerNotFoundError."""
        with self._reading() as session:
            return _records(session, [find_speaker(session, find_collection(session, collection).id, id)])[0]

    def speakers(
        self,
        collection: str,
        *,
        tags: Iterable[str] | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Speaker]:
        """A page of the speakers that carry all of `tags`, in the byte order of their ids, behind id `after`.

        Raises:
            CollectionNotFoundError: There is no such collection.
            RequestError: The limit is below 1, or a tag is no text.
        """
        if limit < 1:
            raise RequestError("The limit must be at least 1.", limit=limit)
        wanted = checked_tags(tags)
        with self._reading() as session:
            found = find_collection(session, collection)
            query = select(SpeakerRow).where(SpeakerRow.collection_id == found.id)
            for tag in wanted:
                query = query.where(SpeakerRow.key.in_(select(TagRow.speaker_key).where(TagRow.tag == tag)))
            if after is not None:
                query = query.where(SpeakerRow.public_id > after)
            rows = session.scalars(query.order_by(SpeakerRow.public_id).limit(min(limit, _MOST))).all()
            return _records(session, rows)

    def update_speaker(
        self,
        collection: str,
        id: str,
        *,
        name: str | Unset | None = UNSET,
        attributes: Mapping[str, Any] | Unset | None = UNSET,
        tags: Iterable[str] | Unset | None = UNSET,
        add: bool = False,
    ) -> Speaker:
        """Replaces what is given and leaves the rest; None empties a field.

        Args:
            add: Attributes and tags join those that are there.

        Raises:
            CollectionNotFoundError: There is no such collection.
            SpeakerNotFoundError: There is no such speaker.
            RequestError: Name, attributes or tags cannot be kept.
        """
        new_name = name if isinstance(name, Unset) else checked_name(name)
        new_attributes = attributes if isinstance(attributes, Unset) else checked_attributes(attributes)
        new_tags = tags if isinstance(tags, Unset) else checked_tags(tags)
        with self._writing(collection) as write:
            row = find_speaker(write.session, write.collection_id, id)
            if not isinstance(new_name, Unset):
                row.name = new_name
            if not isinstance(new_attributes, Unset):
                row.attributes = {**row.attributes, **new_attributes} if add else new_attributes
            if not isinstance(new_tags, Unset):
                there = [tag.tag for tag in row.tags] if add else []
                set_tags(row, checked_tags([*there, *new_tags]))
            row.updated = now()
            write.session.flush()
            return _records(write.session, [row])[0]

    def forget_speaker(self, collection: str, id: str) -> None:
        """Deletes the speaker with enrollments and voiceprint.

        Raises:
            CollectionNotFoundError: There is no such collection.
            SpeakerNotFoundError: There is no such speaker.
        """
        with self._writing(collection) as write:
            row = find_speaker(write.session, write.collection_id, id)
            write.changes[row.key] = Op.REMOVE
            write.session.execute(delete(SpeakerRow).where(SpeakerRow.key == row.key))
            write.session.expunge(row)
        self._wipe_log()
