"""kept audio, and the twin of a collection on another model"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column(
        "collections", sa.Column("keeps_audio", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column("collections", sa.Column("twin", sa.String(length=36), nullable=True))
    op.create_table(
        "enrollment_audio",
        sa.Column("enrollment_key", KEY, nullable=False),
        sa.Column("flac", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["enrollment_key"],
            ["enrollments.key"],
            name=op.f("fk_enrollment_audio_enrollment_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("enrollment_key", name=op.f("pk_enrollment_audio")),
    )


def downgrade() -> None:
    op.drop_table("enrollment_audio")
    op.drop_column("collections", "twin")
    op.drop_column("collections", "keeps_audio")
