"""ECAPA-TDNN and WavLM on one list, by one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from train.__main__ import app
from voicevault.encoder.lazy import read_identity
from voicevault.errors import AudioNotFoundError, CheckpointError, ManifestError, ModelNotFoundError


@pytest.fixture(scope="module")
def listed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pairs of two recordings of five speakers, in a folder of their own."""
    root = tmp_path_factory.mktemp("lists")
    paths = [path for speaker in sorted(corpus.iterdir())[:5] for path in sorted(speaker.glob("*.opus"))[:2]]
    names = [f"{path.parent.name}-{path.name}" for path in paths]
    for path, name in zip(paths, names, strict=True):
        shutil.copy(path, root / name)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    lines = [f"{int(a.split('-')[0] == b.split('-')[0])} {a} {b}" for a, b in pairs]
    (root / "all.trials").write_text("\n".join(lines) + "\n")
    (root / "few").mkdir()
    (root / "few" / "all.trials").write_text("\n".join(lines[:20]) + "\n")
    return root


def compare(root: Path, out: Path, models: list[Path], *lists: str) -> list[dict[str, object]]:
    arguments = [text for model in models for text in ("--model", str(model))]
    arguments += [text for name in lists for text in ("--trials", str(root / name))]
    run = CliRunner().invoke(
        app, ["compare", *arguments, "--audio-root", str(root), "--out", str(out), "--workers", "0", "--json"]
    )
    if run.exception is not None:
        raise run.exception
    rows: list[dict[str, object]] = json.loads(run.stdout)
    return rows


def test_ecapa_and_wavlm_on_one_list(
    listed: Path, tmp_path: Path, tiny_model: Path, wavlm_model: Path
) -> None:
    ecapa, wavlm = compare(listed, tmp_path, [tiny_model, wavlm_model], "all.trials", "few/all.trials")
    for row, folder, dimensions in ((ecapa, tiny_model, 64), (wavlm, wavlm_model, 16)):
        assert row["model_id"] == read_identity(folder).model_id
        assert row["dimensions"] == dimensions
        assert float(str(row["ms_per_3_s"])) > 0
    first, second = (row["lists"][str(listed / "all.trials")] for row in (ecapa, wavlm))  # type: ignore[index]
    assert first["trials"] == second["trials"] == 45
    assert first["eer_difference"] == 0.0
    assert second["eer_difference"] == pytest.approx(second["eer"] - first["eer"])
    low, high = second["eer_difference_interval"]
    assert low <= high
    assert ecapa["lists"][str(listed / "few" / "all.trials")]["trials"] == 20  # type: ignore[index]
    table = (tmp_path / "compare.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + 4
    assert len({line.split("|")[1] for line in table[2:]}) == 2


def test_what_is_missing_is_said_before_anything_is_computed(
    listed: Path, tmp_path: Path, tiny_model: Path, tiny_wavlm: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelNotFoundError, match="is no model folder"):
        compare(listed, out, [tiny_model, tmp_path / "none"], "all.trials")
    with pytest.raises(CheckpointError, match="voicevault models import"):
        compare(listed, out, [tiny_model, tiny_wavlm], "all.trials")
    with pytest.raises(ManifestError):
        compare(listed, out, [tiny_model], "none.trials")
    (listed / "wrong.trials").write_text("1 a.wav b.wav\n0 a.wav c.wav\n")
    with pytest.raises(AudioNotFoundError, match="3 recordings are not below"):
        compare(listed, out, [tiny_model], "all.trials", "wrong.trials")
    assert not list(out.glob("embeddings-*"))
