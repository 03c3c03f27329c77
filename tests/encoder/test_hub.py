"""Pulling from a hub on loopback that answers as huggingface.co does, and from none."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from voicevault.encoder.checkpoint import SpeakerModel, save_checkpoint
from voicevault.encoder.hub import choose, pull
from voicevault.encoder.store import SHIPPED, ModelStore
from voicevault.errors import (
    CheckpointError,
    HubUnavailableError,
    ModelNotFoundError,
    RequestError,
    SettingsError,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The two routes that a download uses, over the files of one folder."""

    folder: Path
    claimed: str | None = None
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.asked.append(path)
        if path in (
            "/api/models/us/small",
            f"/api/models/us/small/revision/{COMMIT}",
            "/api/models/us/small/revision/v1",
        ):
            siblings = [self.sibling(file) for file in sorted(self.folder.iterdir())]
            content = json.dumps({"id": "us/small", "sha": COMMIT, "siblings": siblings}).encode()
            self.send(200, content, body, {"Content-Type": "application/json"})
        elif path.startswith(f"/us/small/resolve/{COMMIT}/"):
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self.send(
                200, content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            )
        else:
            code = "RevisionNotFound" if path.startswith("/api/models/us/small/") else "RepoNotFound"
            self.send(404, b"{}", body, {"X-Error-Code": code})

    def sibling(self, file: Path) -> dict[str, object]:
        found: dict[str, object] = {"rfilename": file.name, "size": file.stat().st_size}
        if file.suffix == ".safetensors":
            digest = self.claimed or hashlib.sha256(file.read_bytes()).hexdigest()
            found["lfs"] = {"sha256": digest, "size": file.stat().st_size, "pointerSize": 130}
        return found

    def send(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture(scope="module")
def folder(small_model: Callable[..., SpeakerModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hub")
    save_checkpoint(small_model(2), made)
    (made / "README.md").write_text("# small")
    (made / "train.py").write_text("raise SystemExit")
    return made


@pytest.fixture
def hub(folder: Path) -> Iterator[type[Hub]]:
    handler = type("OneHub", (Hub,), {"folder": folder, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.endpoint = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return ModelStore(tmp_path / "models")


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_a_model_is_pulled_at_one_commit(
    hub: type[Hub], store: ModelStore, folder: Path, revision: str | None
) -> None:
    files: list[str] = []
    pulled = pull(store, "us/small", revision=revision, endpoint=hub.endpoint, progress=files.append)  # type: ignore[attr-defined]
    assert pulled.name == "small"
    assert pulled.source is not None
    assert (pulled.source.origin, pulled.source.revision, pulled.source.kind) == (
        "us/small",
        COMMIT,
        "voicevault",
    )
    assert files == ["config.json", "model.safetensors"]
    assert (
        pulled.source.files["model.safetensors"]
        == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    )
    assert not any(path.endswith((".py", ".md")) for path in hub.asked), (
        "files that are not needed were downloaded"
    )
    assert all(COMMIT in path for path in hub.asked if "/resolve/" in path)


def test_what_the_hub_does_not_have(hub: type[Hub], store: ModelStore) -> None:
    endpoint = hub.endpoint  # type: ignore[attr-defined]
    with pytest.raises(ModelNotFoundError, match="has no revision 'v2'"):
        pull(store, "us/small", revision="v2", endpoint=endpoint)
    with pytest.raises(ModelNotFoundError, match="has no model 'us/large'"):
        pull(store, "us/large", endpoint=endpoint)
    assert not store.folder.exists()


def test_a_file_that_is_not_what_the_hub_says(hub: type[Hub], store: ModelStore) -> None:
    hub.claimed = "0" * 64
    with pytest.raises(CheckpointError, match="the hub says 0000"):
        pull(store, "us/small", endpoint=hub.endpoint)  # type: ignore[attr-defined]
    assert not store.folder.exists()


def test_without_a_network_it_says_what_to_do(store: ModelStore) -> None:
    with socket.socket() as taken:  # bound and not listening: nothing else answers there
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(HubUnavailableError, match="voicevault models import FOLDER") as caught:
            pull(store, "us/small", endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert caught.value.facts["repository"] == "us/small"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_takes_nothing_is_not_the_hubs(
    hub: type[Hub], store: ModelStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/full/model.safetensors")

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", fail)
    with pytest.raises(SettingsError, match=f"{os.strerror(number)}.*/full/model.*TMPDIR"):
        pull(store, "us/small", endpoint=hub.endpoint)  # type: ignore[attr-defined]


def test_no_folder_to_download_to(
    hub: type[Hub], store: ModelStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="TMPDIR"):
        pull(store, "us/small", endpoint=hub.endpoint)  # type: ignore[attr-defined]


@pytest.mark.parametrize("repository", ["small", "a/b/c", "../../etc", "https://x/y", "us/", "-x/y"])
def test_what_is_no_repository(store: ModelStore, repository: str) -> None:
    with pytest.raises(RequestError, match="owner/name"):
        pull(store, repository)


def test_a_name_is_refused_before_anything_is_asked(hub: type[Hub], store: ModelStore) -> None:
    with pytest.raises(RequestError, match="cannot be called"):
        pull(store, "us/small", SHIPPED, endpoint=hub.endpoint)  # type: ignore[attr-defined]
    assert not hub.asked


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["embedding_model.ckpt", "hyperparams.yaml", "config.json"], ["embedding_model.ckpt", "hyperparams.yaml"]),
        (
            ["config.json", "preprocessor_config.json", "pytorch_model.bin", "README.md"],
            ["config.json", "preprocessor_config.json", "pytorch_model.bin"],
        ),
        (
            ["config.json", "preprocessor_config.json", "pytorch_model.bin", "model.safetensors"],
            ["config.json", "preprocessor_config.json", "model.safetensors"],
        ),
        (["voxceleb_resnet34.onnx", "README.md"], ["voxceleb_resnet34.onnx"]),
        (["config.json", "model.safetensors", "policy.json", "x.bin"], ["config.json", "model.safetensors", "policy.json"]),
    ],
)  # fmt: skip
def test_what_is_downloaded(files: list[str], chosen: list[str]) -> None:
    assert choose(files) == chosen


def test_a_repository_without_a_model() -> None:
    with pytest.raises(CheckpointError, match=r"It holds: a\.onnx, b\.onnx"):
        choose(["a.onnx", "b.onnx"])
