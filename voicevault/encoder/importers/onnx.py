"""Speaker models that come as one ONNX file which takes filter bank energies, as WeSpeaker and 3D-Speaker export them.

The graph does not say which energies: that is the front-end's config, which the toolkits' presets spell out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from voicevault.encoder.architectures import ModelConfig
from voicevault.encoder.checkpoint import SpeakerModel
from voicevault.encoder.config import parse, stored
from voicevault.encoder.frontend import FrontendConfig
from voicevault.encoder.onnx import OnnxConfig, OnnxNetwork, open_session
from voicevault.errors import CheckpointError, RequestError

PRESETS: Mapping[str, FrontendConfig] = {
    "wespeaker": FrontendConfig(window="hamming", high_hz=8000.0),
    "3d-speaker": FrontendConfig(window="povey", high_hz=8000.0, scale=1.0),
}
"""Front-ends by toolkit, as their own code sets them up for inference."""
PROBED_FRAMES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def preset(name: str | None, changes: Mapping[str, Any]) -> FrontendConfig:
    """The front-end of a toolkit (None: Kaldi's as the default model has it) with some settings changed.

    Raises:
        RequestError: There is no such preset or setting, or a value is out of range.
    """
    if name is not None and name not in PRESETS:
        raise RequestError(
            f"There is no front-end {name!r}; choose {', '.join(PRESETS)}.", known=sorted(PRESETS)
        )
    base = PRESETS[name] if name is not None else FrontendConfig()
    try:
        return parse(FrontendConfig, {**stored(base), **changes})
    except ValueError as error:
        raise RequestError(f"The front-end cannot be set up so: {error}.") from error


def read_onnx(path: Path, name: str, frontend: FrontendConfig) -> SpeakerModel:
    """The model of such a file, in evaluation mode.

    Raises:
        CheckpointError: The file is no graph that ONNX Runtime runs, or does not take [batch, frames, bins] of any number of
            frames and give [batch, embedding].
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    session = open_session(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = list(inputs[0].shape) if inputs else []
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(shape) != 3:
        described = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise CheckpointError(
            f"{path} takes {described or 'nothing'}; a model with one input float32 [batch, frames, bins] is needed"
        )
    if isinstance(shape[1], int):
        raise CheckpointError(
            f"{path} takes {shape[1]} frames, no more and no less; export it with a free number of frames"
        )
    if isinstance(shape[2], int) and shape[2] != frontend.bins:
        raise CheckpointError(
            f"{path} takes {shape[2]} mel bins and the front-end gives {frontend.bins}; set bins={shape[2]}"
        )
    frames, embedding = _probe(path, session, frontend.bins)
    architecture = OnnxConfig(
        bins=frontend.bins,
        embedding=embedding,
        input=inputs[0].name,
        output=outputs[0].name,
        frames=frames,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    network = OnnxNetwork(architecture)
    network.open(path)
    return SpeakerModel(ModelConfig(name, frontend, architecture), network).eval()


def _probe(path: Path, session: Any, bins: int) -> tuple[int, int]:
    """The least number of frames that it takes, and the dimensions of what it gives."""
    rng = np.random.default_rng(0)
    reason = "its output is not finite"
    for frames in PROBED_FRAMES:
        try:
            shapes = []
            for count in (frames, frames + 7):
                feed = {session.get_inputs()[0].name: rng.normal(size=(1, count, bins)).astype(np.float32)}
                out = np.asarray(session.run([session.get_outputs()[0].name], feed)[0])
                shapes.append((str(out.dtype), *out.shape))
        except Exception as error:  # onnxruntime's exceptions share no base
            reason = str(error).strip().splitlines()[0]
            continue
        if (
            shapes[0] != shapes[1]
            or out.size != out.shape[-1]
            or not 1 < out.size <= 4096
            or out.dtype != np.float32
        ):
            raise CheckpointError(
                f"{path} gives {out.dtype} {list(out.shape)} for one recording; [batch, embedding] in float32 is needed"
            )
        if np.isfinite(out).all():
            return frames, out.size
    raise CheckpointError(
        f"{path} embeds none of {PROBED_FRAMES[0]} to {PROBED_FRAMES[-1]} frames of noise: {reason}"
    )
