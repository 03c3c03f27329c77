from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run, runner


@pytest.fixture(scope="module")
def enrolled(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, ada: list[Path], bob: list[Path]
) -> Run:
    """Ada and Bob, for questions alone."""
    run = runner(tmp_path_factory.mktemp("answers") / "home", tiny_model)
    assert run("enroll", "ada", ada[0], "--name", "Ada L.", "--tag", "london").code == 0
    assert run("enroll", "bob", bob[0]).code == 0
    return run


def test_identify_names_the_speaker(enrolled: Run, ada: list[Path]) -> None:
    told = enrolled("identify", ada[0])
    assert told.code == 0
    assert "ada (Ada L.), score 1.000" in told.out
    for word in ("rank", "speaker", "score", "accepted", "bob", "false match rate"):
        assert word in told.out
    answer = enrolled("identify", ada[0], "--json", "--top", "1").json
    assert answer["speaker_id"] == "ada" and answer["gallery"] == 2
    assert [one["speaker_id"] for one in answer["candidates"]] == ["ada"]
    assert answer["threshold"]["source"] in ("policy", "policy-limit")


def test_nobody_has_an_exit_code_of_its_own(enrolled: Run, ada: list[Path], bob: list[Path]) -> None:
    told = enrolled("identify", ada[4], "--threshold", "0.99999")
    assert told.code == 11
    assert "nobody in 'default' (2 speakers); nearest" in told.out
    several = enrolled("identify", ada[0], ada[4], bob[0], "--threshold", "0.99999", "--json")
    assert several.code == 11
    assert [one["speaker_id"] for one in several.lines] == ["ada", None, "bob"]


def test_an_error_wins_over_nobody(enrolled: Run, ada: list[Path]) -> None:
    told = enrolled("identify", ada[4], "missing.wav", "--threshold", "0.99999")
    assert told.code == 3
    assert "missing.wav" in told.err


def test_tags_narrow_the_gallery(enrolled: Run, bob: list[Path]) -> None:
    answer = enrolled("identify", bob[0], "--tag", "london", "--json").json
    assert answer["gallery"] == 1
    assert [one["speaker_id"] for one in answer["candidates"]] == ["ada"]


def test_identify_reads_stdin(enrolled: Run, ada: list[Path]) -> None:
    answer = enrolled("identify", "-", "--json", stdin=ada[0].read_bytes()).json
    assert (answer["file"], answer["speaker_id"]) == ("-", "ada")


def test_verify(enrolled: Run, ada: list[Path], bob: list[Path]) -> None:
    told = enrolled("verify", "ada", ada[0])
    assert told.code == 0
    assert "accepted as ada, score 1.000" in told.out
    told = enrolled("verify", "ada", bob[0], "--threshold", "0.9999", "--json")
    assert told.code == 10
    assert told.json["accepted"] is False and told.json["threshold"]["source"] == "given"
    assert "REJECTED as ada" in enrolled("verify", "ada", bob[0], "--threshold", "0.9999").out


def test_an_unknown_claim_suggests_the_list(enrolled: Run, ada: list[Path]) -> None:
    told = enrolled("verify", "nobody", ada[0])
    assert told.code == 4
    assert "[SPEAKER_NOT_FOUND]" in told.err and "voicevault speakers list" in told.err
    error = enrolled("verify", "nobody", ada[0], "--json").json["error"]
    assert error["code"] == "SPEAKER_NOT_FOUND" and "nobody" in error["facts"].values()


def test_threshold_and_rate_exclude_each_other(enrolled: Run, ada: list[Path]) -> None:
    told = enrolled("identify", ada[0], "--threshold", "0.5", "--fmr", "0.01", "--json")
    assert (told.code, told.json["error"]["code"]) == (2, "INVALID_REQUEST")


def test_an_empty_gallery_is_nobody(run: Run, ada: list[Path]) -> None:
    told = run("identify", ada[0])
    assert told.code == 11
    assert "nobody in 'default' (0 speakers)" in told.out
