"""Verification and identification over HTTP."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from service.conftest import is_problem, running, wait_until, wav
from voicevault.cli import render
from voicevault.gallery import Limits
from voicevault.settings import Settings
from voicevault.store import NewEnrollment
from voicevault.types import Embedding, Quality
from voicevault.vault import Vault


@pytest.fixture(scope="module")
def gallery(client: httpx.Client, files: dict[str, Path]) -> str:
    """The path of a collection with six speakers of one recording each."""
    path = "/v1/collections/gallery"
    assert client.post("/v1/collections", json={"name": "gallery"}).status_code == 201
    for number, (speaker, file) in enumerate(files.items()):
        body = {"id": speaker, "name": f"N{number}", "tags": ["odd" if number % 2 else "even"]}
        assert client.post(f"{path}/speakers", json=body).status_code == 201
        sent = client.post(f"{path}/speakers/{speaker}/enrollments", content=file.read_bytes())
        assert sent.status_code == 201
    return path


def test_the_speaker_is_named(client: httpx.Client, gallery: str, files: dict[str, Path]) -> None:
    for number, (speaker, file) in enumerate(files.items()):
        answer = client.post(f"{gallery}/identify", content=file.read_bytes(), params={"k": 3}).json()
        best, *others = answer["candidates"]
        assert (answer["speaker_id"], best["speaker_id"], best["name"]) == (speaker, speaker, f"N{number}")
        assert best["score"] == pytest.approx(1.0, abs=1e-5) and best["accepted"]
        assert [one["rank"] for one in answer["candidates"]] == [1, 2, 3]
        scores = [one["score"] for one in answer["candidates"]]
        assert scores == sorted(scores, reverse=True) and scores[1] < 0.9999
        assert all(one["accepted"] == (one["score"] >= answer["threshold"]["value"]) for one in others)
        assert answer["gallery"] == len(files)
        assert answer["threshold"]["wanted_fmr"] == pytest.approx(0.01 / len(files))
        assert answer["generation"] == client.get(gallery).json()["generation"]
        assert set(answer["timing"]) == {"decode", "speech", "embed", "search", "total"}


def test_raw_and_form_are_answered_alike(client: httpx.Client, gallery: str, recording: bytes) -> None:
    for path in (f"{gallery}/identify", f"{gallery}/verify", "/v1/embeddings"):
        query = {"speaker": client.get(f"{gallery}/speakers").json()["speakers"][0]["id"], "threshold": "0.5"}
        if path == "/v1/embeddings":
            query = {}
        if path.endswith("/identify"):
            del query["speaker"]
        raw = client.post(path, content=recording, params=query)
        typed = client.post(path, content=recording, params=query, headers={"Content-Type": "audio/flac"})
        form = client.post(path, files={"file": ("x.flac", recording)}, params=query)
        assert raw.status_code == typed.status_code == form.status_code == 200
        answers = [{**one.json(), "timing": None} for one in (raw, typed, form)]
        assert answers[0] == answers[1] == answers[2]


def test_nobody_is_an_answer(client: httpx.Client, collection: str, gallery: str, recording: bytes) -> None:
    answer = client.post(
        f"{gallery}/identify", content=recording, params={"threshold": 1.0, "tags": "odd"}
    ).json()
    assert answer["speaker_id"] is None and not answer["candidates"][0]["accepted"]
    assert answer["threshold"] == {
        "value": 1.0,
        "source": "given",
        "fmr": None,
        "wanted_fmr": None,
        "note": None,
    }


def test_an_empty_gallery_names_nobody(client: httpx.Client, collection: str, recording: bytes) -> None:
    answer = client.post(f"{collection}/identify", content=recording).json()
    assert (answer["speaker_id"], answer["candidates"], answer["gallery"]) == (None, [], 0)


def test_tags_filter_before_the_nearest_are_taken(
    client: httpx.Client, gallery: str, files: dict[str, Path], recording: bytes
) -> None:
    speakers = list(files)
    answer = client.post(f"{gallery}/identify", content=recording, params={"tags": "odd", "k": 1}).json()
    assert answer["gallery"] == len(speakers[1::2])
    assert answer["candidates"][0]["speaker_id"] in speakers[1::2]
    none = client.post(f"{gallery}/identify", content=recording, params={"tags": ["odd", "even"]}).json()
    assert (none["gallery"], none["candidates"]) == (0, [])


def test_a_claim_is_accepted_or_not(
    client: httpx.Client, gallery: str, files: dict[str, Path], recording: bytes
) -> None:
    own, other, *_ = files
    true = client.post(f"{gallery}/verify", content=recording, params={"speaker": own}).json()
    assert true["accepted"] and true["score"] == pytest.approx(1.0, abs=1e-5)
    assert true["threshold"]["source"] == "policy" and true["threshold"]["wanted_fmr"] == 0.01
    wrong = client.post(
        f"{gallery}/verify", content=recording, params={"speaker": other, "threshold": 0.9999}
    ).json()
    assert not wrong["accepted"] and wrong["score"] < 0.9999
    strict = client.post(f"{gallery}/verify", content=recording, params={"speaker": own, "fmr": 1e-6}).json()
    assert strict["threshold"]["source"] == "policy-limit" and strict["threshold"]["note"]


def test_one_channel_is_listened_to(client: httpx.Client, gallery: str, files: dict[str, Path]) -> None:
    own, other, *_ = files
    left, rate = soundfile.read(files[own])
    right, _ = soundfile.read(files[other])
    length = min(len(left), len(right))
    both = wav(np.stack([left[:length], right[:length]], axis=1), rate)
    for channel, speaker in ((0, own), (1, other)):
        answer = client.post(f"{gallery}/identify", content=both, params={"channel": channel}).json()
        assert answer["candidates"][0]["speaker_id"] == speaker
    is_problem(
        client.post(f"{gallery}/identify", content=both, params={"channel": 2}), 422, "AUDIO_OUT_OF_RANGE"
    )


def test_questions_that_cannot_be_answered(client: httpx.Client, collection: str, recording: bytes) -> None:
    assert client.post(f"{collection}/speakers", json={"id": "ada"}).is_success

    def verify(**query: object) -> httpx.Response:
        return client.post(f"{collection}/verify", content=recording, params=query)  # type: ignore[arg-type]

    is_problem(verify(speaker="ada"), 409, "NOT_ENROLLED")
    is_problem(verify(speaker="mary"), 404, "SPEAKER_NOT_FOUND")
    assert is_problem(verify(), 400, "INVALID_REQUEST")["problems"][0]["where"] == "query.speaker"
    for query in (
        {"threshold": 2},
        {"threshold": "nan"},
        {"fmr": 0},
        {"fmr": 1},
        {"fmr": "inf"},
        {"channel": -1},
    ):
        is_problem(verify(speaker="ada", **query), 400, "INVALID_REQUEST")
    is_problem(verify(speaker="ada", threshold=0.5, fmr=0.1), 400, "INVALID_REQUEST")
    identify = f"{collection}/identify"
    for query in ({"k": 0}, {"k": 1001}, {"k": "x"}, {"threshold": 0.5, "fmr": 0.1}):
        is_problem(client.post(identify, content=recording, params=query), 400, "INVALID_REQUEST")
    for path in ("verify?speaker=ada", "identify"):
        is_problem(
            client.post(f"/v1/collections/none/{path}", content=recording), 404, "COLLECTION_NOT_FOUND"
        )


def test_an_approximate_search_says_so_and_how_good_it_is(
    tiny_model: Path, tmp_path: Path, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "voicevault.bootstrap.Limits", partial(Limits, 1500, approximate_from=1500, approximate_cost=np.inf)
    )
    settings = Settings(
        home=tmp_path, model=str(tiny_model), port=0, threads=1, approximate_recall=0.8, min_probe_speech=0.1
    )
    vault = Vault.open(settings)
    voices = np.random.default_rng(1).normal(size=(2000, vault.dim)).astype(np.float32)
    voices /= np.linalg.norm(voices, axis=1, keepdims=True)
    quality = Quality(3.0, 2.5, -20.0, 0.0, None)
    shas = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(len(voices))]
    vault._store.add_enrollments(
        "default",
        [
            NewEnrollment(f"s{number}", Embedding(voice, vault.model_id, quality, sha, sha), tags=("all",))
            for number, (voice, sha) in enumerate(zip(voices, shas, strict=True))
        ],
    )
    with running(vault, settings) as (client, _):
        collection = "/v1/collections/default"
        assert client.get("/v1/collections").json()["collections"][0]["approximate"] is None
        client.post(f"{collection}/identify", content=recording)  # opens the index
        wait_until(lambda: client.get(collection).json()["approximate"] is not None)
        stated = client.get(collection).json()["approximate"]
        assert 0.8 <= stated["recall_at_1"] <= 1 and 0 < stated["recall_at_10"] <= 1
        assert 1 <= stated["nprobe"] <= stated["nlist"]
        answer = client.post(f"{collection}/identify", content=recording)
        assert answer.json()["approximate"] == stated
        only = client.post(f"{collection}/identify", content=recording, params={"tags": "all"}).json()
        assert only["approximate"] is None and only["gallery"] == 2000
        # What the command line prints of the same records.
        shown = render.identification("a.wav", vault.identify(recording, threshold=0.99))
        assert f"(approximate search: recall@1 {stated['recall_at_1']:.3f}, recall@10 " in shown
