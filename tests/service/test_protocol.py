"""Heads and trailers that do not end."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import httpx
import pytest

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
