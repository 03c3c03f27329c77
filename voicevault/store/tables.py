"""The tables. Rows of one collection hang on it by foreign keys that cascade; the change log names speakers
by key only, because it outlives them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from voicevault.types import Float32Array

# SQLite gives only INTEGER primary keys a row id of their own.
Key = BigInteger().with_variant(Integer, "sqlite")
# Byte order on both databases, so that pages of speakers come in the same order.
PublicId = String(255).with_variant(String(255, collation="C"), "postgresql")


class Vector(TypeDecorator[Float32Array]):
    """float32 [d] as little-endian bytes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Float32Array | None, dialect: Dialect) -> bytes | None:
        return None if value is None else np.ascontiguousarray(value, dtype="<f4").tobytes()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Float32Array | None:
        return None if value is None else np.frombuffer(value, dtype="<f4").astype(np.float32)


class Moment(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Moment,
        dict[str, Any]: JSON,
        Float32Array: Vector,
    }


class CollectionRow(Base):
    __tablename__ = "collections"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    name: Mapped[str] = mapped_column(PublicId, unique=True)
    model_id: Mapped[str] = mapped_column(String(255))
    dim: Mapped[int]
    generation: Mapped[int] = mapped_column(BigInteger)
    token: Mapped[str] = mapped_column(String(32))
    created: Mapped[datetime] = mapped_column(default=now)
    keeps_audio: Mapped[bool] = mapped_column(default=False, server_default=false())
    twin: Mapped[str | None] = mapped_column(String(36))
    """Of collections of the same speakers, each on a model of its own: the UUID of the first; None in the first itself."""


class GenerationRow(Base):
    """One committed write of a collection and its random token: an index finds its own here or rebuilds."""

    __tablename__ = "generations"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    generation: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    token: Mapped[str] = mapped_column(String(32))
    created: Mapped[datetime] = mapped_column(default=now)


class ChangeRow(Base):
    """What a write did to one speaker's voiceprint."""

    __tablename__ = "changes"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    generation: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    speaker_key: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    op: Mapped[str] = mapped_column(String(8))


class SpeakerRow(Base):
    __tablename__ = "speakers"
    # AUTOINCREMENT: a key is never given out twice, so no index can take one speaker for another.
    __table_args__ = (UniqueConstraint("collection_id", "public_id"), {"sqlite_autoincrement": True})

    key: Mapped[int] = mapped_column(Key, primary_key=True, autoincrement=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    public_id: Mapped[str] = mapped_column(PublicId)
    name: Mapped[str | None] = mapped_column(String(1024))
    attributes: Mapped[dict[str, Any]]
    created: Mapped[datetime] = mapped_column(default=now)
    updated: Mapped[datetime] = mapped_column(default=now)
    tags: Mapped[list[TagRow]] = relationship(
        cascade="all, delete-orphan", passive_deletes=True, order_by="TagRow.tag", lazy="selectin"
    )


class TagRow(Base):
    __tablename__ = "speaker_tags"
    __table_args__ = (Index(None, "tag"),)

    speaker_key: Mapped[int] = mapped_column(ForeignKey("speakers.key", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(PublicId, primary_key=True)


class EnrollmentRow(Base):
    __tablename__ = "enrollments"
    __table_args__ = (Index(None, "speaker_key", "source_sha256"),)

    key: Mapped[int] = mapped_column(Key, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(32), unique=True)
    speaker_key: Mapped[int] = mapped_column(ForeignKey("speakers.key", ondelete="CASCADE"))
    vector: Mapped[Float32Array] = mapped_column(Vector)
    model_id: Mapped[str] = mapped_column(String(255))
    seconds: Mapped[float]
    speech_seconds: Mapped[float]
    level_dbfs: Mapped[float]
    clipped: Mapped[float]
    snr_db: Mapped[float | None]
    source_sha256: Mapped[str] = mapped_column(String(64))
    audio_sha256: Mapped[str] = mapped_column(String(64))
    source_name: Mapped[str | None] = mapped_column(String(4096))
    created: Mapped[datetime] = mapped_column(default=now)


class AudioRow(Base):
    """The speech of an enrollment as FLAC, where its collection keeps it; it goes where the enrollment goes."""

    __tablename__ = "enrollment_audio"

    enrollment_key: Mapped[int] = mapped_column(
        ForeignKey("enrollments.key", ondelete="CASCADE"), primary_key=True
    )
    flac: Mapped[bytes] = mapped_column(LargeBinary)


class VoiceprintRow(Base):
    __tablename__ = "voiceprints"
    __table_args__ = (Index(None, "collection_id", "speaker_key"),)

    speaker_key: Mapped[int] = mapped_column(ForeignKey("speakers.key", ondelete="CASCADE"), primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    vector: Mapped[Float32Array] = mapped_column(Vector)
    updated: Mapped[datetime] = mapped_column(default=now, onupdate=now)
