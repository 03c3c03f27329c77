"""A model as one ONNX file computes what the model computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from train.centring import centred
from train.onnx_export import AGREEMENT, export_onnx
from voicevault.audio import decode
from voicevault.encoder import load_encoder
from voicevault.encoder.checkpoint import load_checkpoint, save_checkpoint
from voicevault.quiet_onnxruntime import onnxruntime


@pytest.mark.parametrize("means", [0, 2])
def test_the_exported_file_embeds_as_the_model_does(
    means: int, tiny_model: Path, corpus: Path, tmp_path: Path
) -> None:
    path, model = tmp_path / "model.onnx", tiny_model
    if means:
        given, _ = load_checkpoint(tiny_model)
        near = np.random.default_rng(0).normal(0.0, 0.1, (means, given.config.architecture.embedding))
        model = tmp_path / "centred"
        save_checkpoint(centred(given, near.astype(np.float32)), model)
    assert export_onnx(model, path) >= AGREEMENT
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    waveform = decode(corpus / "alba" / "1.opus").samples
    theirs = session.run(["embedding"], {"waveform": waveform[None]})[0][0]
    (ours,) = load_encoder(model).embed([waveform])
    assert float(np.dot(ours, theirs)) > AGREEMENT
