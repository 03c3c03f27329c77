"""The contenders of the encoder benchmark: SpeechBrain's classifier, its weights as a model of ours, and the bare engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workbench import speech_clip
from voicevault.types import Float32Array, ManifestRow

if TYPE_CHECKING:
    from voicevault.embedding import EmbeddingPipeline

Call = Callable[[], object]


class SpeechBrain:
    """SpeechBrain's ``EncoderClassifier`` around its ECAPA-TDNN of a width, in the settings of its published VoxCeleb model.

    The weights are random, the batch-norm statistics those of `speech`, so that embeddings differ as a trained model's do.

    Raises:
        ImportError: speechbrain is not installed.
    """

    def __init__(self, width: int, speech: Sequence[Float32Array], seed: int) -> None:
        import torch
        from speechbrain.inference.classifiers import EncoderClassifier
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
        from speechbrain.processing.features import InputNormalization

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ECAPA_TDNN(80, channels=[width] * 4 + [3 * width], lin_neurons=192)
        self._classifier = EncoderClassifier(
            modules={
                "compute_features": Fbank(n_mels=80),
                "mean_var_norm": InputNormalization(norm_type="sentence", std_norm=False),
                "embedding_model": self.network,
                "classifier": torch.nn.Identity(),
            },
            hparams={},
            run_opts={"device": "cpu"},
        )
        norms = [m for m in self.network.modules() if isinstance(m, torch.nn.BatchNorm1d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
            norm.train()
        shortest = min(len(samples) for samples in speech)
        for start in range(0, len(speech), 8):
            self.embed([samples[:shortest] for samples in speech[start : start + 8]])
        self.network.eval()

    def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
        """``encode_batch`` of the padded recordings -> float32 [n, 192]."""
        import torch

        longest = max(len(samples) for samples in waveforms)
        batch = np.zeros((len(waveforms), longest), np.float32)
        for row, samples in zip(batch, waveforms, strict=True):
            row[: len(samples)] = samples
        lengths = torch.tensor([len(samples) / longest for samples in waveforms])
        with torch.inference_mode():
            found: Float32Array = self._classifier.encode_batch(torch.from_numpy(batch), lengths)[
                :, 0
            ].numpy()
        return found

    def on_threads(self, threads: int, waveforms: Sequence[Float32Array]) -> Call:
        """A call with so many torch threads."""

        def call() -> object:
            import torch

            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return self.embed(waveforms)
            finally:
                torch.set_num_threads(before)

        return call

    def export(self, folder: Path) -> None:
        """Writes it as a model folder of ours."""
        from voicevault.encoder.architectures import ModelConfig
        from voicevault.encoder.checkpoint import SpeakerModel, save_checkpoint
        from voicevault.encoder.ecapa import EcapaConfig
        from voicevault.encoder.fbank import SpeechBrainConfig
        from voicevault.encoder.importers.speechbrain import our_weights

        width = self.network.blocks[0].conv.conv.out_channels
        config = EcapaConfig(channels=width, aggregate=3 * width)
        model = SpeakerModel(ModelConfig(f"speechbrain-{width}", SpeechBrainConfig(), config))
        model.network.load_state_dict(our_weights(self.network.state_dict()), strict=False)
        save_checkpoint(model.eval(), folder)


class Bare:
    """The engine of a model without anything around it: its front-end, and its forward pass on ready features."""

    def __init__(self, folder: Path, precision: str, threads: int) -> None:
        from voicevault.encoder.checkpoint import load_checkpoint
        from voicevault.encoder.engine_graph import EcapaGraph
        from voicevault.encoder.engine_openvino import Compiled, Features
        from voicevault.encoder.variants import load_ranges

        model, identity = load_checkpoint(folder)
        graph = EcapaGraph(model.network, load_ranges(folder, identity, precision))
        self._features = Features(model, graph)
        self._whole = Compiled(graph.model, threads)
        self._each = Compiled(graph.model, 1)
        self._pool = ThreadPoolExecutor(threads)

    def front_end(self, waveforms: Sequence[Float32Array]) -> Call:
        """Of all recordings, side by side where there are several."""
        return self._spread(self._features, waveforms)

    def forward(self, waveforms: Sequence[Float32Array]) -> dict[str, Call]:
        """The ways in which the engine can take them: one at a time on all threads, or one on each thread."""
        ready: list[Any] = [self._features(samples)[1] for samples in waveforms]
        return {
            "all threads on each": lambda: [self._whole.infer(inputs) for inputs in ready],
            "one thread on each": self._spread(self._each.infer, ready),
        }

    def _spread(self, call: Callable[[Any], object], items: Sequence[Any]) -> Call:
        if len(items) == 1:
            return lambda: call(items[0])
        return lambda: list(self._pool.map(call, items))


class Clips:
    """Clips of speech, each from the next speaker."""

    def __init__(self, pipeline: EmbeddingPipeline, speakers: Sequence[Sequence[ManifestRow]]) -> None:
        self._pipeline, self._speakers, self._next = pipeline, speakers, 0

    def cut(self, seconds: float) -> Float32Array:
        from voicevault.audio.level import normalise

        rows = self._speakers[self._next % len(self._speakers)]
        turn = self._next // len(self._speakers) % len(rows)
        self._next += 1
        return normalise(speech_clip(self._pipeline, [*rows[turn:], *rows[:turn]], seconds))


def gpu_call(folder: Path, waveforms: Sequence[Float32Array]) -> dict[str, Call] | None:
    """The model on a GPU in bfloat16, by the GPU's name; None where there is none."""
    import torch

    from voicevault.encoder.encoder import ModelEncoder

    if not torch.cuda.is_available():
        return None
    encoder = ModelEncoder(folder, device="cuda", precision="bf16")
    return {torch.cuda.get_device_name(): lambda: encoder.embed(waveforms)}


def default_model(folder: Path, waveforms: Sequence[Float32Array]) -> dict[str, Call]:
    """The model of the options on one thread: by its engine, and in plain torch."""
    import torch

    from voicevault.encoder.checkpoint import load_checkpoint
    from voicevault.encoder.encoder import ModelEncoder
    from voicevault.encoder.engine import torch_threads
    from voicevault.encoder.engine_torch import TorchEngine

    plain = TorchEngine(load_checkpoint(folder)[0], torch.device("cpu"))

    def in_torch() -> object:
        with torch_threads(1):
            return plain.embed(waveforms)

    return {"engine": partial(ModelEncoder(folder, threads=1).embed, waveforms), "torch": in_torch}


def closest(peer: SpeechBrain, speech: Sequence[Float32Array]) -> float:
    """The largest cosine between two different recordings: what equality is to be seen against."""
    vectors = np.concatenate([peer.embed([samples]) for samples in speech])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return float((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)].max())


def cosines(a: Float32Array, b: Float32Array) -> Float32Array:
    """Row by row, float32 [n]."""
    products = (a.astype(np.float64) * b).sum(axis=1)
    found: Float32Array = (products / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).astype(
        np.float32
    )
    return found
