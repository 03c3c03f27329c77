"""Whole processes: one that starts and stops, and two on one PostgreSQL."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.conftest import is_problem, wait_until
from voicevault.errors import SettingsError
from voicevault.service.server import listen, serve
from voicevault.settings import Settings

COMMAND = (
    "from voicevault.service.server import serve; from voicevault.settings import Settings; serve(Settings())"
)
DEFAULT = "/v1/collections/default"


def start(**settings: object) -> subprocess.Popen[str]:
    given = {f"VOICEVAULT_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        env={**os.environ, "VOICEVAULT_PORT": "0", "VOICEVAULT_THREADS": "1", **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def connected(process: subprocess.Popen[str]) -> Iterator[httpx.Client]:
    """A client of a server process, once it is ready; leaving ends the process."""
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("voicevault listens on http://127.0.0.1:"), line + process.stderr.read()
        with httpx.Client(base_url=line.split()[-1], timeout=60) as client:
            wait_until(lambda: client.get("/readyz").status_code == 200, 60)
            yield client
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_a_server_ends_when_it_is_told_to(tiny_model: Path, tmp_path: Path, recording: bytes) -> None:
    homes = {how: tmp_path / how.name for how in (signal.SIGTERM, signal.SIGINT)}
    processes = {how: start(home=home, model=tiny_model) for how, home in homes.items()}
    for how, process in processes.items():
        with connected(process) as client:
            enrolled = client.post(f"{DEFAULT}/speakers/ada/enrollments", content=recording)
            assert enrolled.status_code == 201
            assert client.post(f"{DEFAULT}/identify", content=recording).json()["speaker_id"] == "ada"
            process.send_signal(how)
            assert process.wait(30) == 0
            assert process.stdout is not None and process.stdout.read() == "", "one line is all it says"
            assert process.stderr is not None and process.stderr.read() == ""
        assert list((homes[how] / "index").rglob("*.*")), "the vault was not closed: the index is not saved"


def test_two_servers_on_one_database_agree_at_once(
    new_postgres_database: Callable[[], str], tiny_model: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    url = new_postgres_database()
    processes = [
        start(home=tmp_path / name, model=tiny_model, database_url=url, lock_timeout=30)
        for name in ("a", "b")
    ]
    with connected(processes[0]) as one, connected(processes[1]) as other:
        sides = [(one, other), (other, one)]
        for number, (speaker, file) in enumerate(list(files.items())[:4]):
            first, second = sides[number % 2]
            sound = file.read_bytes()
            path = f"{DEFAULT}/speakers/{speaker}"
            claim = {"speaker": speaker}
            assert first.post(f"{path}/enrollments", content=sound).status_code == 201
            for server in (second, first):
                assert server.post(f"{DEFAULT}/identify", content=sound).json()["speaker_id"] == speaker
            assert second.post(f"{DEFAULT}/verify", content=sound, params=claim).json()["accepted"]
            assert second.delete(path).status_code == 204
            for server in (first, second):
                answer = server.post(f"{DEFAULT}/identify", content=sound, params={"k": 100}).json()
                assert answer["candidates"] == [] and answer["gallery"] == 0
            refused = first.post(f"{DEFAULT}/verify", content=sound, params=claim)
            is_problem(refused, 404, "SPEAKER_NOT_FOUND")
        # A collection that is deleted on one side and made anew there is a new one on the other.
        sound = next(iter(files.values())).read_bytes()
        assert one.post(f"{DEFAULT}/speakers/ada/enrollments", content=sound).status_code == 201
        assert other.post(f"{DEFAULT}/identify", content=sound).json()["gallery"] == 1
        assert one.delete(DEFAULT).status_code == 204
        is_problem(other.post(f"{DEFAULT}/identify", content=sound), 404, "COLLECTION_NOT_FOUND")
        assert one.post("/v1/collections", json={"name": "default"}).status_code == 201
        assert other.post(f"{DEFAULT}/identify", content=sound).json()["gallery"] == 0


def test_an_address_that_is_taken_is_named(tiny_model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}.*VOICEVAULT_PORT"):
            serve(Settings(home=tmp_path, model=str(tiny_model), port=port))
    assert not list(tmp_path.iterdir()), "nothing was opened"
    with pytest.raises(SettingsError, match=r"no-such-host\.invalid"):
        listen(Settings(host="no-such-host.invalid", port=0))
    for wrong in ("a..b", "x" * 64):
        with pytest.raises(SettingsError, match=f"Cannot listen on {wrong} port 0.*VOICEVAULT_HOST"):
            listen(Settings(host=wrong, port=0))
