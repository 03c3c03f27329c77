"""first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
PUBLIC_ID = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "collections",
        sa.Column("id", KEY, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", PUBLIC_ID, nullable=False),
        sa.Column("model_id", sa.String(length=255), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collections")),
        sa.UniqueConstraint("name", name=op.f("uq_collections_name")),
        sa.UniqueConstraint("uuid", name=op.f("uq_collections_uuid")),
    )
    op.create_table(
        "changes",
        sa.Column("collection_id", KEY, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("speaker_key", sa.BigInteger(), nullable=False),
        sa.Column("op", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_changes_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("collection_id", "generation", "speaker_key", name=op.f("pk_changes")),
    )
    op.create_table(
        "generations",
        sa.Column("collection_id", KEY, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_generations_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("collection_id", "generation", name=op.f("pk_generations")),
    )
    op.create_table(
        "speakers",
        sa.Column("key", KEY, autoincrement=True, nullable=False),
        sa.Column("collection_id", KEY, nullable=False),
        sa.Column("public_id", PUBLIC_ID, nullable=False),
        sa.Column("name", sa.String(length=1024), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_speakers_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_speakers")),
        sa.UniqueConstraint("collection_id", "public_id", name=op.f("uq_speakers_collection_id_public_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "enrollments",
        sa.Column("key", KEY, nullable=False),
        sa.Column("public_id", sa.String(length=32), nullable=False),
        sa.Column("speaker_key", KEY, nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("model_id", sa.String(length=255), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("speech_seconds", sa.Double(), nullable=False),
        sa.Column("level_dbfs", sa.Double(), nullable=False),
        sa.Column("clipped", sa.Double(), nullable=False),
        sa.Column("snr_db", sa.Double(), nullable=True),
        sa.Column("source_sha256", sa.String(length=64), nullable=False),
        sa.Column("audio_sha256", sa.String(length=64), nullable=False),
        sa.Column("source_name", sa.String(length=4096), nullable=True),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["speaker_key"], ["speakers.key"], name=op.f("fk_enrollments_speaker_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_enrollments")),
        sa.UniqueConstraint("public_id", name=op.f("uq_enrollments_public_id")),
    )
    with op.batch_alter_table("enrollments", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_enrollments_speaker_key_source_sha256"),
            ["speaker_key", "source_sha256"],
            unique=False,
        )

    op.create_table(
        "speaker_tags",
        sa.Column("speaker_key", KEY, nullable=False),
        sa.Column("tag", PUBLIC_ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["speaker_key"], ["speakers.key"], name=op.f("fk_speaker_tags_speaker_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("speaker_key", "tag", name=op.f("pk_speaker_tags")),
    )
    with op.batch_alter_table("speaker_tags", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_speaker_tags_tag"), ["tag"], unique=False)

    op.create_table(
        "voiceprints",
        sa.Column("speaker_key", KEY, nullable=False),
        sa.Column("collection_id", KEY, nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("updated", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_voiceprints_collection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["speaker_key"], ["speakers.key"], name=op.f("fk_voiceprints_speaker_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("speaker_key", name=op.f("pk_voiceprints")),
    )
    with op.batch_alter_table("voiceprints", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_voiceprints_collection_id_speaker_key"),
            ["collection_id", "speaker_key"],
            unique=False,
        )


def downgrade() -> None:
    with op.batch_alter_table("voiceprints", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_voiceprints_collection_id_speaker_key"))

    op.drop_table("voiceprints")
    with op.batch_alter_table("speaker_tags", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_speaker_tags_tag"))

    op.drop_table("speaker_tags")
    with op.batch_alter_table("enrollments", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_enrollments_speaker_key_source_sha256"))

    op.drop_table("enrollments")
    op.drop_table("speakers")
    op.drop_table("generations")
    op.drop_table("changes")
    op.drop_table("collections")
