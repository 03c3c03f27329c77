"""The trained whole: a speaker model, the class centres and the prototypical term, as one module with one loss."""

from __future__ import annotations

from functools import cache

import torch
import torchaudio
from torch import Tensor, nn

from train.batches import TRACTS
from train.config import FitConfig
from train.losses import AngularPrototypical, MarginSoftmax, uniformity
from voicevault.encoder.checkpoint import SpeakerModel
from voicevault.encoder.frontend import FrontendConfig, LogMel
from voicevault.encoder.quiet_openvino import openvino


@cache
def computes_bfloat16(device: str) -> bool:
    """Whether a ``cpu`` or ``cuda`` device multiplies in bfloat16; one that does not is slower in it than in float32."""
    if device == "cuda":
        able: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return able
    abilities: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in abilities


class Objective(nn.Module):
    """Waveforms and labels to a loss. One forward call, so that it can be wrapped for several processes."""

    def __init__(
        self, config: FitConfig, model: SpeakerModel, classes: int, collections: Tensor | None = None
    ) -> None:
        super().__init__()
        loss = config.loss
        self.config, self.model = config, model
        self.softmax = MarginSoftmax(
            model.config.architecture.embedding, classes, loss.kind, loss.scale, loss.subcentres, loss.top_k,
            loss.top_penalty, collections if loss.rivals == "collection" else None,
        )  # fmt: skip
        self.prototypical = AngularPrototypical()
        self.collections: Tensor | None
        self.register_buffer("collections", collections, persistent=False)
        # The front-ends of the copies have no weights, so nothing of theirs is in a checkpoint.
        frontend = model.config.frontend
        self.warped = nn.ModuleDict(
            {_key(t): LogMel(frontend, t) for t in TRACTS if config.data.tract_share}
            if isinstance(frontend, FrontendConfig)
            else {}
        )
        # Frames are masked where the front-end gives frames; a network that takes samples has none.
        masks = config.spec_augment if getattr(model.config.frontend, "bins", None) else None
        self.mask_bins = torchaudio.transforms.FrequencyMasking(masks.bins, iid_masks=True) if masks else None
        self.mask_frames = torchaudio.transforms.TimeMasking(masks.frames, iid_masks=True) if masks else None
        # In a tuple, so that it is not registered as a module beside `model.network`, whose weights it runs on.
        self._run = (
            torch.compile(model.network, dynamic=False) if config.optimiser.compile else model.network,
        )

    def frontend(self, tract: float) -> nn.Module:
        """The model's own, or that of a copy with another vocal tract."""
        own: nn.Module = self.model.frontend
        return own if tract == 1.0 else self.warped[_key(tract)]

    def forward(
        self, waveforms: Tensor, labels: Tensor, margin: float, tract: float = 1.0
    ) -> dict[str, Tensor]:
        """Waveforms float32 [2 n, samples], of which rows i and n + i are one speaker -> scalars.

        Args:
            tract: Factor on the frequencies: 1, or one of `TRACTS`.

        Returns:
            ``loss`` to descend on; ``softmax``, ``prototypical`` and ``accuracy`` to look at.
        """
        with torch.no_grad():
            features = self.frontend(tract)(waveforms)[0]
            if self.mask_bins is not None and self.mask_frames is not None:
                features = self.mask_frames(self.mask_bins(features[:, None]))[:, 0]
        device = waveforms.device.type
        half = self.config.optimiser.bfloat16 and computes_bfloat16(device)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            embeddings = self._run[0](features)
        softmax, accuracy = self.softmax(embeddings, labels, margin)
        support, query = embeddings.chunk(2)
        prototypical = self.prototypical(support, query)
        loss = softmax + self.config.loss.prototypical * prototypical
        nearness = torch.zeros(())
        if self.config.loss.uniformity:
            assert self.collections is not None
            nearness = uniformity(embeddings, labels, self.collections[labels])
            loss = loss + self.config.loss.uniformity * nearness
        return {
            "loss": loss,
            "softmax": softmax.detach(),
            "prototypical": prototypical.detach(),
            "uniformity": nearness.detach(),
            "accuracy": accuracy,
        }


def _key(tract: float) -> str:
    """A module's name has no dots."""
    return f"tract{round(100 * tract)}"


def parameter_groups(objective: Objective, learning_rate: float) -> list[dict[str, object]]:
    """AdamW's groups: vectors without weight decay, and slower layers with distance from the output (``scale``)."""
    o = objective.config.optimiser
    depth = layer_scales(objective.model, o.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            scale = depth.get(name.removeprefix("model.network."), 1.0)
            decay = o.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((scale, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr": learning_rate * scale, "scale": scale}
        for (scale, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def layer_scales(model: SpeakerModel, decay: float) -> dict[str, float]:
    """Parameter name of a WavLM network -> its share of the learning rate; empty for other networks.

    The transformer's last layer learns by `decay`, the one before by its square, and so on.
    """
    encoder = getattr(getattr(model.network, "wavlm", None), "encoder", None)
    if encoder is None:
        return {}
    layers = len(encoder.layers)
    scales = {}
    for name, _ in model.network.named_parameters():
        if name.startswith("wavlm."):
            parts = name.split(".")
            number = int(parts[3]) if name.startswith("wavlm.encoder.layers.") else -1
            scales[name] = decay ** (layers - number)
    return scales
