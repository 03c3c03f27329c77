"""Health, readiness and metrics."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

import voicevault
from service.conftest import Serve, wait_until


def test_alive(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "version": voicevault.__version__}


def test_ready_once_the_model_is_loaded(client: httpx.Client) -> None:
    wait_until(lambda: client.get("/readyz").status_code == 200)
    found = client.get("/readyz").json()
    model = client.get("/v1/models").json()["models"][0]
    assert found["ready"] is True and found["reason"] is None
    assert (found["database"], found["model"], found["model_id"]) == (
        "sqlite",
        model["name"],
        model["model_id"],
    )


def test_not_ready_while_the_model_cannot_be_loaded(
    serve: Serve, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:1000])
    with serve(model=str(folder)) as client:
        wait_until(lambda: client.get("/readyz").json()["code"] != "STARTING")
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"], answer.json()["code"]) == (
            503,
            False,
            "INVALID_CHECKPOINT",
        )
        assert "log of the server" in answer.json()["reason"] and str(folder) not in answer.text
        assert str(weights) in caplog.text, "the log says which file"
        assert client.get("/healthz").status_code == 200
        weights.write_bytes(kept)
        wait_until(lambda: client.get("/readyz").status_code == 200)


def test_the_threshold_table_is_shown(client: httpx.Client) -> None:
    rows = {row["name"]: row for row in client.get("/v1/models").json()["models"][0]["thresholds"]}
    assert rows["fmr_1pct"]["threshold"] == 0.975 and rows["fmr_1pct"]["fmr"] == 0.01


def test_requests_are_counted_by_route(client: httpx.Client, collection: str) -> None:
    def count(status: int) -> float:
        wanted = (
            'voicevault_http_requests_total{method="GET",'
            f'route="/v1/collections/{{collection}}/speakers/{{speaker}}",status="{status}"}}'
        )
        found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(wanted)]
        return float(found[0].split()[-1]) if found else 0.0

    before = count(404), count(200)
    client.post(f"{collection}/speakers", json={"id": "a-secret-name"})
    for id in ("a-secret-name", "nobody", "nobody"):
        client.get(f"{collection}/speakers/{id}")
    assert (count(404), count(200)) == (before[0] + 2, before[1] + 1)
    text = client.get("/metrics").text
    assert "secret" not in text and "nobody" not in text
    assert "voicevault_http_request_seconds_bucket" in text
