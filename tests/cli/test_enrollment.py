from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from voicevault.cli.enrollment import _results_file
from voicevault.demo.tour import MANIFEST
from voicevault.errors import RequestError
from voicevault.settings import Settings
from voicevault.vault import Vault


def test_enroll_makes_a_speaker_with_name_tags_and_attributes(run: Run, ada: list[Path]) -> None:
    told = run(
        "enroll", "ada", *ada[:2], "--name", "Ada L.", "--tag", "london", "--attribute", "team=engines"
    )
    assert told.code == 0
    assert told.out.count("enrolled for ada") == 2
    found = run("speakers", "show", "ada", "--json").json
    assert (found["name"], found["tags"], found["attributes"]) == ("Ada L.", ["london"], {"team": "engines"})
    assert [one["source_name"] for one in found["enrollments"]] == ["1.opus", "2.opus"]
    run("enroll", "ada", ada[2], "--tag", "new")
    assert run("speakers", "show", "ada", "--json").json["tags"] == ["london", "new"]


def test_a_bad_recording_is_named_and_stops_no_other(run: Run, ada: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("not audio at all, " * 100)
    told = run("enroll", "ada", text, ada[0], tmp_path / "none.wav", "--json")
    assert told.code == 3
    bad, good, missing = told.lines
    assert bad["file"] == str(text) and bad["error"]["code"] == "AUDIO_UNSUPPORTED"
    assert good["speaker_id"] == "ada" and good["quality"]["speech_seconds"] > 3
    assert missing["error"]["code"] == "AUDIO_NOT_FOUND"
    refused = run("enroll", "ada", ada[0], "--collection", "nowhere", "--json")
    assert [line["error"]["code"] for line in refused.lines] == ["COLLECTION_NOT_FOUND"]
    assert run("enroll", "ada", text).err.startswith(f"{text}: ")
    nobody = run("enroll", "bob", text, "--name", "Bob")
    assert nobody.code == 3 and "[AUDIO_UNSUPPORTED]" in nobody.err and "SPEAKER" not in nobody.err


def test_too_little_speech_says_what_is_missing(run: Run, ada: list[Path]) -> None:
    told = run("enroll", "ada", ada[0], "--min-enroll-speech", "30")
    assert told.code == 3
    assert "Record at least" in told.err and "[NOT_ENOUGH_SPEECH]" in told.err
    assert run("speakers", "list", "--json").json == {"speakers": []}


def test_the_same_recording_twice(run: Run, ada: list[Path]) -> None:
    assert run("enroll", "ada", ada[0]).code == 0
    told = run("enroll", "ada", ada[0])
    assert told.code == 5
    assert "--duplicates" in told.err
    assert run("enroll", "ada", ada[0], "--duplicates", "skip").code == 0
    assert len(run("speakers", "show", "ada", "--json").json["enrollments"]) == 1
    assert run("enroll", "ada", ada[0], "--duplicates", "add").code == 0
    assert len(run("speakers", "show", "ada", "--json").json["enrollments"]) == 2


def test_no_create_refuses_an_unknown_speaker(run: Run, ada: list[Path]) -> None:
    told = run("enroll", "ada", ada[0], "--no-create")
    assert told.code == 4
    assert "speakers list" in told.err


def test_stdin_is_a_recording(run: Run, ada: list[Path]) -> None:
    assert run("enroll", "ada", "-", stdin=ada[0].read_bytes()).code == 0
    assert run("speakers", "show", "ada", "--json").json["enrollments"][0]["source_name"] == "stdin"
    told = run("enroll", "ada", "-", "-", stdin=ada[1].read_bytes())
    assert told.code == 2
    told = run("enroll", "ada", "-", "--max-bytes", "100", "--json", stdin=ada[1].read_bytes())
    assert told.code == 3
    assert told.lines[0]["error"]["code"] == "AUDIO_TOO_LARGE"


@pytest.mark.parametrize(
    "wrong", [("--tag", ""), ("--tag", "a\nb"), ("--name", "a\x00b"), ("--attribute", "a=\udcff")]
)
def test_nothing_is_enrolled_where_the_rest_cannot_be_kept(
    run: Run, ada: list[Path], wrong: tuple[str, str]
) -> None:
    assert run("enroll", "ada", ada[0], *wrong).code == 2
    assert run("speakers", "list", "--json").json == {"speakers": []}


def test_attributes_need_a_name_and_a_value(run: Run, ada: list[Path]) -> None:
    assert run("enroll", "ada", ada[0], "--attribute", "team").code == 2


@pytest.fixture
def corpus(tmp_path: Path, ada: list[Path], bob: list[Path]) -> Path:
    """A manifest with four good recordings and a broken one."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    rows = [("path", "speaker", "tags", "team")]
    rows += [(str(file), "ada", "london", "engines") for file in ada[:2]]
    rows += [(str(file), "bob", "", "") for file in bob[:2]]
    rows += [(str(broken), "bob", "", "")]
    manifest = tmp_path / "corpus.tsv"
    manifest.write_text("\n".join("\t".join(row) for row in rows) + "\n", encoding="utf-8")
    return manifest


def test_import_and_import_again(run: Run, corpus: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.tsv"
    told = run("import", corpus, "--results", results, "--workers", "1", "--json")
    assert told.code == 12
    done = told.json
    assert (done["recordings"], done["enrolled"], done["rejected"], done["speakers"]) == (5, 4, 1, 2)
    assert sum(done["codes"].values()) == 1
    with results.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    assert [line["status"] for line in lines].count("enrolled") == 4
    assert {line["code"] for line in lines if line["status"] == "rejected"} == set(done["codes"])
    again = run("import", corpus, "--workers", "1")
    assert again.code == 12
    assert "skipped" in again.out and next(iter(done["codes"])) in again.out
    assert "DUPLICATE_RECORDING" not in again.out, "what was skipped is not counted as rejected too"
    kept = list((tmp_path / "home" / "imports").iterdir())
    assert len(kept) == 1 and str(kept[0]) in again.out.replace("\n", "")
    assert [one["id"] for one in run("speakers", "list", "--tag", "london", "--json").json["speakers"]] == [
        "ada"
    ]


def test_a_loose_recording_is_named(run: Run, ada: list[Path], tmp_path: Path) -> None:
    (tmp_path / "voices" / "ada").mkdir(parents=True)
    for name in ("ada/1.opus", "2.opus"):
        (tmp_path / "voices" / name).write_bytes(ada[0].read_bytes())
    (tmp_path / "voices" / "README.md").write_text("About the voices.")
    told = run("import", tmp_path / "voices", "--workers", "1", "--json")
    assert told.code == 0
    assert (told.json["enrolled"], told.json["loose"]) == (1, 1)
    assert "1 file beside the speakers' folders, such as 2.opus: nobody's, so left out." in " ".join(
        told.err.split()
    )


def test_imports_at_once_have_a_results_file_each(tmp_path: Path) -> None:
    assert len({_results_file(tmp_path, Path("corpus.tsv")) for _ in range(5)}) == 5


def test_results_never_replace_the_manifest(run: Run, corpus: Path, tmp_path: Path, tiny_model: Path) -> None:
    before = corpus.read_bytes()
    other = tmp_path / "other.tsv"
    other.symlink_to(corpus)
    for results in (corpus, other):
        told = run("import", corpus, "--results", results, "--json")
        assert told.code == 2
        assert told.json["error"]["code"] == "INVALID_REQUEST"
        assert "would replace the manifest" in told.json["error"]["message"]
    with (
        Vault.open(Settings(home=tmp_path / "home", model=str(tiny_model))) as vault,
        pytest.raises(RequestError, match="would replace the manifest"),
    ):
        vault.enroll_many(corpus, results=corpus)
    assert corpus.read_bytes() == before


def test_import_refuses_what_is_no_manifest(run: Run, tmp_path: Path) -> None:
    told = run("import", tmp_path / "nothing.tsv", "--json")
    assert told.code == 2
    assert told.json["error"]["code"] == "INVALID_MANIFEST"


def test_the_bundled_manifest_reads(run: Run) -> None:
    told = run("import", MANIFEST, "--collection", "nowhere", "--json")
    assert told.code == 4
    assert told.json["error"]["code"] == "COLLECTION_NOT_FOUND"
    assert "collections create" in told.json["error"]["hint"]
