"""The schema goes up and down on both databases, and the revisions match the tables."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from voicevault.errors import DatabaseUnavailableError, SchemaOutdatedError, SettingsError
from voicevault.store import Store, current_revision, downgrade, migrate, upgrade


def test_up_down_up(url: str) -> None:
    with closing(Store(url)) as store:
        store.upgrade()
        store.check_schema()
        assert current_revision(url) == migrate.head()
        store.create_collection("c", "m", 4)
    downgrade(url, "base")
    with closing(Store(url)) as store:
        assert store.current_revision() is None
        with pytest.raises(SchemaOutdatedError) as caught:
            store.check_schema()
        assert "voicevault db upgrade" in caught.value.message
        with pytest.raises(SchemaOutdatedError):
            store.collections()
    upgrade(url)
    upgrade(url)
    with closing(Store(url)) as store:
        assert store.collections() == []


def test_a_database_of_a_newer_release(url: str) -> None:
    with closing(Store(url)) as store:
        store.upgrade()
        with store._writers.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        for ask in (store.check_schema, store.upgrade, lambda: store.downgrade("base")):
            with pytest.raises(SchemaOutdatedError, match="made by a newer release") as caught:
                ask()
            assert caught.value.facts == {"found": "9999", "wanted": migrate.head()}
        assert store.current_revision() == "9999"


def test_alembic_check_is_clean(store: Store) -> None:
    migrate.check(store._writers)


def test_sqlite_is_set_up(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path / 'a.db'}")
    with closing(Store(f"sqlite:///{tmp_path / 'a.db'}")) as store, store._reading() as session:
        connection = session.connection()
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
        "secure_delete": 1,
    }


@pytest.mark.parametrize("wrong", ["mysql://host/x", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_other_urls_are_refused(wrong: str) -> None:
    with pytest.raises(SettingsError):
        Store(wrong)


def test_unreachable(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailableError):
        Store(f"sqlite:///{tmp_path / 'missing' / 'a.db'}").collections()
    with pytest.raises(DatabaseUnavailableError):
        Store("postgresql://nobody@127.0.0.1:1/none").collections()
    (tmp_path / "text.db").write_text("this is no database at all " * 100)
    with pytest.raises(DatabaseUnavailableError):
        Store(f"sqlite:///{tmp_path / 'text.db'}").collections()
