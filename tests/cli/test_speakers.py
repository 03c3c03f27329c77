from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from voicevault.text import printable


@pytest.fixture
def enrolled(run: Run, ada: list[Path], bob: list[Path]) -> Run:
    assert run("enroll", "ada", ada[0], ada[1], "--name", "Ada [bold]L.").code == 0
    assert run("enroll", "bob", bob[0]).code == 0
    return run


def test_list(enrolled: Run) -> None:
    table = enrolled("speakers", "list").out
    assert "ada" in table and "bob" in table
    assert "Ada [bold]L." in table, "a name is no markup"
    speakers = enrolled("speakers", "list", "--json").json["speakers"]
    assert [(one["id"], one["enrollments"]) for one in speakers] == [("ada", 2), ("bob", 1)]
    assert [s["id"] for s in enrolled("speakers", "list", "--limit", "1", "--json").json["speakers"]] == [
        "ada"
    ]
    assert [s["id"] for s in enrolled("speakers", "list", "--after", "ada", "--json").json["speakers"]] == [
        "bob"
    ]


def test_names_cannot_steer_the_terminal() -> None:
    assert printable("Ada \x1b[31m\nL. é") == "Ada \N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}L. é"


def test_names_of_files_cannot_either(run: Run) -> None:
    told = run("identify", "a\x1b[31m.wav", "b.wav")
    assert "\x1b" not in told.err and told.err.count("AUDIO_NOT_FOUND") == 2


def test_attributes_do_not_pass_for_what_is_known(run: Run, ada: list[Path]) -> None:
    forged = ("--attribute", "name=Eve", "--attribute", "created=1999-01-01 00:00")
    assert run("enroll", "ada", ada[0], "--name", "Ada", *forged).code == 0
    lines = [line.split() for line in run("speakers", "show", "ada").out.splitlines()]
    assert ["name", "Ada"] in lines and ["attribute", "name", "Eve"] in lines
    assert ["created", "1999-01-01", "00:00"] not in lines


def test_an_empty_list_says_what_to_do(run: Run) -> None:
    assert "voicevault enroll" in run("speakers", "list").out


def test_forget_an_enrollment_then_the_speaker(enrolled: Run, ada: list[Path]) -> None:
    first, second = enrolled("speakers", "show", "ada", "--json").json["enrollments"]
    assert enrolled("speakers", "forget", "ada", "--enrollment", first["id"]).code == 0
    assert enrolled("speakers", "show", "ada", "--json").json["enrollments"] == [second]
    told = enrolled("speakers", "forget", "ada", "--json")
    assert told.json["forgotten"]["speaker_id"] == "ada"
    assert enrolled("speakers", "show", "ada").code == 4
    answer = enrolled("identify", ada[0], "--json").json
    assert [one["speaker_id"] for one in answer["candidates"]] == ["bob"]


def test_forget_somebody_who_is_not_there(run: Run) -> None:
    told = run("speakers", "forget", "ada")
    assert told.code == 4
    assert "speakers list" in told.err


def test_a_speaker_is_known_in_its_collection_alone(enrolled: Run, ada: list[Path]) -> None:
    assert enrolled("collections", "create", "other").code == 0
    assert enrolled("speakers", "show", "ada", "-c", "other").code == 4
    assert enrolled("enroll", "cy", ada[2], "-c", "other").code == 0
    assert enrolled("speakers", "show", "cy").code == 4


def test_duplicates(enrolled: Run, ada: list[Path]) -> None:
    assert enrolled("enroll", "ada-again", ada[0], ada[1]).code == 0
    found = enrolled("speakers", "duplicates", "--threshold", "0.9999", "--json").json
    assert [(pair["speaker_id"], pair["other_id"]) for pair in found["pairs"]] == [("ada", "ada-again")]
    assert found["pairs"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert found["gallery"] == 3
    table = enrolled("speakers", "duplicates", "--threshold", "0.9999").out
    assert "ada-again" in table and "bob" not in table
    everybody = enrolled("speakers", "duplicates", "--threshold", "-1", "--json").json["pairs"]
    assert len(everybody) == 3
    assert (
        len(enrolled("speakers", "duplicates", "--threshold", "-1", "--limit", "2", "--json").json["pairs"])
        == 2
    )
    assert enrolled("speakers", "forget", "ada-again", "--yes").code == 0
    assert "No two of the 2 speakers" in enrolled("speakers", "duplicates", "--threshold", "0.99999").out
