"""The end of a server, whatever still runs in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from service.conftest import running, wait_until
from voicevault.service import health
from voicevault.settings import Settings
from voicevault.vault import Vault

HANGING = """
import threading
from voicevault.service import server
from voicevault.settings import Settings
from voicevault.vault import Vault

close = Vault.close
Vault.close = lambda vault: (close(vault), print("closed", flush=True))
Vault.embed = lambda *_, **__: threading.Event().wait()
server.GRACE_SECONDS, server.END_SECONDS = 1, 4
server.serve(Settings())
"""


def test_a_warm_up_that_takes_long_is_ended_by_closing_the_vault(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "END_SECONDS", 0.1)
    settings = Settings(home=tmp_path, model=str(tiny_model), port=0, threads=1)
    vault, closed, ended = Vault.open(settings), threading.Event(), threading.Event()
    close = vault.close

    def build() -> dict[str, object]:
        ended_by_closing = closed.wait(60)
        if ended_by_closing:
            ended.set()
        return {}

    def closing() -> None:
        close()
        closed.set()

    monkeypatch.setattr(vault, "warm", build)
    monkeypatch.setattr(vault, "close", closing)
    with running(vault, settings) as (client, _):
        assert client.get("/readyz").json()["code"] == "STARTING"
    assert ended.is_set()


def test_a_request_that_hangs_does_not_keep_the_process(tiny_model: Path, tmp_path: Path) -> None:
    given = {"HOME": tmp_path, "MODEL": tiny_model, "PORT": 0, "THREADS": 1}
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING],
        env={**os.environ, **{f"VOICEVAULT_{name}": str(value) for name, value in given.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        url = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(1) as pool:

            def ask() -> None:
                with suppress(httpx.HTTPError):
                    client.post("/v1/embeddings", content=b"a recording")

            pool.submit(ask)
            wait_until(lambda: "voicevault_inference_running 1.0" in client.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 1
            assert process.stdout.read() == "closed\n", "all that can be closed is closed before"
            assert "is cut off" in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
