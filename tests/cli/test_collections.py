from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run


def test_create_list_delete(run: Run, ada: list[Path]) -> None:
    made = run("collections", "create", "staff", "--json").json
    assert made["name"] == "staff" and made["speakers"] == 0
    assert run("enroll", "ada", ada[0], "--collection", "staff").code == 0
    listed = run("collections", "list", "--json").json["collections"]
    assert [(one["name"], one["speakers"]) for one in listed] == [("default", 0), ("staff", 1)]
    assert "staff" in run("collections", "list").out
    told = run("collections", "delete", "staff")
    assert "1 speaker." in told.out
    assert run("collections", "delete", "staff").code == 4


def test_a_name_is_taken_once(run: Run) -> None:
    told = run("collections", "create", "default")
    assert told.code == 5
    assert "[COLLECTION_EXISTS]" in told.err
