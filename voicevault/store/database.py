"""Connections and transactions: the order of a collection's writes, and reads of one moment."""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, make_url, select, update
from sqlalchemy import exc as sa
from sqlalchemy.orm import Session

from voicevault.errors import (
    CollectionNotFoundError,
    DatabaseBusyError,
    DatabaseUnavailableError,
    RequestError,
    SchemaOutdatedError,
    SettingsError,
    StoreError,
    VoicevaultError,
)
from voicevault.store.tables import ChangeRow, CollectionRow, GenerationRow
from voicevault.types import Op

log = logging.getLogger(__name__)

_WIPE_PATIENCE = 1000
"""Milliseconds that an erasure waits for readers of SQLite's log; other writers wait as long."""
# lock not available, deadlock, serialisation failure, statement timeout, too many connections
_BUSY_STATES = {"55P03", "40P01", "40001", "57014", "53300"}
_NO_TABLE_STATES = {"42P01", "42703"}


def parse_url(url: str) -> URL:
    """`postgres://` and `postgresql://` mean psycopg 3; `sqlite:///path` is the other one.

    Raises:
        SettingsError: Neither SQLite nor PostgreSQL, or not a URL.
    """
    try:
        parsed = make_url(url)
    except (sa.ArgumentError, ValueError) as error:
        raise SettingsError(
            "The database URL cannot be read; give sqlite:///PATH or postgresql://..."
        ) from error
    kind = parsed.get_backend_name()
    if kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite")
    raise SettingsError("The database URL must be sqlite:///PATH or postgresql://...", backend=kind)


def make_engine(url: URL, lock_timeout: float) -> Engine:
    milliseconds = max(1, round(lock_timeout * 1000))
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True, pool_timeout=lock_timeout)

        @event.listens_for(engine, "do_connect")
        def create_sqlite(*_: Any) -> None:
            # SQLite would make the file readable for everybody; its log gets the file's permissions.
            with suppress(OSError):  # it is there, or SQLite says why it cannot be
                os.close(os.open(str(url.database), os.O_CREAT | os.O_EXCL, 0o600))

        @event.listens_for(engine, "connect")
        def prepare_sqlite(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # transactions are begun by begin_sqlite, not by the driver
            for pragma in (
                f"busy_timeout = {milliseconds}",
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                "secure_delete = ON",
            ):
                connection.execute(f"PRAGMA {pragma}").close()

        @event.listens_for(engine, "begin")
        def begin_sqlite(connection: Connection) -> None:
            # A deferred transaction that turns to writing can fail at once, without the busy timeout.
            write = connection.get_execution_options().get("voicevault_write", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

        return engine

    engine = create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=lock_timeout,
        connect_args={"connect_timeout": 10},
    )

    @event.listens_for(engine, "connect")
    def prepare_postgresql(connection: Any, _record: Any) -> None:
        connection.execute(f"SET lock_timeout = {milliseconds}")
        # A client that hangs while it holds a collection's row must not stop all the others for good.
        connection.execute("SET idle_in_transaction_session_timeout = 60000")
        connection.commit()

    return engine


@contextmanager
def translated() -> Iterator[None]:
    """Driver errors leave as our own; their parameters (embeddings, names) stay out of the message."""
    try:
        yield
    except sa.TimeoutError as error:
        raise DatabaseBusyError("All database connections are in use; try again.") from error
    except sa.DBAPIError as error:
        raise _translate(error) from error
    except sa.SQLAlchemyError as error:
        raise StoreError(f"The database failed: {type(error).__name__}.") from error
    except (
        UnicodeEncodeError
    ) as error:  # half a surrogate pair, as Python reads names of files that are no UTF-8
        raise _no_text() from error


def _no_text() -> RequestError:
    return RequestError(
        "A text holds what no database can keep or look for; give text without NUL, as UTF-8."
    )


def _translate(error: sa.DBAPIError) -> VoicevaultError:
    text = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    state = getattr(error.orig, "sqlstate", None)
    if state in _BUSY_STATES or "database is locked" in text or "table is locked" in text:
        return DatabaseBusyError(
            "The database is busy: a lock was not granted in time; try again.", state=state
        )
    if state in _NO_TABLE_STATES or "no such table" in text or "no such column" in text:
        return SchemaOutdatedError("The database lacks tables of this release; run `voicevault db upgrade`.")
    if "NUL (0x00)" in text:
        return _no_text()
    if isinstance(error, (sa.OperationalError, sa.InterfaceError)) or "not a database" in text:
        return DatabaseUnavailableError(f"The database cannot be reached: {text}", state=state)
    return StoreError(f"The database refused a statement: {type(error.orig).__name__}.", state=state)


@dataclass
class Write:
    """A write transaction that holds its collection's row, so that no other can commit in between."""

    session: Session
    collection_id: int
    model_id: str
    dim: int
    generation: int
    token: str
    changes: dict[int, Op] = field(default_factory=dict)


class Database:
    """An engine and its two kinds of transaction."""

    def __init__(self, url: str, *, lock_timeout: float = 10.0) -> None:
        self.url = parse_url(url)
        self._engine = make_engine(self.url, lock_timeout)
        sqlite = self.url.get_backend_name() == "sqlite"
        self._readers = self._engine.execution_options(
            **({} if sqlite else {"isolation_level": "REPEATABLE READ"})
        )
        self._writers = self._engine.execution_options(
            **({"voicevault_write": True} if sqlite else {"isolation_level": "READ COMMITTED"})
        )
        self._closed = False

    def close(self) -> None:
        """Closes all connections, those in use once they are given back; no further transaction begins."""
        self._closed = True
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        """One fresh transaction that sees one moment."""
        self._check_open()
        with translated(), Session(self._readers, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _unordered(self) -> Iterator[Session]:
        """A write transaction outside any collection's order: only for making collections."""
        self._check_open()
        with translated(), Session(self._writers, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _writing(self, collection: str) -> Iterator[Write]:
        """A write transaction in the collection's order; change rows are written at its end."""
        with self._unordered() as session:
            write = self._take_generation(session, collection)
            session.execute(
                insert(GenerationRow).values(
                    collection_id=write.collection_id, generation=write.generation, token=write.token
                )
            )
            yield write
            session.flush()
            rows = [
                {
                    "collection_id": write.collection_id,
                    "generation": write.generation,
                    "speaker_key": key,
                    "op": op.value,
                }
                for key, op in write.changes.items()
            ]
            if rows:
                session.execute(insert(ChangeRow), rows)

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseUnavailableError("The vault is closed; open it again.")

    def _wipe_log(self) -> None:
        """Takes what was deleted out of SQLite's log too, which otherwise keeps it until the database is closed.

        Where a reader needs the log for longer than a moment, the next erasure does it, or the closing.
        """
        if self.url.get_backend_name() != "sqlite":
            return
        try:
            with closing(self._engine.raw_connection()) as connection:
                cursor = connection.cursor()
                before = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
                cursor.execute(f"PRAGMA busy_timeout = {_WIPE_PATIENCE}")
                try:
                    busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                finally:
                    cursor.execute(f"PRAGMA busy_timeout = {before}")
        except (sqlite3.Error, sa.SQLAlchemyError) as error:  # the deletion itself is committed
            log.warning("the log of the database cannot be emptied now: %s", error)
            return
        if busy:
            log.info("the log of the database is in use: what was deleted leaves it later")

    def _take_generation(self, session: Session, collection: str) -> Write:
        # First statement of the transaction: the row lock lasts until commit, so generations commit in order.
        # A sequence would not do: its numbers commit in any order, and a reader would skip the late ones.
        token = secrets.token_hex(16)
        row = session.execute(
            update(CollectionRow)
            .where(CollectionRow.name == collection)
            .values(generation=CollectionRow.generation + 1, token=token)
            .returning(CollectionRow.id, CollectionRow.model_id, CollectionRow.dim, CollectionRow.generation),
            execution_options={"synchronize_session": False},
        ).one_or_none()
        if row is None:
            raise no_collection(collection)
        return Write(session, row.id, row.model_id, row.dim, row.generation, token)


def find_collection(session: Session, name: str) -> CollectionRow:
    """Raises: CollectionNotFoundError."""
    row = session.scalar(select(CollectionRow).where(CollectionRow.name == name))
    if row is None:
        raise no_collection(name)
    return row


def no_collection(name: str) -> CollectionNotFoundError:
    return CollectionNotFoundError(f"There is no collection {name!r}.", collection=name)
