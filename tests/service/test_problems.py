"""Every failure over HTTP: the status and the code that the exception tree says, in the form of RFC 9457."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from service.conftest import Serve, is_problem, problem, running, wav
from voicevault.errors import (
    CheckpointError,
    DatabaseUnavailableError,
    SettingsError,
    StoreError,
    VoicevaultError,
)
from voicevault.service.problems import AUDIO, MEDIA_TYPE
from voicevault.settings import Settings
from voicevault.vault import Vault

ENROLL = "/v1/collections/default/speakers/ada/enrollments"
INSIDE = {CheckpointError, DatabaseUnavailableError, SettingsError, StoreError}
TONE = np.sin(np.arange(32_000) / 8).astype(np.float32) / 4


def tree(root: type[VoicevaultError] = VoicevaultError) -> Iterator[type[VoicevaultError]]:
    yield root
    for error in root.__subclasses__():
        yield from tree(error)


def test_each_error_of_the_tree_leaves_with_its_code_and_status(tiny_model: Path, tmp_path: Path) -> None:
    errors = {error.__name__: error for error in tree()}
    settings = Settings(home=tmp_path, model=str(tiny_model), port=0)
    vault = Vault.open(settings)
    with running(vault, settings) as (client, server):

        def fail(name: str) -> None:
            if name == "KeyError":
                raise KeyError("a secret of the inside")
            raise errors[name]("What to do.", path=tmp_path, score=math.nan, list=[np.float32(1)], name=name)

        server.config.app.get("/fail/{name}")(fail)  # type: ignore[union-attr]
        for name, error in errors.items():
            answer = client.get(f"/fail/{name}")
            facts = is_problem(answer, error.status, error.code)
            if error in INSIDE:  # their messages name folders, hosts and accounts
                assert facts == {} and str(tmp_path) not in answer.text and "What to do." not in answer.text
            else:
                assert facts == {"path": str(tmp_path), "score": None, "list": ["1.0"], "name": name}
                assert answer.json()["detail"] == "What to do."
            assert answer.json()["title"] == error.title
            assert ("retry-after" in answer.headers) == (error.code in ("OVERLOADED", "DATABASE_BUSY"))
        answer = client.get("/fail/KeyError")
        is_problem(answer, 500, "INTERNAL")
        assert "secret" not in answer.text and "KeyError" not in answer.text
    assert len(errors) > 30


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "AUDIO_EMPTY"),
        (wav(TONE[:0]), 422, "AUDIO_EMPTY"),
        (b"Dear Ada, this is a letter.", 415, "AUDIO_UNSUPPORTED"),
        (b'{"path": "/etc/passwd"}', 415, "AUDIO_UNSUPPORTED"),
        (b"#EXTM3U\nfile:///etc/passwd\n", 415, "AUDIO_UNSUPPORTED"),
        (wav(TONE)[:20_000], 422, "AUDIO_CORRUPT"),
        (wav(np.zeros(32_000, np.float32)), 422, "AUDIO_SILENT"),
        (wav(np.full(32_000, np.nan, np.float32), subtype="FLOAT"), 422, "AUDIO_INVALID_SAMPLES"),
        (wav(np.tile(TONE, 3), 8000), 413, "AUDIO_TOO_LONG"),
        (wav(np.zeros((800, 3), np.float32)), 422, "AUDIO_OUT_OF_RANGE"),
        (wav(TONE), 422, "NOT_ENOUGH_SPEECH"),
        (bytes(600_001), 413, "AUDIO_TOO_LARGE"),
    ],
)
def test_each_bad_recording_is_named(limited: httpx.Client, content: bytes, status: int, code: str) -> None:
    for path in (ENROLL, "/v1/collections/default/identify", "/v1/embeddings"):
        is_problem(limited.post(path, content=content), status, code)
        is_problem(limited.post(path, files={"file": ("x.wav", content)}), status, code)


@pytest.fixture(scope="module")
def limited(serve: Serve) -> Iterator[httpx.Client]:
    with serve(max_bytes=600_000, max_seconds=10, max_channels=2, concurrency=1) as client:
        yield client


def test_the_bad_recordings_above_are_all_that_the_routes_document() -> None:
    marks = test_each_bad_recording_is_named.pytestmark  # type: ignore[attr-defined]
    assert {case[2] for case in marks[0].args[1]} == {error.code for error in AUDIO}


def test_too_little_speech_says_how_much_is_missing(
    client: httpx.Client, recording: bytes, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(recording)
    samples, rate = soundfile.read(tmp_path / "x")
    facts = is_problem(
        client.post(ENROLL, content=wav(samples[: int(1.5 * rate)], rate)), 422, "NOT_ENOUGH_SPEECH"
    )
    assert facts["needed"] == 2.0 and facts["missing"] == pytest.approx(2.0 - facts["found"], abs=0.002)


def test_paths_and_methods_that_are_not_there(client: httpx.Client) -> None:
    is_problem(client.get("/v1/nothing"), 404, "NOT_FOUND")
    is_problem(client.get("/v1/collections/"), 404, "NOT_FOUND")
    for method, path, allowed in (
        ("DELETE", "/v1/collections", {"GET", "POST"}),
        ("PUT", "/v1/collections/default", {"GET", "DELETE"}),
        ("GET", "/v1/embeddings", {"POST"}),
    ):
        answer = client.request(method, path)
        is_problem(answer, 405, "METHOD_NOT_ALLOWED")
        assert set(answer.headers["allow"].split(", ")) == allowed


def test_a_model_without_a_policy_has_no_threshold(
    serve: Serve, tiny_model: Path, tmp_path: Path, recording: bytes
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "policy.json").unlink()
    with serve(model=str(folder)) as client:
        assert client.get("/v1/models").json()["models"][0]["thresholds"] == []
        assert client.post(ENROLL, content=recording).status_code == 201
        for path in ("verify?speaker=ada", "identify?k=1"):
            path = f"/v1/collections/default/{path}"
            is_problem(client.post(path, content=recording), 400, "NO_THRESHOLD")
            assert (
                client.post(f"{path}&threshold=0.5", content=recording).json()["threshold"]["source"]
                == "given"
            )


def test_a_collection_of_another_model_is_not_compared(
    tiny_model: Path, tmp_path: Path, recording: bytes
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "policy.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["model_id"] = "0" * 32
    settings = Settings(home=tmp_path / "home", model=str(tiny_model), port=0)
    Vault.open(settings).close()
    shutil.rmtree(settings.models_folder)  # the copy of its model that the vault kept for the collection
    (folder / "config.json").write_text(json.dumps(config))
    settings = settings.changed(model=str(folder))
    with running(Vault.open(settings), settings) as (client, _):
        for path in ("speakers/ada/enrollments", "verify?speaker=ada&threshold=0", "identify?threshold=0"):
            answer = client.post(f"/v1/collections/default/{path}", content=recording)
            is_problem(answer, 409, "MODEL_MISMATCH")
            assert str(tmp_path) not in answer.text
        answer = client.post("/v1/collections", json={"name": "staff", "model": "nope"})
        is_problem(answer, 404, "MODEL_NOT_FOUND")
        assert str(tmp_path) not in answer.text
        # The weights are not those that the folder names.
        is_problem(client.post("/v1/embeddings", content=recording), 500, "INVALID_CHECKPOINT")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["code"]) == (503, "INVALID_CHECKPOINT")


def test_failures_of_the_database(serve: Serve, tmp_path: Path) -> None:
    database = tmp_path / "voicevault.db"
    with serve(home=tmp_path, lock_timeout=0.1) as client:
        while client.get("/readyz").json()["code"] == "STARTING":
            pass
        assert client.get("/readyz").json()["ready"] is True
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = client.post("/v1/collections/default/speakers", json={"id": "x"})
            is_problem(answer, 503, "DATABASE_BUSY")
            assert answer.headers["retry-after"] == "1"
            assert client.get("/v1/collections").status_code == 200
            other.execute("ROLLBACK")
            other.execute("ALTER TABLE speakers RENAME TO people")
        is_problem(client.get("/v1/collections/default/speakers"), 503, "SCHEMA_OUTDATED")
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("ALTER TABLE people RENAME TO speakers")
            other.execute("UPDATE alembic_version SET version_num = 'other'")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["code"]) == (503, "SCHEMA_OUTDATED")
        assert ready.json()["ready"] is False and ready.json()["reason"]
        assert client.get("/healthz").status_code == 200


def test_the_openapi_document_shows_what_a_problem_is(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    shown = document["paths"]["/v1/embeddings"]["post"]["responses"]["422"]["content"]
    assert set(shown) == {MEDIA_TYPE}
    required = document["components"]["schemas"]["Problem"]["required"]
    assert set(required) == set(problem(client.get("/v1/nothing")))
