"""Recordings on their way in: read within the limit, kept in memory, forms taken apart with care."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.conftest import Serve, is_problem
from voicevault.service import uploads

EMBED = "/v1/embeddings"
LIMIT = 400_000


@pytest.fixture(scope="module")
def limited(serve: Serve) -> Iterator[httpx.Client]:
    with serve(max_bytes=LIMIT, concurrency=1, queue=0) as client:
        yield client


def form(*parts: tuple[str, bytes], boundary: bytes = b"b0undary", end: bytes = b"--") -> bytes:
    """A form by hand: (headers, content) of each part."""
    body = b"".join(
        b"--" + boundary + b"\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts
    )
    return body + b"--" + boundary + end + b"\r\n"


def post_form(client: httpx.Client, body: bytes, boundary: str = "b0undary") -> httpx.Response:
    return client.post(
        EMBED, content=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("head", [b"", b'--b0undary\r\nContent-Disposition: form-data; name="file"\r\n\r\n'])
def test_an_upload_beyond_the_limit_is_stopped_while_it_is_read(
    limited: httpx.Client, announced: bool, head: bytes
) -> None:
    sent, gigabyte = 0, 1 << 30

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield head
        while sent < gigabyte:
            sent += 1 << 16
            yield bytes(1 << 16)

    headers = {"Content-Type": "multipart/form-data; boundary=b0undary"} if head else {}
    if announced:
        headers["Content-Length"] = str(gigabyte + len(head))
    answer = limited.post(EMBED, content=endless(), headers=headers)
    assert is_problem(answer, 413, "AUDIO_TOO_LARGE") == {"max_bytes": LIMIT}
    assert answer.headers["connection"] == "close"
    assert sent < gigabyte / 16, "the server went on reading"
    # The place of the refused upload is free again, though there is but one.
    is_problem(limited.post(EMBED, content=b"x"), 415, "AUDIO_UNSUPPORTED")


def test_the_limit_itself_is_allowed(limited: httpx.Client) -> None:
    is_problem(limited.post(EMBED, content=bytes(LIMIT)), 415, "AUDIO_UNSUPPORTED")
    is_problem(limited.post(EMBED, files={"file": bytes(LIMIT)}), 415, "AUDIO_UNSUPPORTED")
    is_problem(limited.post(EMBED, content=bytes(LIMIT + 1)), 413, "AUDIO_TOO_LARGE")
    is_problem(limited.post(EMBED, files={"file": bytes(LIMIT + 1)}), 413, "AUDIO_TOO_LARGE")


def test_an_announced_length_is_refused_before_a_byte_is_sent(limited: httpx.Client) -> None:
    where = urlsplit(str(limited.base_url))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(
            f"POST {EMBED} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_an_upload_that_stops_is_given_up(limited: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.2)
    where = urlsplit(str(limited.base_url))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(
            f"POST {EMBED} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc".encode()
        )
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"UPLOAD_TIMEOUT"' in answer
    is_problem(limited.post(EMBED, content=b"x"), 415, "AUDIO_UNSUPPORTED")


def test_an_upload_that_drips_is_given_up(limited: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.5)
    where = urlsplit(str(limited.base_url))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(
            f"POST {EMBED} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode()
        )
        connection.settimeout(0.05)
        answer = b""
        for _ in range(200):  # never silent for as long as a pause may last
            try:
                connection.sendall(b"x")
                answer += connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            break
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"UPLOAD_TIMEOUT"' in answer
    is_problem(limited.post(EMBED, content=b"x"), 415, "AUDIO_UNSUPPORTED")


def test_json_that_stops_is_given_up(limited: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.2)
    where = urlsplit(str(limited.base_url))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/collections HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
            b'Content-Type: application/json\r\n\r\n{"name": '
        )
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"UPLOAD_TIMEOUT"' in answer


def test_a_client_that_goes_away_leaves_its_place(limited: httpx.Client) -> None:
    where = urlsplit(str(limited.base_url))
    for _ in range(3):
        with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
            connection.sendall(
                f"POST {EMBED} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc".encode()
            )
    for _ in range(100):
        if limited.post(EMBED, content=b"x").status_code == 415:
            return
    pytest.fail("the places of the clients that went away were not given back")


FILE = 'Content-Disposition: form-data; name="file"; filename="x.wav"'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (form(), "no file"),
        (form(('Content-Disposition: form-data; name="threshold"', b"0.5"), (FILE, b"x")), "'threshold'"),
        (form((FILE, b"x"), (FILE, b"y")), "more than one"),
        (form(("Content-Type: audio/wav", b"x")), "''"),
        (form((FILE, b"x"), end=b""), "broken"),
        (form((FILE, b"x"))[:-20], "broken"),
        (form((FILE, b"x"), boundary=b"other"), "broken"),
        (b"no form at all", "broken"),
        (b"", "broken"),
    ],
)
def test_forms_that_are_none(limited: httpx.Client, body: bytes, told: str) -> None:
    answer = post_form(limited, body)
    is_problem(answer, 400, "INVALID_REQUEST")
    assert told in answer.json()["detail"]


def test_boundaries_that_are_none(limited: httpx.Client) -> None:
    for boundary in ("", "x" * 1000, '"'):
        is_problem(post_form(limited, b"x", boundary), 400, "INVALID_REQUEST")
    for kind in ("multipart/form-data", "multipart/form-data; boundary"):
        answer = limited.post(EMBED, content=b"x", headers={"Content-Type": kind})
        is_problem(answer, 400, "INVALID_REQUEST")


def test_the_content_decides_whatever_type_is_named(client: httpx.Client, recording: bytes) -> None:
    expected = client.post(EMBED, content=recording).json()["vector"]
    for kind in ("application/x-www-form-urlencoded", "audio/mpeg", "text/html", "nonsense"):
        answer = client.post(EMBED, content=recording, headers={"Content-Type": kind})
        assert answer.json()["vector"] == expected
    parts = [("Content-Disposition: form-data; name=file\r\nContent-Type: text/plain", recording)]
    assert post_form(client, form(*parts)).json()["vector"] == expected


def test_nothing_is_written_to_disk(
    client: httpx.Client, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an upload was spooled")

    for name in ("SpooledTemporaryFile", "NamedTemporaryFile", "TemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", refuse)
    before = set(Path(tempfile.gettempdir()).iterdir())
    padded = recording + bytes(3_000_000)  # beyond what Starlette keeps in memory
    assert client.post(EMBED, files={"file": padded}).status_code in (200, 422)
    assert client.post(EMBED, content=recording).status_code == 200
    assert not [
        p for p in set(Path(tempfile.gettempdir()).iterdir()) - before if "tmp" in p.name and p.is_file()
    ]
