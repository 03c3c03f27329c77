"""Several trainings of one architecture as one model: the mean of their weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from train.batches import Batches
from train.config import FitConfig
from train.data import BatchSampler
from train.split import read_corpus
from voicevault.encoder.checkpoint import SpeakerModel, load_checkpoint
from voicevault.encoder.onnx import OnnxConfig
from voicevault.errors import CheckpointError, RequestError

NORM_BATCHES = 60


def batch_norms(module: nn.Module) -> list[nn.BatchNorm1d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm1d)]


def measure_norms(
    model: SpeakerModel, batches: Batches, device: torch.device, last_part: bool = False
) -> None:
    """Measures the statistics of all batch norms anew: the plain mean over crops as the training draws them.

    Averaged weights have activations that no single training's statistics describe (Izmailov et al. 2018, Averaging Weights
    Leads to Wider Optima and Better Generalization, section 3.2).
    """
    norms = batch_norms(model)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        model.train()
        with torch.no_grad():
            for i in range(NORM_BATCHES):
                waveforms, *_ = batches.make(1_000_000_000 + i, last_part)
                model(waveforms.to(device))
    model.eval()


def average_models(folders: Sequence[Path], shares: Sequence[float]) -> SpeakerModel:
    """The mean of models' weights: a model soup (Wortsman et al. 2022, arXiv:2203.05482). Its batch norms are to be measured.

    The mean is better than each where the models come from one another or from one initial model, and useless elsewhere.

    Args:
        folders: Model folders, two or more, of one architecture and front-end.
        shares: Above 0, one for each; only their proportions count.

    Raises:
        RequestError: There are fewer than two, or the shares do not fit them.
        CheckpointError: A folder holds no model, an ONNX file, or one of another architecture than the first.
    """
    if len(folders) < 2 or len(shares) != len(folders) or not all(share > 0 for share in shares):
        raise RequestError("An average takes two models or more, and for each a share above 0.")
    models = [load_checkpoint(folder)[0] for folder in folders]
    first = models[0].config
    for folder, model in zip(folders, models, strict=True):
        if isinstance(model.config.architecture, OnnxConfig):
            raise CheckpointError(f"{folder} holds an ONNX file, whose weights cannot be averaged.")
        if model.config.identity() != first.identity():
            raise CheckpointError(
                f"{folder} is of another architecture or front-end than {folders[0]}; only weights of one can be averaged."
            )
    mean = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    with torch.no_grad():
        for name, value in mean.state_dict().items():
            if value.is_floating_point():
                parts = (share * state[name].double() for share, state in zip(shares, states, strict=True))
                value.copy_(sum(parts) / sum(shares))
    return mean


def average_on_corpus(
    folders: Sequence[Path],
    shares: Sequence[float],
    config: FitConfig,
    root: Path,
    cache_folder: Path,
    device: torch.device,
) -> SpeakerModel:
    """`average_models` with its batch norms measured on the recordings that a config trains on, augmented as it says.

    Raises:
        ManifestError: The corpus cannot be used as the config wants it.
    """
    model = average_models(folders, shares).to(device)
    corpus = read_corpus(config, root, cache_folder)
    sampler = BatchSampler(corpus.cache, corpus.training, config.data.weights, config.seed)
    measure_norms(model, Batches(config, sampler, root, device=device), device)
    return model
