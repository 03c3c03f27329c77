"""The database: the truth of which the index is a cache. The only home of SQLAlchemy."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from voicevault.errors import SchemaOutdatedError
from voicevault.store import migrate
from voicevault.store.collections import Collections
from voicevault.store.enrollments import Enrollments, KeptEnrollment, NewEnrollment
from voicevault.store.gallery import Gallery
from voicevault.store.speakers import UNSET, Speakers, Unset

__all__ = [
    "UNSET",
    "KeptEnrollment",
    "NewEnrollment",
    "Store",
    "Unset",
    "current_revision",
    "downgrade",
    "upgrade",
]


class Store(Collections, Speakers, Enrollments, Gallery):
    """One database, SQLite or PostgreSQL. Thread-safe; made anew in each process.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://...``.
        lock_timeout: Seconds to wait for another writer before DatabaseBusyError.

    Every method raises DatabaseUnavailableError where the database cannot be reached, DatabaseBusyError where
    a lock is not granted in time, and SchemaOutdatedError where tables are missing.
    """

    def upgrade(self) -> None:
        """Brings the schema to this release, in one transaction; makes the folder of a SQLite file.

        Raises:
            SchemaOutdatedError: A newer release made it.
        """
        if self.url.get_backend_name() == "sqlite" and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        migrate.upgrade(self._writers)

    def downgrade(self, revision: str) -> None:
        """Takes the schema back to `revision`; ``base`` is the empty database."""
        migrate.downgrade(self._writers, revision)

    def current_revision(self) -> str | None:
        """The schema revision that the database has; None for an empty one."""
        return migrate.current(self._engine)

    def check_schema(self) -> None:
        """Raises SchemaOutdatedError where the schema is not the one of this release."""
        found, wanted = self.current_revision(), migrate.head()
        if found != wanted:
            migrate.refuse_newer(found)
            raise SchemaOutdatedError(
                "The database has another schema than this release; run `voicevault db upgrade`.",
                found=found,
                wanted=wanted,
            )


def upgrade(url: str) -> None:
    """`Store.upgrade` for a URL."""
    with closing(Store(url)) as store:
        store.upgrade()


def downgrade(url: str, revision: str) -> None:
    """`Store.downgrade` for a URL."""
    with closing(Store(url)) as store:
        store.downgrade(revision)


def current_revision(url: str) -> str | None:
    """`Store.current_revision` for a URL."""
    with closing(Store(url)) as store:
        return store.current_revision()
