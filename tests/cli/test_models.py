"""Models on the command line: from a folder of another toolkit to answers in a collection of its own."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Run

HYPERPARAMS = """
compute_features: !new:speechbrain.lobes.features.Fbank {n_mels: 80}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization {norm_type: sentence, std_norm: False}
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 80
    channels: [32, 32, 32, 32, 48]
    attention_channels: 8
    se_channels: 8
    lin_neurons: 24
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ECAPA-TDNN as SpeechBrain leaves it on disk, untrained."""
    ecapa = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN", reason="speechbrain is not installed")
    made = tmp_path_factory.mktemp("speechbrain") / "spkrec"
    made.mkdir()
    network = ecapa.ECAPA_TDNN(
        80, channels=[32] * 4 + [48], attention_channels=8, se_channels=8, lin_neurons=24
    )
    torch.save(network.state_dict(), made / "embedding_model.ckpt")
    (made / "hyperparams.yaml").write_text(HYPERPARAMS)
    return made


def test_a_foreign_model_from_import_to_answer(run: Run, folder: Path, ada: list[Path]) -> None:
    told = run("models", "import", folder)
    assert told.code == 0
    assert "collections create NAME --model spkrec" in told.out
    assert "need --threshold" in told.out
    shown = run("models", "show", "spkrec", "--check", "--json").json
    assert shown["loads"] is True
    assert shown["frontend"]["type"] == "speechbrain"
    assert set(shown["source"]["files"]) == {"embedding_model.ckpt", "hyperparams.yaml"}
    listed = run("models", "list", "--json").json["models"]
    assert [one["model_id"] for one in listed if one["name"] == "spkrec"] == [shown["model_id"]]
    made = run("collections", "create", "foreign", "--model", "spkrec", "--json").json
    assert made["model_id"] == shown["model_id"]
    assert run("enroll", "ada", ada[0], "--collection", "foreign").code == 0
    answer = run("identify", ada[0], "--collection", "foreign", "--threshold", "0.5", "--json").json
    assert (answer["model_id"], answer["speaker_id"]) == (shown["model_id"], "ada")
    refused = run("identify", ada[0], "--collection", "foreign")
    assert refused.code == 2 and "[NO_THRESHOLD]" in refused.err


def test_show_for_people(run: Run, folder: Path) -> None:
    run("models", "import", folder, "--name", "theirs")
    shown = {
        line.split("  ")[0]: line.split()[-1] for line in run("models", "show", "theirs").out.splitlines()
    }
    assert shown["architecture channels"] == "32"
    assert len(shown["source files hyperparams.yaml"]) == 64
    assert "theirs" in run("models", "list").out


def test_what_cannot_be_imported(run: Run, folder: Path, tmp_path: Path) -> None:
    assert run("models", "import", folder).code == 0
    again = run("models", "import", folder)
    assert again.code == 5 and "[MODEL_EXISTS]" in again.err
    assert run("models", "import", folder, "--replace").code == 0
    nothing = run("models", "import", tmp_path)
    assert nothing.code == 6 and "is no model" in nothing.err
    assert run("models", "show", "nobodys").code == 4
    assert run("models", "import", folder, "--name", "x", "--set", "bins").code == 2
    assert run("models", "import", folder, "--name", "x", "--front-end", "wespeaker").code == 2


def test_pull_without_a_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: nothing else answers there
        taken.bind(("127.0.0.1", 0))
        # The hub's client reads its environment when it is imported.
        constants = pytest.importorskip("huggingface_hub.constants")
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        told = run("models", "pull", "us/small", "--json")
    assert told.code == 4
    error = json.loads(told.out)["error"]
    assert error["code"] == "HUB_UNAVAILABLE"
    assert "voicevault models import FOLDER" in error["message"] and "127.0.0.1" in error["message"]


def test_quantize_and_bench(run: Run, tiny_model: Path, ada: list[Path], tmp_path: Path) -> None:
    run("models", "import", tiny_model, "--name", "small")
    speech = tmp_path / "speech"
    speech.mkdir()
    (speech / "notes.txt").write_text("no recording")
    for place, file in enumerate([*ada, *ada]):
        (speech / f"{place}{file.suffix}").write_bytes(file.read_bytes())
        if place == 2:
            few = run("models", "quantize", "small", "--calibration", speech)
            assert few.code == 2 and "3 recordings with speech are too few" in few.err
    before = run("models", "bench", "small", "--repeats", "1", "--json").json["milliseconds"]
    assert {line["what"] for line in before} == {"speech detection", "embedding, openvino"}
    made = run("models", "quantize", "small", "--calibration", speech, "--json")
    assert made.code == 0 and "Left out: AUDIO_" in made.err
    assert made.json["recordings"] == 12 and 0.9 < made.json["cosine_min"] < 1
    after = run("models", "bench", "small", "--repeats", "1", "--json").json["milliseconds"]
    assert {line["what"] for line in after} > {line["what"] for line in before}
    assert all(value > 0 for line in after for name, value in line.items() if name != "what")
    assert run("enroll", "ada", ada[0], "--model", "small", "--precision", "int8").code == 0
    own = run(
        "verify", "ada", ada[0], "--model", "small", "--precision", "fp32", "--threshold", "0.5", "--json"
    )
    assert 0.9 < own.json["score"] < 1, "the two precisions meet in one collection, and are not the same"
    assert "[MODEL_NOT_FOUND]" in run("models", "quantize", "nobody", "--calibration", speech).err


def test_a_collection_changes_its_model_and_goes_back(
    run: Run, folder: Path, ada: list[Path], bob: list[Path]
) -> None:
    assert run("models", "import", folder).code == 0
    assert run("collections", "create", "staff", "--keep-audio", "--json").json["keeps_audio"] is True
    for speaker, files in (("ada", ada), ("bob", bob)):
        assert run("enroll", speaker, *files[:2], "--collection", "staff").code == 0
    first = run("models", "migrate", "staff", "spkrec", "--dry-run")
    assert (
        "4 recordings are embedded" in first.err
        and "EER over 2 pairs of one speaker and 4 of two" in first.err
    )
    assert "Nothing was switched" in first.out
    switched = run("models", "migrate", "staff", "spkrec", "--yes", "--json").json
    assert switched["enroll_again"] == []
    asked = ("identify", ada[2], "--collection", "staff", "--threshold", "0.1", "--json")
    assert run(*asked).json["model_id"] == switched["to_model"]
    assert run("models", "migrate", "staff", switched["from_model"][:12], "--yes").code == 0
    assert run(*asked).json["model_id"] == switched["from_model"]


def test_a_migration_names_who_must_enroll_again(run: Run, folder: Path, ada: list[Path]) -> None:
    run("models", "import", folder)
    assert run("enroll", "ada", ada[0]).code == 0
    told = run("models", "migrate", "default", "spkrec", "--yes")
    assert told.code == 5
    assert "Must enroll again: ada" in told.err and "--leave-out" in told.err
    assert run("models", "migrate", "default", "spkrec", "--yes", "--leave-out").code == 0
    told = run("collections", "delete", "default", "--yes", "--json").json
    (left,) = told["left"]
    assert left.startswith("default@")
    assert left in [one["name"] for one in run("collections", "list", "--json").json["collections"]]
