"""The TOML file of a training, strict: an unknown key, a wrong type or a value out of range is an error that names it."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from train.augment import AugmentConfig
from voicevault.encoder.ecapa import EcapaConfig
from voicevault.encoder.frontend import FrontendConfig
from voicevault.errors import SettingsError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(_Section):
    """Which recordings, and how much of a batch comes from which collection (`source` column of the manifest)."""

    manifest: str
    """Path of the manifest below the corpus folder that the command line names."""
    weights: dict[str, Positive]
    crops: tuple[tuple[Annotated[int, Field(ge=4)], Positive], ...] = ((64, 1.2), (48, 1.6), (32, 2.4))
    """Speakers a step, each giving two crops, and the seconds of a crop: a step draws one of these pairs."""
    speed_share: Share = 0.3
    """Share of batches that are played 10 % slower or faster; such a copy counts as another speaker."""


class ValidationSection(_Section):
    """Speakers that are kept out of the training, per collection: they choose the model and tune its thresholds."""

    speakers: dict[str, Annotated[int, Field(ge=2)]]
    pieces: int = Field(3, ge=2)
    """A speaker with a single recording is heard in this many disjoint pieces of it."""
    every_steps: int = Field(500, ge=1)


class LargeMarginSection(_Section):
    """The last part of the schedule: longer crops, a larger margin, no speed copies (arXiv:2010.11255)."""

    share: Share = 0.12
    crops: tuple[tuple[Annotated[int, Field(ge=4)], Positive], ...] = ((24, 3.2), (16, 4.5))
    margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.35


class SpecAugmentSection(_Section):
    """Masks over frequency and time (arXiv:1904.08779), zero being the mean; widths in bins and frames."""

    bins: Annotated[int, Field(ge=0)] = 8
    frames: Annotated[int, Field(ge=0)] = 10


class OptimiserSection(_Section):
    """AdamW, linear warm-up and cosine decay. Shares are of the whole training."""

    steps: int = Field(ge=1)
    minutes: Positive | None = None
    """The schedule ends here if `steps` have not been reached by then; time of earlier, interrupted runs counts."""
    learning_rate: Positive = 1.5e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.02
    warmup_share: Share = 0.05
    clip_norm: Positive = 5.0
    average_decay: Share = 0.999
    """Decay per step of the exponential average of the weights; the average is what is exported."""
    margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    margin_share: Share = 0.35
    """The margin grows from 0 to `margin` over this share."""
    scale: Positive = 30.0
    prototypical: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the angular prototypical term."""
    bfloat16: bool = True
    """Autocast the network where the processor computes bfloat16 faster than float32."""
    compile: bool = False
    """torch.compile the network: a minute or two for each crop length, then faster steps."""


class FitConfig(_Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    data: DataSection
    validation: ValidationSection
    optimiser: OptimiserSection
    large_margin: LargeMarginSection = LargeMarginSection()
    spec_augment: SpecAugmentSection = SpecAugmentSection()
    augment: AugmentConfig = AugmentConfig()
    frontend: FrontendConfig = FrontendConfig()
    model: EcapaConfig = EcapaConfig()

    def digest(self) -> str:
        """Hex SHA-256 of everything that a training's course depends on, its length left out."""
        values = TypeAdapter(FitConfig).dump_python(self, mode="json")
        values["model"], values["augment"] = asdict(self.model), asdict(self.augment)
        return hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()


def read_config(path: Path) -> FitConfig:
    """Raises SettingsError that lists what is wrong, by key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    unknown = [
        f"{section}.{key}"
        for section, cls in (("augment", AugmentConfig), ("frontend", FrontendConfig), ("model", EcapaConfig))
        for key in values.get(section, {})
        if key not in cls.__dataclass_fields__
    ]
    if unknown:
        raise SettingsError(f"{path}: unknown keys: {', '.join(unknown)}")
    try:
        return FitConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"{path}: {problems}") from error
