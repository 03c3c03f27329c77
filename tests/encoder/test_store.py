"""The local model store: whole models or none, each with where it came from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from voicevault.encoder import load_encoder
from voicevault.encoder.checkpoint import SpeakerModel, load_checkpoint, save_checkpoint
from voicevault.encoder.importing import import_model
from voicevault.encoder.store import SHIPPED, ModelStore, Source, StoredModel
from voicevault.errors import (
    CheckpointError,
    ModelExistsError,
    ModelNotFoundError,
    RequestError,
    SettingsError,
)
from voicevault.types import Float32Array


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home" / "models")


@pytest.fixture(scope="module")
def folder(small_model: Callable[..., SpeakerModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "Our Small_One"
    save_checkpoint(small_model(2), made)
    (made / "policy.json").write_text("{}")
    (made / "notes.txt").write_text("private")
    return made


def own(store: ModelStore) -> list[str]:
    """Names of the models of the store, and of what else is in its folder."""
    assert {m.name for m in store.models() if m.folder.parent == store.folder} == {
        p.name for p in store.folder.iterdir()
    }
    return sorted(p.name for p in store.folder.iterdir())


def test_a_model_comes_into_the_store(folder: Path, store: ModelStore, speech: list[Float32Array]) -> None:
    added = import_model(store, folder)
    assert added.name == "our-small_one"
    assert own(store) == ["our-small_one"]
    assert sorted(p.name for p in added.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "policy.json",
        "source.json",
    ]
    assert added.identity is not None and added.identity.model_id == load_checkpoint(folder)[1]
    assert (
        added.source is not None and added.source.origin == str(folder) and added.source.kind == "voicevault"
    )
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert added.source.files["model.safetensors"] == digest
    assert store.get("our-small_one") == store.get(added.identity.model_id[:8]) == added
    assert store.find(added.identity.model_id) == added
    before, after = load_encoder(folder).embed(speech[:3]), load_encoder(added.folder).embed(speech[:3])
    assert before.tobytes() == after.tobytes()


def test_names(folder: Path, store: ModelStore) -> None:
    for name in ("", "..", ".hidden", "a/b", "A", "x" * 65, SHIPPED, "a\n"):
        with pytest.raises(RequestError, match="cannot be called"):
            import_model(store, folder, name)
    assert import_model(store, folder, "x").name == "x"
    with pytest.raises(ModelExistsError, match="replace"):
        import_model(store, folder, "x")
    with pytest.raises(ModelNotFoundError, match=r"There are: .*x"):
        store.get("y")


def test_replacing_is_whole_or_not_at_all(
    folder: Path, store: ModelStore, small_model: Callable[..., SpeakerModel], tmp_path: Path
) -> None:
    first = import_model(store, folder, "x")
    save_checkpoint(small_model(1, seed=3), tmp_path / "other")
    (tmp_path / "broken").mkdir()
    shutil.copy(tmp_path / "other" / "config.json", tmp_path / "broken")
    shutil.copy(folder / "model.safetensors", tmp_path / "broken")
    with pytest.raises(CheckpointError):
        import_model(store, tmp_path / "broken", "x", replace=True)
    assert store.get("x") == first
    replaced = import_model(store, tmp_path / "other", "x", replace=True)
    assert replaced.identity != first.identity
    assert store.get("x") == replaced
    assert own(store) == ["x"]


def test_what_fails_leaves_nothing(store: ModelStore) -> None:
    def write(work: Path) -> Source:
        (work / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add("x", write)
    assert not list(store.folder.iterdir())


def test_a_store_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = ModelStore(tmp_path / "file" / "models")
    for put in (lambda: import_model(store, folder, "x"), lambda: store.keep(folder)):
        with pytest.raises(SettingsError, match="VOICEVAULT_HOME") as caught:
            put()
        assert caught.value.facts == {"folder": str(store.folder)}


@pytest.mark.parametrize("copied", [True, False])
def test_a_disk_that_is_full(
    folder: Path, store: ModelStore, small_model: Callable[..., SpeakerModel], copied: bool
) -> None:
    """A limit on the size of files stands for it."""

    def write(work: Path) -> Source:
        save_checkpoint(small_model(2), work)
        return Source("speechbrain", "elsewhere")

    def put() -> StoredModel:
        return import_model(store, folder, "x") if copied else store.add("x", write)

    resource = pytest.importorskip("resource", reason="there are no limits on the size of files here")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, most[1]))
    try:
        with pytest.raises(SettingsError, match=r"cannot be put into .*Make room there"):
            put()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert not list(store.folder.iterdir())
    assert put().problem is None


def test_a_process_that_dies_while_importing_leaves_no_model(store: ModelStore) -> None:
    program = (
        "import os, sys; from pathlib import Path; from voicevault.encoder.store import ModelStore\n"
        "ModelStore(Path(sys.argv[1])).add('x', lambda work: os._exit(9))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(store.folder)], check=False)
    assert done.returncode == 9
    assert [m.name for m in store.models() if m.name != SHIPPED] == []


def test_a_broken_folder_is_listed_with_its_problem(folder: Path, store: ModelStore) -> None:
    import_model(store, folder, "good")
    (store.folder / "bad").mkdir()
    (store.folder / "worse").mkdir()
    (store.folder / "worse" / "config.json").write_text("{")
    found = {m.name: m for m in store.models() if m.name != SHIPPED}
    assert list(found) == ["bad", "good", "worse"]
    assert found["good"].problem is None
    assert "has no config.json" in str(found["bad"].problem)
    assert found["worse"].identity is None and found["worse"].problem


def test_a_model_is_kept_once(folder: Path, store: ModelStore) -> None:
    kept = store.keep(folder)
    assert kept.identity is not None
    assert kept.name == f"small-{kept.identity.model_id[:8]}"
    assert store.keep(folder) == kept == store.keep(kept.folder)
    assert own(store) == [kept.name]
    assert (kept.folder / "policy.json").is_file()


def test_the_store_is_the_owners(folder: Path, store: ModelStore) -> None:
    added = import_model(store, folder)
    assert os.stat(store.folder.parent).st_mode & 0o077 == 0
    assert os.stat(store.folder).st_mode & 0o077 == 0
    assert os.stat(added.folder).st_mode & 0o077 == 0


def test_reading_the_store_does_not_load_torch(folder: Path, store: ModelStore) -> None:
    import_model(store, folder)
    program = (
        "import sys; from pathlib import Path; from voicevault.encoder.store import ModelStore\n"
        "print(len(ModelStore(Path(sys.argv[1])).models()), 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(store.folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[1] == "False"
    assert int(done.stdout.split()[0]) >= 1


def test_what_is_no_model(tmp_path: Path, store: ModelStore) -> None:
    for path, message in (
        (tmp_path / "nowhere", "is not there"),
        (tmp_path, "is no model"),
        (Path(__file__), "is no model"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_model(store, path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="'bert'"):
        import_model(store, tmp_path)
    assert not store.folder.exists() or not list(store.folder.iterdir())


def test_a_front_end_is_given_for_onnx_alone(folder: Path, store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="only for ONNX"):
        import_model(store, folder, frontend="wespeaker")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(RequestError, match="Name its toolkit"):
        import_model(store, tmp_path / "model.onnx")


def test_weights_that_were_changed_in_the_store(folder: Path, store: ModelStore) -> None:
    added = import_model(store, folder)
    path = added.folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="model_id"):
        load_encoder(added.folder)
    assert torch.is_inference_mode_enabled() is False
