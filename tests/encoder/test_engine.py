"""The engines: one embedding of a recording, whatever computes it, on how many threads, and whoever is in the batch."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, current_thread, get_ident
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from voicevault.encoder import engine_openvino
from voicevault.encoder.checkpoint import SpeakerModel, save_checkpoint
from voicevault.encoder.encoder import PIECE, WHOLE, ModelEncoder
from voicevault.encoder.engine import open_engine, torch_threads
from voicevault.encoder.engine_graph import TAME, grid
from voicevault.encoder.engine_openvino import IN_FLIGHT, OpenVinoEngine, saturates
from voicevault.encoder.engine_torch import PADDING, TorchEngine, batches
from voicevault.errors import RequestError, SettingsError
from voicevault.types import SAMPLE_RATE, Float32Array

SmallModel = Callable[..., SpeakerModel]
AssertEqual = Callable[[Tensor, Tensor], None]
CPU = torch.device("cpu")


def alone_in_torch(model: SpeakerModel, speech: list[Float32Array]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(torch.from_numpy(samples)[None]) for samples in speech])


@pytest.mark.parametrize(
    ("threads", "cores", "pinned"), [(1, 1, False), (1, 2, False), (2, 2, True), (2, 3, False)]
)
def test_threads_stay_on_their_cores_where_there_is_one_for_each(
    threads: int, cores: int, pinned: bool, small_model: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_openvino, "cores_of_the_process", lambda: cores)
    engine = OpenVinoEngine(small_model(), threads=threads)
    engine.embed([np.zeros(SAMPLE_RATE, np.float32) + 0.1])
    (copy,) = (engine._whole if threads > 1 else engine._parallel)._idle
    assert copy._request.get_compiled_model().get_property("ENABLE_CPU_PINNING") is pinned


@pytest.mark.parametrize(("stride", "means"), [(1, 0), (2, 0), (2, 5)])
@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_computes_what_torch_does(
    stride: int,
    means: int,
    threads: int,
    small_model: SmallModel,
    speech: list[Float32Array],
    assert_equal: AssertEqual,
) -> None:
    model = small_model(stride, seed=5, means=means)
    shortest = speech[0][: model.minimum_samples]
    recordings = [shortest, *speech]
    engine = OpenVinoEngine(model, threads)
    assert engine.name == "openvino"
    expected = alone_in_torch(model, recordings)
    together = engine.embed(recordings)
    one_by_one = np.concatenate([engine.embed([samples]) for samples in recordings])
    with engine.one_thread_per_call():
        by_caller = engine.embed(recordings)
    for found in (together, one_by_one, by_caller):
        assert found.dtype == np.float32
        assert_equal(torch.from_numpy(found), expected)


def test_openvino_bears_attention_of_any_size(
    small_model: SmallModel, speech: list[Float32Array], assert_equal: AssertEqual
) -> None:
    """Logits whose exponentials are no float32 numbers."""
    model = small_model(2, seed=5)
    with torch.no_grad():
        model.network.pool.conv.weight *= 100 * TAME / model.network.pool.conv.weight.abs().sum(dim=1).max()
    found = OpenVinoEngine(model, 1).embed(speech)
    assert_equal(torch.from_numpy(found), alone_in_torch(model, speech))


def test_torch_batches_compute_what_single_recordings_do(
    small_model: SmallModel, speech: list[Float32Array], assert_equal: AssertEqual
) -> None:
    model = small_model(2, seed=6)
    recordings = [*speech, *[samples[: len(samples) * 98 // 100] for samples in speech]]
    found = TorchEngine(model, CPU).embed(recordings)
    assert_equal(torch.from_numpy(found), alone_in_torch(model, recordings))


def test_bfloat16_stays_close(small_model: SmallModel, speech: list[Float32Array]) -> None:
    """What a GPU is to compute, on the CPU: mixed lengths, masks and all."""
    model = small_model(1, seed=7)
    exact, half = TorchEngine(model, CPU).embed(speech), TorchEngine(model, CPU, half=True).embed(speech)
    cosines = torch.cosine_similarity(torch.from_numpy(exact), torch.from_numpy(half))
    assert cosines.min() > 0.9995
    assert np.abs(exact - half).max() > 1e-5, "nothing was rounded"
    assert TorchEngine(model, CPU, half=True).name == "torch-bf16"


def test_the_engine_fits_model_and_device(small_model: SmallModel) -> None:
    assert open_engine(small_model(), CPU, 1, None).name == "openvino"
    expected = "openvino" if saturates() else "openvino-int8"
    assert open_engine(small_model(), CPU, 1, {"mfa.conv": (0.0, 1.0)}).name == expected
    assert open_engine(small_model(), torch.device("meta"), None, None).name == "torch"
    assert open_engine(small_model(), torch.device("meta"), None, None, half=True).name == "torch-bf16"


def test_without_openvino_torch_takes_over(
    small_model: SmallModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("voicevault.encoder.engine.find_spec", lambda name: None)
    assert open_engine(small_model(), CPU, None, None).name == "torch"
    assert "openvino is not installed" in caplog.text


def test_calls_compute_on_their_own_threads(
    small_model: SmallModel, speech: list[Float32Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two threads: a lone recording in the caller's, several on two of the engine's, and calls take turns. On one, or
    within `one_thread_per_call`: in the caller's, side by side."""
    import voicevault.encoder.engine_openvino as module

    seen: list[tuple[int, str, int]] = []
    infer = module.Compiled.infer

    def watched(self: Any, inputs: Any) -> Any:
        seen.append((get_ident(), current_thread().name, torch.get_num_threads()))
        return infer(self, inputs)

    monkeypatch.setattr(module.Compiled, "infer", watched)
    before = torch.get_num_threads()
    wide, narrow = OpenVinoEngine(small_model(), 2), OpenVinoEngine(small_model(), 1)
    wide.embed(speech[:1])
    assert {place[0] for place in seen} == {get_ident()}
    seen.clear()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: wide.embed(speech), range(4)))
        assert len(seen) == 4 * len(speech)
        assert all(name.startswith("embed") for _, name, _ in seen)
        assert len({place for place, _, _ in seen}) <= 2
        seen.clear()
        narrow.embed(speech)
        with wide.one_thread_per_call():
            wide.embed(speech)
    assert {place[0] for place in seen} == {get_ident()}
    assert torch.get_num_threads() == before


class Owned:
    """A lock that says who holds it."""

    def __init__(self) -> None:
        self._lock, self.owner = Lock(), 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self.owner = get_ident()

    def __exit__(self, *_: object) -> None:
        self.owner = 0
        self._lock.release()


def test_kernels_for_a_new_shape_are_made_by_one_thread_at_a_time(
    small_model: SmallModel, speech: list[Float32Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once now and then get kernels that compute something else, in about one process of twenty under load."""
    lock, seen = Owned(), list[tuple[int, tuple[int, ...], bool]]()
    made = engine_openvino._Copy.__init__

    class Spy:
        def __init__(self, request: Any) -> None:
            self._request = request
            self.set_input_tensor = request.set_input_tensor
            self.get_output_tensor = request.get_output_tensor

        def infer(self, share_outputs: bool) -> None:
            shape = tuple(self._request.input_tensors[0].shape)
            seen.append((id(self), shape, lock.owner == get_ident()))
            self._request.infer(share_outputs=share_outputs)

    def spied(self: Any, *arguments: Any) -> None:
        made(self, *arguments)
        self._request = Spy(self._request)

    monkeypatch.setattr(engine_openvino, "_MAKING_KERNELS", lock)
    monkeypatch.setattr(engine_openvino._Copy, "__init__", spied)
    engine = OpenVinoEngine(small_model(2, seed=5), 2)
    for _ in range(3):
        engine.embed(speech * 4)
        engine.embed(speech[:1])
    known: set[tuple[int, tuple[int, ...]]] = set()
    for copy, shape, alone in seen:
        assert alone == ((copy, shape) not in known)
        known.add((copy, shape))
    assert len(seen) > 2 * len(known) > 4


def test_what_came_before_changes_nothing(small_model: SmallModel, speech: list[Float32Array]) -> None:
    """The engine is not given anew what it has, such as where a recording of the same length ends."""
    pieces = [speech[0][:n] for n in (16_000, 16_160, 16_000, 32_000, 32_160, 16_000)]  # some share a shape
    pieces.append(-pieces[-1])
    model = small_model(1, seed=5)
    engine = OpenVinoEngine(model, 1)
    for piece in pieces:
        np.testing.assert_array_equal(engine.embed([piece]), OpenVinoEngine(model, 1).embed([piece]))


def test_torch_threads_are_put_back() -> None:
    def fail() -> None:
        with torch_threads(1):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ZeroDivisionError):
            fail()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_grid_is_coarse_and_close() -> None:
    frames = np.arange(1, 12_000)
    padded = np.array([grid(int(n)) for n in frames])
    assert (padded >= frames).all() and (np.diff(padded) >= 0).all()
    assert len(set(padded.tolist())) < 200
    long = frames >= 150
    assert ((padded - frames)[long] / padded[long]).mean() < 0.04
    assert ((padded - frames)[long] / padded[long]).max() < 0.1


def test_batches_hold_little_padding(rng: np.random.Generator) -> None:
    lengths = (SAMPLE_RATE * rng.gamma(2.0, 2.0, 500) + 5000).astype(int).tolist()
    made = list(batches(lengths, 60 * SAMPLE_RATE))
    assert sorted(i for batch in made for i in batch) == list(range(500))
    for batch in made:
        own = [lengths[i] for i in batch]
        whole = len(own) * max(own)
        assert len(own) == 1 or whole <= 60 * SAMPLE_RATE
        assert sum(own) >= (1 - PADDING) * whole
    assert len(made) < 100
    assert list(batches([], 1)) == []
    assert list(batches([5, 5, 5], 5)) == [[0], [1], [2]]


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture(scope="module")
def folder(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "small"
    save_checkpoint(small_model(2, seed=8), made)
    return made


def test_order_and_length_of_what_is_embedded(folder: Path, speech: list[Float32Array]) -> None:
    encoder = ModelEncoder(folder, threads=2)
    alone = np.concatenate([encoder.embed([samples]) for samples in speech])
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-6)
    order = np.random.default_rng(1).permutation(len(speech))
    np.testing.assert_allclose(encoder.embed([speech[i] for i in order]), alone[order], atol=1e-5)
    assert encoder.embed([]).shape == (0, encoder.dim)
    tiny = speech[3][:200]
    np.testing.assert_allclose(
        encoder.embed([tiny]), encoder.embed([np.resize(tiny, encoder._shortest)]), atol=1e-6
    )
    for wrong in (np.zeros(0, np.float32), np.zeros((2, 100), np.float32)):
        with pytest.raises(RequestError):
            encoder.embed([wrong])
    read_only = speech[5].copy()
    read_only.flags.writeable = False
    np.testing.assert_allclose(encoder.embed([read_only]), alone[5:6], atol=1e-5)


def test_a_long_recording_is_the_mean_of_its_pieces(folder: Path, speech: list[Float32Array]) -> None:
    encoder = ModelEncoder(folder, threads=2)
    long = np.resize(speech[-1], WHOLE + SAMPLE_RATE)
    pieces = np.array_split(long, 3)
    assert max(map(len, pieces)) <= PIECE
    weights = np.array([[len(piece)] for piece in pieces])
    mean = (encoder.embed(pieces) * weights).sum(axis=0)
    np.testing.assert_allclose(encoder.embed([long])[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_memory_does_not_grow_with_the_recording(
    folder: Path, speech: list[Float32Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the engine at a time is bounded by `IN_FLIGHT`, however long the recording and however many the threads."""
    import voicevault.encoder.engine_openvino as module

    monkeypatch.setattr(module, "IN_FLIGHT", 4 * SAMPLE_RATE)
    most = running = 0
    call = module.Features.__call__

    def watched(self: Any, piece: Float32Array) -> Any:
        nonlocal most, running
        running += len(piece)
        most = max(most, running)
        try:
            return call(self, piece)
        finally:
            running -= len(piece)

    monkeypatch.setattr(module.Features, "__call__", watched)
    monkeypatch.setattr("voicevault.encoder.encoder.WHOLE", 2 * SAMPLE_RATE)
    monkeypatch.setattr("voicevault.encoder.encoder.PIECE", SAMPLE_RATE)
    encoder = ModelEncoder(folder, threads=8)
    encoder.embed([speech[-1]])
    long = np.resize(speech[-1], 120 * SAMPLE_RATE)
    tracemalloc.start()
    encoder.embed([long])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert SAMPLE_RATE <= most <= 4 * SAMPLE_RATE
    assert peak < long.nbytes / 2
    assert IN_FLIGHT == 60 * SAMPLE_RATE


def test_settings_that_cannot_be_met(folder: Path) -> None:
    with pytest.raises(SettingsError, match="device"):
        ModelEncoder(folder, device="nonsense")
    with pytest.raises(SettingsError, match="quantize"):
        ModelEncoder(folder, precision="int8")
    with pytest.raises(SettingsError, match="fp32, int8, bf16"):
        ModelEncoder(folder, precision="fp7")
    with pytest.raises(SettingsError, match="does not run in bf16 on cpu"):
        ModelEncoder(folder, precision="bf16")


def test_nothing_is_reported_to_anybody(folder: Path, tmp_path: Path) -> None:
    """``import openvino`` alone would report itself over the network and write a client's id into the home folder."""
    program = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from voicevault.encoder import load_encoder\n"
        "encoder = load_encoder(Path(sys.argv[1]), threads=1)\n"
        "assert encoder.engine == 'openvino'\n"
        "encoder.embed([np.random.default_rng(0).standard_normal(16000).astype(np.float32)])\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not any(home.rglob("*intel*")), "a client's id was written"
