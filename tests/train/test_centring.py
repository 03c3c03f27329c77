"""Models centred on the collections of a config: whose means they are, and that embeddings are centred on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from train import centring
from train.__main__ import app
from train.centring import centre_on_corpus, collection_means
from train.config import FitConfig, read_config
from train.corpus import Utterance
from train.split import read_corpus
from train.validate import embed
from voicevault.encoder.checkpoint import SpeakerModel, load_checkpoint, save_checkpoint
from voicevault.encoder.ecapa import EcapaConfig, EcapaTdnn
from voicevault.errors import CheckpointError, ManifestError

CPU = torch.device("cpu")


@pytest.fixture
def config(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> FitConfig:
    monkeypatch.setattr(centring, "SPEAKERS", 5)
    return read_config(config_file)


def test_every_speaker_counts_the_same() -> None:
    def said(speaker: str, source: str) -> Utterance:
        return Utterance("x", speaker, source, "-", 0, 1)

    utterances = [said("b", "two"), said("a", "one"), said("a", "one"), said("c", "one")]
    vectors = np.array([[9.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 4.0]], np.float32)
    means = collection_means(vectors, utterances)
    assert {name: mean.tolist() for name, mean in means.items()} == {"one": [1.0, 2.0], "two": [9.0, 0.0]}


def test_the_command_centres_on_those_who_are_trained_on(
    config: FitConfig, config_file: Path, corpus: Path, tmp_path: Path, tiny_model: Path
) -> None:
    cache, to = tmp_path / "cache", tmp_path / "centred"
    said = CliRunner().invoke(
        app,
        ["centre", str(tiny_model), "--config", str(config_file), "--to", str(to), "--corpora", str(corpus),
         "--cache", str(cache), "--no-half"],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    made, identity = load_checkpoint(to)
    heard = read_corpus(config, corpus, cache)
    trained = {u.speaker for u in heard.training}
    assert said.stdout == f"all recordings: the mean of {len(trained)} speakers\nmodel {identity} in {to}\n"
    given, before = load_checkpoint(tiny_model)
    assert identity != before
    # As the means were measured: 4 s of each recording at most.
    utterances = [replace(u, stop=min(u.stop, u.start + 64_000)) for u in heard.training]
    vectors = embed(given, heard.cache, utterances, CPU)
    (mean,) = made.network.centring.means.detach().numpy()
    by_speaker = [vectors[[u.speaker == s for u in utterances]].mean(axis=0) for s in sorted(trained)]
    np.testing.assert_allclose(mean, np.mean(by_speaker, axis=0), atol=1e-5)
    expected = F.normalize(torch.from_numpy(vectors - mean)).numpy()
    np.testing.assert_allclose(embed(made, heard.cache, utterances, CPU), expected, atol=1e-4)


def test_means_that_are_there_are_measured_anew(
    config: FitConfig, corpus: Path, tmp_path: Path, tiny_model: Path
) -> None:
    first, _ = centre_on_corpus(tiny_model, config, corpus, tmp_path / "cache", CPU)
    means = first.network.centring.means.detach().clone()
    with torch.no_grad():
        first.network.centring.means.mul_(0.5)
    save_checkpoint(first, tmp_path / "first")
    again, _ = centre_on_corpus(tmp_path / "first", config, corpus, tmp_path / "cache", CPU)
    torch.testing.assert_close(again.network.centring.means, means)
    assert again.config == first.config


def test_few_speakers_are_no_collection(
    config_file: Path, corpus: Path, tmp_path: Path, tiny_model: Path
) -> None:
    with pytest.raises(ManifestError, match="needs 20 speakers"):
        centre_on_corpus(tiny_model, read_config(config_file), corpus, tmp_path / "cache", CPU)


def test_another_network_is_refused(
    config: FitConfig, corpus: Path, tmp_path: Path, wavlm_model: Path
) -> None:
    with pytest.raises(CheckpointError, match="no ECAPA-TDNN"):
        centre_on_corpus(wavlm_model, config, corpus, tmp_path / "cache", CPU)


def test_means_are_trained_with_the_rest(tiny_model: Path) -> None:
    """A fine-tune of a centred model moves them too: gradients reach them and what is before them."""
    given, _ = load_checkpoint(tiny_model)
    assert isinstance(given.config.architecture, EcapaConfig)
    made: SpeakerModel = centring.centred(
        given, np.full((2, given.config.architecture.embedding), 0.05, np.float32)
    )
    assert isinstance(made.network, EcapaTdnn) and made.network.centring is not None
    made.train()(0.1 * torch.randn(4, 16_000))[:, 0].sum().backward()
    assert made.network.centring.means.grad is not None and made.network.centring.means.grad.any()
    assert made.network.project.weight.grad is not None and made.network.project.weight.grad.any()
