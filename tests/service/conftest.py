"""A real server on loopback: uvicorn in a thread, on a port of its own, with the tiny model."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
import soundfile

from voicevault.service.server import Server, address, listen, make_server
from voicevault.settings import Settings
from voicevault.vault import Vault

Serve = Callable[..., AbstractContextManager[httpx.Client]]


@contextmanager
def running(vault: Vault, settings: Settings) -> Iterator[tuple[httpx.Client, Server]]:
    """A client of a server for this vault; leaving closes both."""
    with listen(settings) as listener:
        server = make_server(vault, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=address(listener), timeout=30) as client:
                wait_until(lambda: server.started)
                yield client, server
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server does not stop"


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def serve(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """(settings by name) -> context manager of a client; each server has a home of its own by default."""

    @contextmanager
    def start(**changes: Any) -> Iterator[httpx.Client]:
        given = {"home": tmp_path_factory.mktemp("home"), "model": str(tiny_model), "port": 0, "threads": 1}
        settings = Settings(**{**given, **changes})
        with running(Vault.open(settings), settings) as (client, _):
            yield client

    return start


@pytest.fixture(scope="session")
def client(serve: Serve) -> Iterator[httpx.Client]:
    """The server that most tests share."""
    with serve(concurrency=2) as client:
        yield client


@pytest.fixture
def collection(client: httpx.Client) -> str:
    """The path of an empty collection on it."""
    name = f"c-{uuid4().hex[:8]}"
    assert client.post("/v1/collections", json={"name": name}).status_code == 201
    return f"/v1/collections/{name}"


@pytest.fixture(scope="session")
def files(voices: dict[str, list[Path]]) -> dict[str, Path]:
    """One recording of six speakers, with speech enough to enroll."""
    return {
        speaker: max(found, key=lambda file: file.stat().st_size)
        for speaker, found in list(voices.items())[:6]
    }


@pytest.fixture(scope="session")
def recording(files: dict[str, Path]) -> bytes:
    """The first of them."""
    return next(iter(files.values())).read_bytes()


def wav(samples: np.ndarray[Any, Any], rate: int = 16_000, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem of a response, after its form was checked."""
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert set(found) == {"type", "title", "status", "detail", "code", "facts"}
    assert found["status"] == response.status_code >= 400
    assert found["type"] == f"urn:voicevault:{found['code']}"
    assert found["title"] and found["detail"]
    assert "Traceback" not in response.text and "/site-packages/" not in response.text
    return found


def is_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    found = problem(response)
    assert (found["status"], found["code"]) == (status, code), found
    facts: dict[str, Any] = found["facts"]
    return facts
