"""Collections over HTTP."""

from __future__ import annotations

import httpx

from service.conftest import is_problem


def test_a_collection_is_made_shown_listed_and_deleted(client: httpx.Client) -> None:
    made = client.post("/v1/collections", json={"name": "Büro 7/2"})
    assert made.status_code == 201
    path = made.headers["location"]
    assert path == "/v1/collections/B%C3%BCro%207%2F2"
    model = client.get("/v1/models").json()["models"][0]
    shown = client.get(path).json()
    assert shown == made.json()
    assert (shown["name"], shown["speakers"], shown["generation"]) == ("Büro 7/2", 0, 0)
    assert (shown["model_id"], shown["dim"]) == (model["model_id"], model["dim"])
    names = [one["name"] for one in client.get("/v1/collections").json()["collections"]]
    assert {"default", "Büro 7/2"} <= set(names)
    assert client.delete(path).status_code == 204
    assert is_problem(client.get(path), 404, "COLLECTION_NOT_FOUND") == {"collection": "Büro 7/2"}
    is_problem(client.delete(path), 404, "COLLECTION_NOT_FOUND")


def test_a_name_that_is_taken_or_unusable_is_refused(client: httpx.Client, collection: str) -> None:
    name = collection.rsplit("/", 1)[1]
    assert is_problem(client.post("/v1/collections", json={"name": name}), 409, "COLLECTION_EXISTS") == {
        "collection": name
    }
    for body in (
        {},
        {"name": ""},
        {"name": "x" * 256},
        {"name": 7},
        {"name": "x", "modell": "y"},
        {"name": "a\nb"},
    ):
        is_problem(client.post("/v1/collections", json=body), 400, "INVALID_REQUEST")
    is_problem(
        client.post("/v1/collections", content=b"{", headers={"Content-Type": "application/json"}),
        400,
        "INVALID_REQUEST",
    )
    is_problem(client.get("/v1/collections/a%00b"), 400, "INVALID_REQUEST")


def test_deleting_takes_the_speakers_along(client: httpx.Client, collection: str) -> None:
    assert client.post(f"{collection}/speakers", json={"id": "ada"}).status_code == 201
    assert client.get(collection).json()["speakers"] == 1
    assert client.delete(collection).status_code == 204
    assert client.post("/v1/collections", json={"name": collection.rsplit("/", 1)[1]}).status_code == 201
    is_problem(client.get(f"{collection}/speakers/ada"), 404, "SPEAKER_NOT_FOUND")
