"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from threading import Barrier

import httpx
import pytest

import voicevault
from service.conftest import Serve, wait_until
from voicevault.errors import CheckpointError
from voicevault.service.health import WarmUp


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


def test_two_who_ask_after_a_failure_begin_one_attempt() -> None:
    class Vault:
        attempts = 0
        both = Barrier(2, timeout=30)

        def ready(self) -> dict[str, object]:
            self.both.wait()
            return {}

        def warm(self) -> dict[str, object]:
            self.attempts += 1
            if self.attempts == 1:
                raise CheckpointError("It is being copied.")
            return {}

    async def ask(vault: Vault) -> list[str | None]:
        warm_up = WarmUp(vault)  # type: ignore[arg-type]
        warm_up.begin()
        await warm_up.end()
        found = await asyncio.gather(warm_up.readiness(), warm_up.readiness())
        await warm_up.end()
        return [one.code for one in found]

    vault = Vault()
    assert asyncio.run(ask(vault)) == ["STARTING", "STARTING"]
    assert vault.attempts == 2


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
