from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg

from tests.cli.conftest import Run


def test_upgrade_makes_the_tables_once(run: Run, tmp_path: Path) -> None:
    first = run("db", "upgrade", "--json").json
    assert first["before"] is None and first["after"] and first["changed"]
    assert (tmp_path / "home" / "voicevault.db").is_file()
    second = run("db", "upgrade", "--json").json
    assert second["before"] == second["after"] == first["after"] and not second["changed"]
    assert "nothing to do" in run("db", "upgrade").out


def test_a_database_that_cannot_be_reached(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "no.db"
    file.write_text("this is no database, " * 50)
    told = run("speakers", "list", "--database-url", f"sqlite:///{file}", "--json")
    assert told.code == 7
    assert told.json["error"]["code"] == "DATABASE_UNAVAILABLE"


def check_newer(run: Run, *where: str) -> None:
    for command in (["speakers", "list"], ["db", "upgrade"]):
        told = run(*command, *where, "--json")
        error = told.json["error"]
        assert (told.code, error["code"], error["facts"]["found"]) == (7, "SCHEMA_OUTDATED", "9999")
        assert "Install that release" in error["message"]
        assert "hint" not in error  # an upgrade is no help


def test_a_database_of_a_newer_release(run: Run, tmp_path: Path) -> None:
    assert run("db", "upgrade").code == 0
    with closing(sqlite3.connect(tmp_path / "home" / "voicevault.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    check_newer(run)


def test_a_postgresql_database_of_a_newer_release(run: Run, new_postgres_database: Callable[[], str]) -> None:
    url = new_postgres_database()
    assert run("db", "upgrade", "--database-url", url).code == 0
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    check_newer(run, "--database-url", url)


def test_postgresql(run: Run, new_postgres_database: Callable[[], str], ada: list[Path]) -> None:
    url = new_postgres_database()
    assert run("db", "upgrade", "--database-url", url, "--json").json["changed"]
    assert run("enroll", "ada", ada[0], "--database-url", url).code == 0
    assert run("identify", ada[0], "--database-url", url, "--json").json["speaker_id"] == "ada"
