"""Collections on different models, side by side on one server."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch

from voicevault.encoder.checkpoint import load_checkpoint, save_checkpoint
from voicevault.encoder.importing import import_model
from voicevault.encoder.store import ModelStore

Serve = Callable[..., Any]


def test_collections_on_different_models(
    serve: Serve, tiny_model: Path, voices: dict[str, list[Path]], tmp_path: Path
) -> None:
    model, first = load_checkpoint(tiny_model)
    with torch.no_grad():
        model.network.project.bias += 0.5
    second = save_checkpoint(model, tmp_path / "second")
    import_model(ModelStore(tmp_path / "home" / "models"), tmp_path / "second")
    file = next(iter(voices.values()))[0]

    def ask(client: httpx.Client, path: str, **query: Any) -> dict[str, Any]:
        answer = client.post(f"/v1/collections/{path}", content=io.BytesIO(file.read_bytes()), params=query)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    with serve(home=tmp_path / "home") as client:
        models = client.get("/v1/models").json()["models"]
        assert [m["default"] for m in models] == [True, *[False] * (len(models) - 1)]
        assert models[0]["model_id"] == first
        assert [m["thresholds"] for m in models if m["model_id"] == second] == [[]]
        made = client.post("/v1/collections", json={"name": "second", "model": second, "keep_audio": True})
        assert (made.status_code, made.json()["model_id"], made.json()["keeps_audio"]) == (201, second, True)
        assert client.get("/v1/collections/default").json()["keeps_audio"] is False
        for collection in ("default", "second"):
            ask(client, f"{collection}/speakers/ada/enrollments")
        answers = [ask(client, f"{name}/identify", threshold=0.9) for name in ("default", "second")]
        assert [answer["model_id"] for answer in answers] == [first, second]
        assert [answer["speaker_id"] for answer in answers] == ["ada", "ada"]
        missing = client.post("/v1/collections", json={"name": "third", "model": "nobodys"})
        assert (missing.status_code, missing.json()["code"]) == (404, "MODEL_NOT_FOUND")
