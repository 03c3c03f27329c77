"""A model folder as one ONNX file, from waveform to embedding, for runtimes without Python."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voicevault.encoder.checkpoint import load_checkpoint
from voicevault.errors import CheckpointError
from voicevault.types import SAMPLE_RATE

AGREEMENT = 0.9999
"""Least cosine between the model's and the exported file's embedding of one waveform."""


class _WaveformToEmbedding(nn.Module):
    """float32 [1, n] -> unit float32 [1, d]; one recording, so that nothing has to be masked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveform: Tensor) -> Tensor:
        return F.normalize(self.model(waveform), dim=1)


def export_onnx(folder: Path, path: Path) -> float:
    """Writes `path` and returns the least cosine to the model over waveforms of 1 to 6 s.

    Raises:
        CheckpointError: The folder is no model, or the exported file computes something else; then nothing is left.
    """
    from voicevault.quiet_onnxruntime import onnxruntime

    model, _ = load_checkpoint(folder)
    module = _WaveformToEmbedding(model).eval()
    example = torch.randn(1, 3 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    samples = torch.export.Dim("samples", min=model.minimum_samples + 1, max=600 * SAMPLE_RATE)
    # It warns of packages that are not there and not needed, and of its own use of torch.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(
            module, (example,), path, input_names=["waveform"], output_names=["embedding"],
            dynamic_shapes={"waveform": {1: samples}}, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    least = 1.0
    for seconds in (1.0, 2.5, 6.0):
        waveform = (
            torch.randn(1, int(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(1)) * 0.1
        )
        with torch.inference_mode():
            ours = module(waveform)[0].numpy()
        theirs = session.run(["embedding"], {"waveform": waveform.numpy()})[0][0]
        least = min(least, float(np.dot(ours, theirs)))
    if not least >= AGREEMENT:
        path.unlink()
        raise CheckpointError(f"the exported network differs from the model: cosine {least:.6f}")
    return least
