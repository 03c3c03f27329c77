"""What only a process of its own shows: pipes, signals, the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tiny_model: Path, tmp_path: Path) -> Start:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VOICEVAULT_")} | {
        "VOICEVAULT_HOME": str(tmp_path / "home"),
        "VOICEVAULT_MODEL": str(tiny_model),
    }

    def call(
        *arguments: object, stdin: int = subprocess.DEVNULL, redirect: str = "", **more: str
    ) -> subprocess.Popen[bytes]:
        """`redirect`: redirections, as a shell has them."""
        command = [sys.executable, "-m", "voicevault", *map(str, arguments)]
        return subprocess.Popen(
            ["sh", "-c", f'exec "$@" {redirect}', "sh", *command] if redirect else command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | more,
        )

    return call


def test_a_recording_through_a_pipe_and_errors_as_json(start: Start, ada: list[Path]) -> None:
    process = start("enroll", "ada", "-", "--json", stdin=subprocess.PIPE)
    out, err = process.communicate(ada[0].read_bytes())
    assert process.returncode == 0, err
    assert json.loads(out)["speaker_id"] == "ada"
    process = start("verify", "--json")
    out, err = process.communicate()
    assert process.returncode == 2
    assert json.loads(out)["error"]["code"] == "INVALID_REQUEST" and err == b""
    process = start("verfy")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert b"verify" in err and b"Traceback" not in err


def test_a_reader_that_has_seen_enough(start: Start) -> None:
    process = start("settings")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert err == b""


@pytest.mark.parametrize(
    ("arguments", "redirect", "code"),
    [
        (("identify", "-"), "<&-", 3),
        (("settings",), ">&-", 0),
        (("settings", "--json"), ">&-", 0),
        (("identify", "nothing.wav"), "2>&-", 3),
        (("identify", "nothing.wav"), "<&- >&- 2>&-", 3),
    ],
)
def test_streams_that_are_closed(start: Start, arguments: tuple[str, ...], redirect: str, code: int) -> None:
    process = start(*arguments, redirect=redirect)
    _, err = process.communicate()
    assert process.returncode == code, err
    assert b"Traceback" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [("settings",), ("settings", "--json")])
def test_what_nobody_foresaw_is_a_message_and_a_file(
    start: Start, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    process = start(*arguments, redirect=">/dev/full", TMPDIR=str(tmp_path))
    _, err = process.communicate()
    assert process.returncode == 1
    (file,) = tmp_path.glob("voicevault-*.txt")
    assert b"Traceback" not in err and b"[INTERNAL]" in err and str(file).encode() in err
    assert "Traceback" in file.read_text() and file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict", "utf-8:surrogateescape"])
def test_any_name_in_any_locale(start: Start, encoding: str) -> None:
    name = os.fsdecode("caf\u00e9 \u4f60\u597d \U0001f600 ".encode() + b"\xff.wav")
    process = start("identify", name, "--json", PYTHONIOENCODING=encoding)
    out, err = process.communicate()
    assert process.returncode == 3, err
    out.decode(encoding.partition(":")[0])
    assert json.loads(out)["file"] == name
    process = start("identify", name, PYTHONIOENCODING=encoding)
    _, err = process.communicate()
    assert process.returncode == 3
    assert b"Traceback" not in err and b"AUDIO_NOT_FOUND" in err


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_is_quiet(start: Start, tmp_path: Path, ada: list[Path]) -> None:
    manifest = tmp_path / "many.tsv"
    lines = [f"{file}\tspeaker{n}" for n in range(400) for file in ada]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    results = tmp_path / "results.tsv"
    process = start(
        "import", manifest, "--results", results, "--duplicates", "add", "--workers", "1", "--batch", "1"
    )
    assert process.stderr is not None and process.stdout is not None
    while process.poll() is None and not (results.exists() and results.read_text().count("\n") > 2):
        pass_time(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b"" and b"Traceback" not in err


def test_serve_says_where_and_answers(start: Start, ada: list[Path]) -> None:
    process = start("serve", "--port", "0", "--json")
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            sent = client.post(
                "/v1/collections/default/speakers/ada/enrollments", content=ada[0].read_bytes()
            )
            if sent.status_code == 404:
                client.post("/v1/collections/default/speakers", json={"id": "ada"}).raise_for_status()
                sent = client.post(
                    "/v1/collections/default/speakers/ada/enrollments", content=ada[0].read_bytes()
                )
            sent.raise_for_status()
            answer = client.post("/v1/collections/default/identify", content=ada[0].read_bytes()).json()
            assert answer["speaker_id"] == "ada"
        # What one process enrolled the other knows.
        other = start("identify", ada[0], "--json")
        out, err = other.communicate()
        assert json.loads(out)["speaker_id"] == "ada", err
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == b""


def pass_time(seconds: float) -> None:
    import time

    time.sleep(seconds)
