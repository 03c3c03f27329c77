"""Post-training quantisation: the ranges that the inputs of a network's convolutions have on speech, for 8-bit arithmetic.

The scales that follow are fixed: scales taken from the data of the moment would depend on what else is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from voicevault.encoder.checkpoint import load_checkpoint
from voicevault.encoder.ecapa import EcapaTdnn
from voicevault.encoder.encoder import ModelEncoder
from voicevault.encoder.variants import FP32, INT8, save_ranges
from voicevault.errors import CheckpointError, RequestError, SettingsError
from voicevault.types import SAMPLE_RATE, Float32Array

ENOUGH = 8
"""Recordings below which ranges would be an accident."""
LONGEST = 20 * SAMPLE_RATE
"""Samples of a recording that are listened to."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an int8 variant was made from, and how far it is from the float model on the same recordings.

    Attributes:
        recordings, seconds: Speech that the ranges were measured on.
        cosine_mean, cosine_min: Between the embeddings in float32 and in int8.
    """

    recordings: int
    seconds: float
    cosine_mean: float
    cosine_min: float


def quantize(folder: Path, speech: Sequence[Float32Array], *, default: bool = False) -> Calibration:
    """Makes the int8 variant of a model folder, or makes it anew; the float weights and the model_id stay as they are.

    Embeddings of the two precisions may meet in one collection, so measure what that costs on trials of your own before
    it becomes the default: ``train evaluate --precision int8``.

    Args:
        speech: float32 mono 16 kHz recordings, cut to the speech and scaled as `embedding.EmbeddingPipeline` does.
        default: Whether the model computes in int8 from now on where nobody chooses.

    Raises:
        CheckpointError: The folder is no model's, or its network is not an ECAPA-TDNN.
        RequestError: There are too few recordings.
        SettingsError: This processor cannot compute in int8.
    """
    model, model_id = load_checkpoint(folder)
    if not isinstance(model.network, EcapaTdnn):
        raise CheckpointError(
            f"The model in {folder} is no ECAPA-TDNN, the one network that runs in int8 here."
        )
    speech = [samples[:LONGEST] for samples in speech if len(samples) >= model.minimum_samples]
    if len(speech) < ENOUGH:
        raise RequestError(
            f"{len(speech)} recordings with speech are too few to calibrate on. Give {ENOUGH} at least, better some hundred.",
            found=len(speech),
            needed=ENOUGH,
        )
    from voicevault.encoder.engine_openvino import observe, saturates

    if saturates():
        raise SettingsError(
            "This processor has no exact 8-bit arithmetic (VNNI). Quantize on one that has, where it is to run, and copy the"
            " folder.",
            precision=INT8,
        )
    ranges = observe(model, speech)
    facts = Calibration(len(speech), round(sum(map(len, speech)) / SAMPLE_RATE, 1), 0.0, 0.0)
    save_ranges(folder, model_id, ranges, asdict(facts), default=default)
    exact, rounded = (ModelEncoder(folder, precision=precision).embed(speech) for precision in (FP32, INT8))
    cosines = np.sum(exact * rounded, axis=1, dtype=np.float64)
    facts = Calibration(
        facts.recordings, facts.seconds, round(float(cosines.mean()), 5), round(float(cosines.min()), 5)
    )
    save_ranges(folder, model_id, ranges, asdict(facts), default=default)
    return facts
