"""A model as one ONNX file computes what the model computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.onnx_export import AGREEMENT, export_onnx
from voicevault.audio import decode
from voicevault.encoder import load_encoder
from voicevault.quiet_onnxruntime import onnxruntime


def test_the_exported_file_embeds_as_the_model_does(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert export_onnx(tiny_model, path) >= AGREEMENT
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    waveform = decode(corpus / "alba" / "1.opus").samples
    theirs = session.run(["embedding"], {"waveform": waveform[None]})[0][0]
    (ours,) = load_encoder(tiny_model).embed([waveform])
    assert float(np.dot(ours, theirs)) > AGREEMENT
