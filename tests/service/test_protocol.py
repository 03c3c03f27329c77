"""Heads and trailers that do not end, or do not come."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from voicevault.service import protocol

START = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n"


def pour(client: httpx.Client, first: bytes, piece: bytes, most: int = 8 << 20) -> tuple[int, bytes]:
    """Sends `piece` again and again behind `first`; how many bytes went, and what came back until the end."""
    where = urlsplit(str(client.base_url))
    sent, answer = 0, b""
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(first)
        try:
            while sent < most:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
    return sent, answer


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (START + b"X: ", b"a" * 65536),
        (START, b"X: a\r\n" * 8192),
        (b"GET /" + b"a" * 1000, b"a" * 65536),
        (START + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ", b"a" * 65536),
        (START + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n1;", b"a" * 65536),
    ],
    ids=["header", "headers", "path", "trailer", "chunk extension"],
)
def test_what_does_not_end_is_cut_off(client: httpx.Client, first: bytes, piece: bytes) -> None:
    most = 32 << 20
    sent, answer = pour(client, first, piece, most)
    assert sent < most, "the server took it all"
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert client.get("/healthz").status_code == 200


def test_long_heads_and_pipelines_that_do_end_are_answered(client: httpx.Client, recording: bytes) -> None:
    long = client.get("/healthz", headers={"X": "a" * 60_000})
    assert long.status_code == 200
    request = START + b"Content-Length: %d\r\n\r\n" % len(recording) + recording
    last = (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 30_000 + b"\r\nConnection: close\r\n\r\n"
    )
    _, answer = pour(client, request * 3, last, len(last))
    assert answer.count(b"HTTP/1.1 200 ") == 4


def closed_while_dripping(
    client: httpx.Client, first: bytes, drop: bytes, most: int = 400
) -> tuple[bool, bytes]:
    """Sends `first` and then `drop` again and again; whether the server ends that, and what it answered until then."""
    where = urlsplit(str(client.base_url))
    answer = b""
    with socket.create_connection((where.hostname, where.port), timeout=0.05) as connection:
        connection.sendall(first)
        for _ in range(most):
            try:
                connection.sendall(drop)
                part = connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return True, answer
            if not part:
                return True, answer
            answer += part
    return False, answer


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "drop", "answers"),
    [
        (b"", b"", 0),
        (b"GET /healthz HTTP/1.1\r\n", b"", 0),
        (b"GET /healthz HTTP/1.1\r\nX: ", b"a", 0),
        (b"", b"\r\n", 0),
        (HEALTH, b"\r\n", 1),
        (HEALTH * 3 + START + b"X: ", b"a", 3),
    ],
    ids=["nothing", "a line", "a letter at a time", "empty lines", "empty lines later", "after others"],
)
def test_a_head_that_does_not_come_is_not_waited_for(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, first: bytes, drop: bytes, answers: int
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.0)
    closed, answer = closed_while_dripping(client, first, drop)
    assert closed, "the server goes on waiting"
    assert answer.count(b"HTTP/1.1 200 ") == answers


def test_a_body_may_take_longer_than_a_head(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    where = urlsplit(str(client.base_url))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(START + b"Content-Length: 20\r\n\r\n")
        for _ in range(20):
            time.sleep(0.1)
            connection.sendall(b"x")
        assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")
