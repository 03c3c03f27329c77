"""Bounded work: so many at a time, so many behind them, the next is told to come again; the event loop stays free."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile

from service.conftest import Serve, is_problem, running, wait_until, wav
from voicevault.service import uploads
from voicevault.settings import Settings
from voicevault.vault import Vault

EMBED = "/v1/embeddings"


def taken(client: httpx.Client, name: str = "places_taken") -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"voicevault_inference_{name} ")).split()[1])


def test_the_one_too_many_is_told_to_come_again(serve: Serve, recording: bytes) -> None:
    import socket

    with serve(concurrency=1, queue=1) as client, ExitStack() as stack:
        where = urlsplit(str(client.base_url))
        assert taken(client, "places") == 2
        head = (
            f"POST {EMBED} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(recording)}\r\n\r\n".encode()
        )
        slow = [
            stack.enter_context(socket.create_connection((where.hostname, where.port), timeout=30))
            for _ in range(2)
        ]
        for connection in slow:
            connection.sendall(head + recording[:1000])
        wait_until(lambda: taken(client) == 2)
        for path in (
            EMBED,
            "/v1/collections/default/identify",
            "/v1/collections/default/speakers/a/enrollments",
        ):
            answer = client.post(path, content=recording)
            assert is_problem(answer, 429, "OVERLOADED") == {"places": 2}
            assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/v1/collections").status_code == 200, "what needs no inference goes on"
        for connection in slow:
            connection.sendall(recording[1000:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert client.post(EMBED, content=recording).status_code == 200
        assert taken(client) == 0


def test_uploads_do_not_fill_the_memory(serve: Serve) -> None:
    import socket

    size = 100_000
    room = 4 * (size + uploads.OVERHEAD) // size
    with serve(max_bytes=size, concurrency=1, queue=20) as client, ExitStack() as stack:
        where = urlsplit(str(client.base_url))
        head = f"POST {EMBED} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
        slow = [
            stack.enter_context(socket.create_connection((where.hostname, where.port), timeout=30))
            for _ in range(room)
        ]
        for connection in slow:
            connection.sendall(head + bytes(size - 1))
        wait_until(lambda: taken(client, "held_bytes") == room * (size - 1))
        answer = client.post(EMBED, content=bytes(size))
        assert is_problem(answer, 429, "OVERLOADED")["held"] >= room * (size - 1)
        assert int(answer.headers["retry-after"]) >= 1
        assert taken(client, "held_bytes") == room * (size - 1), "what was refused is let go of"
        slow.pop().close()
        wait_until(lambda: taken(client, "held_bytes") == (room - 1) * (size - 1))
        assert client.post(EMBED, content=bytes(size)).status_code == 415, "there is room again"
        for connection in slow:
            connection.sendall(bytes(1))
            assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")
        wait_until(lambda: taken(client, "held_bytes") == taken(client) == 0)


def test_a_burst_is_answered_or_refused_and_nothing_else(serve: Serve, recording: bytes) -> None:
    with serve(concurrency=1, queue=1) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post(EMBED, content=recording), range(16)))
        counts = Counter(answer.status_code for answer in answers)
        assert set(counts) <= {200, 429} and counts[200] >= 2, counts
        assert taken(client) == 0


def test_no_more_than_so_many_at_a_time_and_each_gets_its_own_answer(
    tiny_model: Path, tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, model=str(tiny_model), port=0, concurrency=2, threads=1)
    vault = Vault.open(settings)
    for speaker, file in files.items():
        vault.enroll(speaker, file)
    now, most, lock, identify = 0, 0, threading.Lock(), vault.identify

    def counted(*args: object, **options: object) -> object:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return identify(*args, **options)  # type: ignore[arg-type]
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(vault, "identify", counted)
    with running(vault, settings) as (client, _), ThreadPoolExecutor(8) as pool:

        def ask(speaker: str) -> tuple[str, str | None]:
            sent = client.post("/v1/collections/default/identify", content=files[speaker].read_bytes())
            return speaker, sent.json()["speaker_id"]

        assert all(asked == named for asked, named in pool.map(ask, list(files) * 3))
    assert most == 2


def test_the_event_loop_is_free_while_inference_runs(serve: Serve, recording: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(recording)
    samples, rate = soundfile.read(tmp_path / "x")
    long = wav(np.tile(samples, 15), rate)  # minutes of speech
    with serve(concurrency=1) as client, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(client.post, EMBED, content=long)
        wait_until(lambda: taken(client, "running") == 1)
        answered = 0
        while taken(client, "running") == 1:
            assert client.get("/healthz").status_code == 200
            answered += 1
        assert sent.result().status_code == 200
        assert answered >= 2
