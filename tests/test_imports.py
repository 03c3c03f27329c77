"""What a process loads: torch and faiss only where they work. And the versions below which nothing runs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchaudio", "transformers", "faiss", "matplotlib", "sklearn", "openvino", "silero_vad")
FLOORS = {"starlette": "0.49.1", "python-multipart": "0.0.27", "transformers": "5.5.0", "torch": "2.10"}
"""Below them stand published security advisories."""


def loaded_by(program: str, *arguments: str) -> set[str]:
    """Top-level packages that a fresh process has loaded at the end of `program`."""
    report = "\nimport sys\nprint('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program + report, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    ("program", "others"),
    [
        ("import voicevault", ("numpy", "sqlalchemy", "fastapi", "pydantic", "onnxruntime")),
        ("import voicevault.cli", ("fastapi", "onnxruntime", "sqlalchemy")),
        ("import voicevault.errors, voicevault.types, voicevault.settings, voicevault.vault", ("fastapi",)),
        ("import voicevault.bulk.worker", ("fastapi", "sqlalchemy")),
        ("import voicevault.service", ()),
    ],
)
def test_importing_is_light(program: str, others: tuple[str, ...]) -> None:
    loaded = loaded_by(program)
    assert "voicevault" in loaded
    assert not loaded & {*HEAVY, *others}


def test_decoding_loads_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.random.default_rng(1).normal(0, 0.1, 32_000), 16_000)
    loaded = loaded_by(
        "import sys\n"
        "from voicevault.audio import AudioLimits, SpeechDetector\n"
        "from voicevault.embedding import prepare\n"
        "print(prepare(sys.argv[1], SpeechDetector(), AudioLimits()).quality.seconds)",
        str(path),
    )
    assert "onnxruntime" in loaded
    assert not loaded & {*HEAVY, "sqlalchemy", "fastapi"}


def test_looking_things_up_loads_no_torch(tmp_path: Path, tiny_model: Path) -> None:
    loaded = loaded_by(
        "import sys\n"
        "from voicevault import Settings, Vault\n"
        "with Vault.open(Settings(home=sys.argv[1], model=sys.argv[2])) as vault:\n"
        "    vault.create_speaker('ada', tags=['vip'])\n"
        "    print(vault.speakers(), vault.collections(), vault.model_id, vault.policy)",
        str(tmp_path),
        str(tiny_model),
    )
    assert "sqlalchemy" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_version_floors(name: str) -> None:
    floor = Version(FLOORS[name])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (r for r in map(Requirement, project["dependencies"]) if r.name == name)
    lower = [Version(s.version) for s in wanted.specifier if s.operator in (">=", "==", "~=")]
    assert max(lower, default=Version("0")) >= floor
    assert Version(version(name)) >= floor
    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.split("#")[0].strip()
    ]
    (pin,) = (r for r in pins if r.name == name)
    assert [s.operator for s in pin.specifier] == ["=="]
    assert Version(next(iter(pin.specifier)).version.partition("+")[0]) >= floor
    assert next(iter(pin.specifier)).version in wanted.specifier
