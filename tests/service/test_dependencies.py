"""Options and ids as they are sent: nothing is overlooked, nothing is taken for something else."""

from __future__ import annotations

import httpx
import pytest

from service.conftest import is_problem, problem

SPEAKERS = "/v1/collections/default/speakers"


@pytest.mark.parametrize(
    ("path", "option", "known"),
    [
        ("/v1/collections/default/verify?speaker=ada&treshold=0.9", "treshold", "threshold"),
        ("/v1/collections/default/identify?top=3", "top", "k"),
        ("/v1/collections/default/speakers/ada/enrollments?duplicate=skip", "duplicate", "duplicates"),
        ("/v1/embeddings?model=x", "model", "channel"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(
    client: httpx.Client, recording: bytes, path: str, option: str, known: str
) -> None:
    answer = client.post(path, content=recording)
    assert is_problem(answer, 400, "INVALID_REQUEST") == {"option": option}
    assert known in answer.json()["detail"], "it says which there are"
    assert client.get("/healthz?probe=1").status_code == 200, "probes may add what they like"


def test_so_it_is_where_there_are_none(client: httpx.Client) -> None:
    is_problem(client.delete(f"{SPEAKERS}/nobody?force=true"), 400, "INVALID_REQUEST")
    is_problem(client.get("/v1/collections?limit=1"), 400, "INVALID_REQUEST")
    is_problem(client.post("/v1/collections?name=x", json={"name": "x"}), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("twice", ["threshold=0.9&threshold=-1", "speaker=eve", "fmr=0.1&fmr=0.1"])
def test_an_option_given_twice_is_refused(client: httpx.Client, recording: bytes, twice: str) -> None:
    answer = client.post(f"/v1/collections/default/verify?speaker=ada&{twice}", content=recording)
    assert is_problem(answer, 400, "INVALID_REQUEST") == {"option": twice.partition("=")[0]}


def test_tags_are_given_several_times_but_not_any_number(client: httpx.Client) -> None:
    assert client.get(f"{SPEAKERS}?tags=a&tags=b").status_code == 200
    many = "&".join(f"tags=t{n}" for n in range(2000))
    is_problem(client.get(f"{SPEAKERS}?{many}"), 400, "INVALID_REQUEST")
    is_problem(client.post(SPEAKERS, json={"tags": [f"t{n}" for n in range(2000)]}), 400, "INVALID_REQUEST")


def test_ids_that_are_no_text_are_not_all_one(
    client: httpx.Client, collection: str, recording: bytes
) -> None:
    for id in ("%ff", "caf%E9", "%C3", "%ED%A0%80", "%F4%90%80%80"):
        answer = client.post(f"{collection}/speakers/{id}/enrollments", content=recording)
        assert is_problem(answer, 400, "INVALID_REQUEST")["problems"][0]["where"] == "path.speaker"
        is_problem(client.get(f"{collection}/speakers?after={id}"), 400, "INVALID_REQUEST")
        is_problem(client.get(f"/v1/collections/{id}"), 400, "INVALID_REQUEST")
    assert client.get(f"{collection}/speakers").json()["speakers"] == []


@pytest.mark.parametrize("character", ["\x00", "\n", "\x1b", "\x7f", "\x85", "\x9b"])
def test_control_characters_are_in_no_id(client: httpx.Client, character: str) -> None:
    id = f"a{character}b"
    is_problem(client.post(SPEAKERS, json={"id": id}), 400, "INVALID_REQUEST")
    sent = "".join(f"%{byte:02X}" for byte in id.encode())
    assert "control character" in problem(client.get(f"{SPEAKERS}/{sent}"))["detail"]


@pytest.mark.parametrize("blank", ["%20", "%20%20%20", "%E3%80%80"])
def test_a_blank_id_is_refused_before_the_recording_is_looked_at(
    client: httpx.Client, collection: str, blank: str
) -> None:
    for path, where in (
        (f"{collection}/speakers/{blank}/enrollments", "path.speaker"),
        (f"{collection}/verify?speaker={blank}", "query.speaker"),
        (f"{collection}/identify?tags={blank}", "query.tags.0"),
        (f"{collection}/speakers/ada/enrollments?source_name={blank}", "query.source_name"),
    ):
        refused = client.post(path, content=b"no sound")
        assert is_problem(refused, 400, "INVALID_REQUEST")["problems"][0]["where"] == where
