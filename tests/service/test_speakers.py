"""Speakers over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from service.conftest import is_problem


def test_a_speaker_is_made_shown_changed_and_forgotten(client: httpx.Client, collection: str) -> None:
    body = {"id": "ada", "name": "Ada", "attributes": {"team": {"no": 1}}, "tags": ["x", "a"]}
    made = client.post(f"{collection}/speakers", json=body)
    assert made.status_code == 201
    path = made.headers["location"]
    assert path == f"{collection}/speakers/ada"
    assert {k: made.json()[k] for k in body} == {**body, "tags": ["a", "x"]}
    assert made.json()["enrollments"] == 0
    assert client.get(path).json() == made.json()
    changed = client.patch(path, json={"name": None, "tags": ["b"]}).json()
    assert (changed["name"], changed["tags"], changed["attributes"]) == (None, ["b"], {"team": {"no": 1}})
    assert client.patch(path, json={}).json()["tags"] == ["b"]
    assert client.delete(path).status_code == 204
    for gone in (client.get(path), client.delete(path), client.patch(path, json={"name": "x"})):
        assert is_problem(gone, 404, "SPEAKER_NOT_FOUND") == {"speaker": "ada"}


def test_an_id_is_made_where_none_is_given(client: httpx.Client, collection: str) -> None:
    ids = {client.post(f"{collection}/speakers", json={}).json()["id"] for _ in range(2)}
    assert len(ids) == 2
    assert {one["id"] for one in client.get(f"{collection}/speakers").json()["speakers"]} == ids


@pytest.mark.parametrize("id", ["a/b", "a%2Fb", "../x", "ü 7?#&", "enrollments", "x" * 255])
def test_any_id_has_a_path(client: httpx.Client, collection: str, id: str) -> None:
    path = client.post(f"{collection}/speakers", json={"id": id}).headers["location"]
    assert client.get(path).json()["id"] == id
    assert client.get(f"{path}/enrollments").json() == {"enrollments": []}
    assert client.delete(path).status_code == 204


def test_pages_follow_each_other(client: httpx.Client, collection: str) -> None:
    for n in range(7):
        tags = ["all", "odd" if n % 2 else "even"]
        assert client.post(f"{collection}/speakers", json={"id": f"s{n}", "tags": tags}).status_code == 201

    def walk(**query: object) -> list[list[str]]:
        pages, after = [], None
        while True:
            asked = {**query, **({"after": after} if after else {})}
            page = client.get(f"{collection}/speakers", params=asked).json()  # type: ignore[arg-type]
            pages.append([one["id"] for one in page["speakers"]])
            after = page["next"]
            if after is None:
                return pages

    assert walk(limit=3) == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6"]]
    assert walk(limit=7) == [[f"s{n}" for n in range(7)]]
    assert walk(limit=2, tags=["odd", "all"]) == [["s1", "s3"], ["s5"]]
    assert walk(tags="neither") == [[]]
    for query in ({"limit": 0}, {"limit": 1001}, {"after": "\0"}, {"tags": ""}):
        is_problem(client.get(f"{collection}/speakers", params=query), 400, "INVALID_REQUEST")


def test_what_cannot_be_kept_is_refused(client: httpx.Client, collection: str) -> None:
    assert client.post(f"{collection}/speakers", json={"id": "ada"}).status_code == 201
    assert is_problem(client.post(f"{collection}/speakers", json={"id": "ada"}), 409, "SPEAKER_EXISTS") == {
        "speaker": "ada"
    }
    kind = {"Content-Type": "application/json"}
    for body in (
        '{"id": ""}',
        '{"id": "a\\u0000b"}',
        '{"id": "\\ud800"}',
        '{"attributes": {"a": NaN}}',
        '{"attributes": {"a": "\\ud800"}}',
        '{"attributes": [1]}',
        '{"tags": "x"}',
        '{"tags": [""]}',
        '{"nmae": "x"}',
        '{"attributes": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}",
        '{"attributes": {"a": ' + "[" * 32 + "]" * 32 + "}}",
        '{"attributes": {"a": 1' + "0" * 5000 + "}}",
        "[]",
        "",
    ):
        is_problem(client.post(f"{collection}/speakers", content=body, headers=kind), 400, "INVALID_REQUEST")
    is_problem(client.post("/v1/collections/none/speakers", json={}), 404, "COLLECTION_NOT_FOUND")
    is_problem(client.get("/v1/collections/none/speakers"), 404, "COLLECTION_NOT_FOUND")


def test_what_is_kept_can_be_shown(client: httpx.Client, collection: str) -> None:
    deep = '{"a": ' + "[" * 31 + "]" * 31 + ', "b": 1' + "0" * 4000 + ', "c": "\\u0000"}'
    for body in (f'{{"attributes": {deep}}}', '{"attributes": {"": [{}, null, 1e308, "\\ud83d\\ude00"]}}'):
        made = client.post(
            f"{collection}/speakers", content=body, headers={"Content-Type": "application/json"}
        )
        assert made.status_code == 201
        assert client.get(made.headers["location"]).json()["attributes"] == json.loads(body)["attributes"]
    assert len(client.get(f"{collection}/speakers").json()["speakers"]) == 2


def test_a_body_beyond_a_megabyte_is_not_read_on(client: httpx.Client, collection: str) -> None:
    big = b'{"name": "' + b"x" * 1_100_000 + b'"}'
    kind = {"Content-Type": "application/json"}
    is_problem(client.post(f"{collection}/speakers", content=big, headers=kind), 413, "REQUEST_TOO_LARGE")
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 16
            yield b" " * (1 << 16)

    is_problem(
        client.post(f"{collection}/speakers", content=endless(), headers=kind), 413, "REQUEST_TOO_LARGE"
    )
    assert sent < 1 << 28
