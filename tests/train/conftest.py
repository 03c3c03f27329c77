"""A small corpus of the bundled voices, and a training of it that takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

import voicevault

VOICES = Path(voicevault.__file__).parent / "demo" / "voices"
CONFIG = """
name = "small"
seed = 3
[data]
crops = [[6, 0.6], [4, 0.8]]
[validation]
share = 0.25
every_steps = 4
[model]
channels = 32
aggregate = 48
embedding = 24
stride = 2
se_channels = 8
attention_channels = 8
[augment]
rooms = 4
codec = 0.1
[large_margin]
share = 0.2
crops = [[4, 1.0]]
[optimiser]
steps = 12
average_decay = 0.8
"""


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Folder of speakers: the 15 bundled voices, 6 recordings each."""
    if not VOICES.is_dir():
        pytest.skip(f"no recordings: {VOICES} is not there")
    return VOICES


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path
