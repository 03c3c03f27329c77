"""Which front-ends and networks a config.json may name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from voicevault.encoder.config import parse, stored
from voicevault.encoder.ecapa import EcapaConfig, EcapaTdnn
from voicevault.encoder.fbank import SpeechBrainConfig, SpeechBrainFbank
from voicevault.encoder.frontend import FrontendConfig, LogMel
from voicevault.encoder.onnx import OnnxConfig, OnnxNetwork
from voicevault.encoder.spectra import (
    MelPower,
    MelPowerConfig,
    Mfcc,
    MfccConfig,
    Spectrogram,
    SpectrogramConfig,
)
from voicevault.encoder.waveform import RawWaveform, WaveformConfig
from voicevault.encoder.wavlm import WavLMConfig, WavLMXVector

AnyFrontend = (
    FrontendConfig | MfccConfig | SpectrogramConfig | MelPowerConfig | SpeechBrainConfig | WaveformConfig
)
AnyArchitecture = EcapaConfig | WavLMConfig | OnnxConfig

FRONTENDS: Mapping[str, tuple[type[Any], type[nn.Module]]] = {
    "kaldi": (FrontendConfig, LogMel),
    "mfcc": (MfccConfig, Mfcc),
    "spectrogram": (SpectrogramConfig, Spectrogram),
    "mel-power": (MelPowerConfig, MelPower),
    "speechbrain": (SpeechBrainConfig, SpeechBrainFbank),
    "waveform": (WaveformConfig, RawWaveform),
}
ARCHITECTURES: Mapping[str, tuple[type[Any], type[nn.Module]]] = {
    "ecapa-tdnn": (EcapaConfig, EcapaTdnn),
    "wavlm-xvector": (WavLMConfig, WavLMXVector),
    "onnx": (OnnxConfig, OnnxNetwork),
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that, with the weights, says what a model computes.

    Raises:
        ValueError: The network does not take what the front-end gives.
    """

    name: str
    frontend: AnyFrontend
    architecture: AnyArchitecture

    def __post_init__(self) -> None:
        given, taken = getattr(self.frontend, "bins", None), getattr(self.architecture, "bins", None)
        if given != taken:
            wanted, got = ("samples" if bins is None else f"{bins} bins" for bins in (taken, given))
            raise ValueError(f"the network takes {wanted}, the front-end gives {got}")

    def to_json(self) -> dict[str, Any]:
        """``name``, ``frontend`` and ``architecture`` as config.json holds them."""
        return {
            "name": self.name,
            "frontend": {"type": kind(FRONTENDS, self.frontend), **stored(self.frontend)},
            "architecture": {"type": kind(ARCHITECTURES, self.architecture), **stored(self.architecture)},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Strict. A front-end without a type is Kaldi's, as the first release wrote it.

        Raises:
            ValueError: A key is missing or unknown, or a value cannot be used; names each.
        """
        if not isinstance(name := values.get("name"), str) or not name:
            raise ValueError("name is missing")
        return cls(
            name,
            _typed("frontend", FRONTENDS, values, "kaldi"),
            _typed("architecture", ARCHITECTURES, values, None),
        )

    def identity(self) -> dict[str, Any]:
        """What the model_id covers, beside the weights. The names are those of the first release where it had them."""
        frontend, architecture = stored(self.frontend), stored(self.architecture)
        if not isinstance(self.frontend, FrontendConfig):
            frontend = {"type": kind(FRONTENDS, self.frontend), **frontend}
        name = kind(ARCHITECTURES, self.architecture)
        return {"frontend": frontend, "ecapa" if name == "ecapa-tdnn" else name: architecture}


def kind(
    table: Mapping[str, tuple[type[Any], type[nn.Module]]], config: AnyFrontend | AnyArchitecture
) -> str:
    """The name that the type of `config` has in `table`."""
    return next(name for name, (cls, _) in table.items() if isinstance(config, cls))


def build_frontend(config: AnyFrontend) -> nn.Module:
    return FRONTENDS[kind(FRONTENDS, config)][1](config)


def build_network(config: AnyArchitecture) -> nn.Module:
    return ARCHITECTURES[kind(ARCHITECTURES, config)][1](config)


def _typed(
    section: str,
    table: Mapping[str, tuple[type[Any], type[nn.Module]]],
    values: Mapping[str, Any],
    default: str | None,
) -> Any:
    if not isinstance(found := values.get(section), dict):
        raise ValueError(f"{section} is missing")
    settings = dict(found)
    name = settings.pop("type", default)
    if name not in table:
        raise ValueError(f"{section}.type is {name!r}; this release knows {', '.join(table)}")
    try:
        return parse(table[name][0], settings)
    except ValueError as error:
        raise ValueError(f"{section}: {error}") from error
