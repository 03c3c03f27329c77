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


@pytest.fixture(scope="session")
def tiny_wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a `WavLMForXVector` as transformers writes it, of random weights: two layers of width 32."""
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    settings = WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, num_buckets=16, max_bucket_distance=64,
        use_weighted_layer_sum=True, tdnn_dim=(16, 16, 16, 16, 24), xvector_output_dim=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("wavlm") / "tiny"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        WavLMForXVector(settings).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wavlm_model(tiny_wavlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, imported: a model folder."""
    from voicevault.encoder.importing import import_model
    from voicevault.encoder.store import ModelStore

    store = ModelStore(tmp_path_factory.mktemp("home") / "models")
    return import_model(store, tiny_wavlm, "tiny-wavlm").folder


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path
