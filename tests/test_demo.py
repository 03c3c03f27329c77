"""The bundled voices, and the demo as a newcomer runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from voicevault.audio import SpeechDetector, decode
from voicevault.demo import tour
from voicevault.demo.make_voices import ENROLLED_SENTENCES, SENTENCES, VOICES
from voicevault.encoder import default_model_dir
from voicevault.manifest import read_corpus


def test_the_voices_are_those_of_the_script() -> None:
    assert len(VOICES) == 15
    assert {folder.name for folder in tour.VOICES.iterdir()} == {voice.speaker for voice in VOICES}
    provenance = (tour.FOLDER / "PROVENANCE.md").read_text(encoding="utf-8")
    for voice in VOICES:
        sentences = SENTENCES[voice.language]
        assert len(set(sentences)) == 6
        assert {file.name for file in (tour.VOICES / voice.speaker).iterdir()} == {
            f"{n}.opus" for n in range(1, 7)
        }
        assert (
            f"| {voice.speaker}{'' if voice.enrolled else ' (unknown)'} | {voice.program} | {voice.voice} |"
            in provenance
        )
    assert sum(file.stat().st_size for file in tour.VOICES.rglob("*.opus")) < 3_000_000


def test_the_manifest_enrolls_four_sentences_of_twelve() -> None:
    rows = read_corpus(tour.MANIFEST)
    expected = [
        (voice.speaker, tour.recording(voice.speaker, n))
        for voice in VOICES
        if voice.enrolled
        for n in ENROLLED_SENTENCES
    ]
    assert [(row.speaker, row.path) for row in rows] == expected
    assert len(expected) == 48
    held_out = {tour.IDENTIFIED_SENTENCE, tour.VERIFIED_SENTENCE}
    assert not held_out & set(ENROLLED_SENTENCES)
    assert tour.unknown_voices() == sorted(voice.speaker for voice in VOICES if not voice.enrolled)


def test_every_recording_holds_three_seconds_of_speech() -> None:
    detector = SpeechDetector()
    for file in sorted(tour.VOICES.rglob("*.opus")):
        waveform = decode(file)
        assert (waveform.format.split("/")[0], waveform.source_channels) == ("OGG", 1), file
        assert sum(one.seconds for one in detector.segments(waveform.samples)) >= 3.0, file


# --- the tour ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "home"


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number


def environment(home: Path, model: Path, port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOICEVAULT_")}
    return kept | {
        "VOICEVAULT_HOME": str(home),
        "VOICEVAULT_MODEL": str(model),
        "VOICEVAULT_PORT": str(port),
        # The user's own database: the demo must leave it alone.
        "VOICEVAULT_DATABASE_URL": f"sqlite:///{home / 'own.db'}",
    }


def demo(home: Path, model: Path, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voicevault", "demo", *arguments],
        env=environment(home, model, port),
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def untrained(home: Path, tiny_model: Path, port: int) -> subprocess.CompletedProcess[str]:
    """The demo with a model that was never trained, as JSON."""
    return demo(home, tiny_model, port, "--json")


def test_wrong_answers_are_shown_and_fail_the_demo(
    untrained: subprocess.CompletedProcess[str], home: Path
) -> None:
    told = json.loads(untrained.stdout)
    assert "Traceback" not in untrained.stderr
    assert told["enrolled"]["enrolled"] == 48 and told["enrolled"]["rejected"] == 0
    asked = told["identifications"]
    assert [one["voice"] for one in asked] == tour.enrolled_voices() + tour.unknown_voices()
    for one in asked:
        expected = one["voice"] if one["voice"] in tour.enrolled_voices() else None
        assert one["right"] == (one["answer"]["speaker_id"] == expected)
        assert one["answer"]["gallery"] == 12
    for one in told["verifications"]:
        assert one["right"] == (one["answer"]["accepted"] == (one["voice"] == one["asked"]))
    right = all(one["right"] for one in (*asked, *told["verifications"]))
    assert not right, "an untrained model should not get everything right"
    assert (told["right"], untrained.returncode) == (right, 13)
    assert (
        f"WRONG: {sum(not one['right'] for one in (*asked, *told['verifications']))} of 17"
        in untrained.stderr
    )
    assert (home / "demo" / "voicevault.db").is_file()
    assert not (home / "own.db").exists() and not (home / "voicevault.db").exists()


def test_voices_that_cannot_be_enrolled_are_wrong_answers(
    tmp_path: Path, tiny_model: Path, port: int
) -> None:
    told = demo(tmp_path, tiny_model, port, "--min-enroll-speech", "100")
    assert told.returncode == 13, told.stderr
    assert "WRONG: 48 recordings were rejected" in told.stdout
    assert "WRONG: 14 of 17 answers, and 48 recordings were rejected." in told.stdout
    claims = told.stdout.split("5. Verify")[1]
    assert len(re.findall("not enrolled.*WRONG", claims)) == 2
    assert "Traceback" not in told.stderr


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Path:
    """The model that the demo is made for; the untrained one, which is at times wrong, where that has no policy yet."""
    default = default_model_dir()
    return default if (default / "policy.json").is_file() else tiny_model


@pytest.fixture(scope="module")
def told(
    untrained: subprocess.CompletedProcess[str], home: Path, model: Path, port: int
) -> subprocess.CompletedProcess[str]:
    """The demo as people see it, a second time in the same folder."""
    return demo(home, model, port)


def test_the_demo_is_right_and_readable(told: subprocess.CompletedProcess[str], model: Path) -> None:
    assert "Traceback" not in told.stderr
    for part in (
        "1. Enroll",
        "2. Serve",
        "3. Identify",
        "4. Strangers",
        "5. Verify",
        "48 recordings of 12 speakers",
    ):
        assert part in told.stdout
    for voice in (*tour.enrolled_voices(), *tour.unknown_voices()):
        assert voice in told.stdout
    if model == default_model_dir():
        assert "All 17 answers are right." in told.stdout
        assert "WRONG" not in told.stdout
        assert told.returncode == 0
    else:
        assert told.returncode == 13
    # Paths may be longer than a line; tables and sentences may not.
    tables = told.stdout.split("\nThe demo's data")[0]
    assert [line for line in tables.splitlines() if len(line) > 80] == []


@pytest.fixture(scope="module")
def commands(told: subprocess.CompletedProcess[str]) -> list[str]:
    """The commands that the demo suggests, as the shell reads them."""
    text = told.stdout.split("Ask it again:")[1].replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith("  ")]


def test_the_suggested_commands_work(commands: list[str], home: Path, model: Path, port: int) -> None:
    ask, serve, identify, verify = commands[:4]
    assert identify.startswith("curl ") and verify.startswith("curl ")
    settings = environment(home, model, port)
    asked = subprocess.run(["/bin/sh", "-c", ask], env=settings, capture_output=True, text=True)
    assert asked.returncode in (0, 11), asked.stderr
    assert "12 speakers" in asked.stdout or "score" in asked.stdout
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; the suggested curl commands were not tried")
    with serving(serve, settings):
        for command in (identify, verify):
            done = subprocess.run(
                ["/bin/sh", "-c", command], env=settings, capture_output=True, text=True, check=True
            )
            assert json.loads(done.stdout)["collection"] == "default", done.stdout


class serving:
    """The suggested server, while the block runs."""

    def __init__(self, command: str, settings: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            env=settings,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> None:
        assert self._process.stdout is not None
        assert "listens on" in self._process.stdout.readline()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)


def test_a_server_that_cannot_start_says_why(tmp_path: Path, tiny_model: Path) -> None:
    from voicevault.errors import VoicevaultError
    from voicevault.settings import Settings

    settings = tour.demo_settings(Settings(home=tmp_path, model=str(tiny_model)))
    settings.home.mkdir(parents=True)
    broken = settings.changed(database_url=f"sqlite:///{tmp_path}")  # a folder
    with pytest.raises(VoicevaultError, match="DATABASE_UNAVAILABLE"), tour.server(broken):
        pass
