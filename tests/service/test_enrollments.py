"""Enrollments over HTTP."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from service.conftest import is_problem


def test_a_recording_is_enrolled_listed_and_forgotten(
    client: httpx.Client, collection: str, files: dict[str, Path]
) -> None:
    first, second, *_ = files.values()
    path = f"{collection}/speakers/ada/enrollments"
    raw = client.post(path, content=first.read_bytes(), params={"source_name": "one"})
    form = client.post(path, files={"file": (f"C:\\\\sounds\\{second.name}", second.read_bytes())})
    assert raw.status_code == form.status_code == 201
    assert (raw.json()["source_name"], form.json()["source_name"]) == ("one", second.name)
    assert raw.json()["source_sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()
    assert raw.json()["speaker_id"] == "ada"
    assert 2.0 <= raw.json()["quality"]["speech_seconds"] <= raw.json()["quality"]["seconds"]
    assert client.get(path).json()["enrollments"] == [raw.json(), form.json()]
    assert client.get(f"{collection}/speakers/ada").json()["enrollments"] == 2
    assert client.delete(raw.headers["location"]).status_code == 204
    assert client.get(path).json()["enrollments"] == [form.json()]
    assert is_problem(client.delete(raw.headers["location"]), 404, "ENROLLMENT_NOT_FOUND") == {
        "enrollment": raw.json()["id"]
    }


def test_the_name_of_a_file_is_no_reason_to_refuse_it(
    client: httpx.Client, collection: str, recording: bytes
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a\x7f\xc2\x85\xff.wav"\r\n\r\n'
    sent = client.post(
        f"{collection}/speakers/ada/enrollments",
        content=head + recording + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert (sent.status_code, sent.json().get("source_name")) == (201, "a??\N{REPLACEMENT CHARACTER}.wav")


@pytest.mark.parametrize(
    ("filename", "kept"), [("", None), (" ", None), ("C:\\\\a\\\\ ", None), ("n" * 4120, "n" * 4096)]
)
def test_nor_is_one_that_is_blank_or_too_long(
    client: httpx.Client, collection: str, recording: bytes, filename: str, kept: str | None
) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    sent = client.post(
        f"{collection}/speakers/ada/enrollments",
        content=head.encode() + recording + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert sent.status_code == 201, sent.text
    assert sent.json()["source_name"] == kept


def test_the_same_recording_twice(client: httpx.Client, collection: str, recording: bytes) -> None:
    path = f"{collection}/speakers/ada/enrollments"
    first = client.post(path, content=recording).json()
    assert is_problem(client.post(path, content=recording), 409, "DUPLICATE_RECORDING")["speaker"] == "ada"
    assert client.post(path, content=recording, params={"duplicates": "skip"}).json() == first
    replaced = client.post(path, content=recording, params={"duplicates": "replace"}).json()
    assert replaced["id"] != first["id"]
    assert client.get(path).json()["enrollments"] == [replaced]
    assert client.post(path, content=recording, params={"duplicates": "add"}).status_code == 201
    assert len(client.get(path).json()["enrollments"]) == 2
    is_problem(client.post(path, content=recording, params={"duplicates": "drop"}), 400, "INVALID_REQUEST")


def test_a_speaker_is_not_made_where_none_is_wanted(
    client: httpx.Client, collection: str, recording: bytes
) -> None:
    path = f"{collection}/speakers/ada/enrollments"
    refused = client.post(path, content=recording, params={"create": "false"})
    assert is_problem(refused, 404, "SPEAKER_NOT_FOUND") == {"speaker": "ada"}
    is_problem(client.get(path), 404, "SPEAKER_NOT_FOUND")
    is_problem(
        client.post("/v1/collections/none/speakers/ada/enrollments", content=recording),
        404,
        "COLLECTION_NOT_FOUND",
    )


def test_what_is_refused_leaves_no_speaker(client: httpx.Client, collection: str) -> None:
    is_problem(
        client.post(f"{collection}/speakers/ada/enrollments", content=b"no sound"), 415, "AUDIO_UNSUPPORTED"
    )
    is_problem(client.get(f"{collection}/speakers/ada"), 404, "SPEAKER_NOT_FOUND")
