"""The TOML file of a training, strict: an unknown key, a wrong type or a value out of range is an error that names it."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from train.augment import AugmentConfig
from voicevault.encoder.architectures import FRONTENDS, kind
from voicevault.encoder.ecapa import EcapaConfig
from voicevault.encoder.frontend import FrontendConfig
from voicevault.encoder.spectra import MelPowerConfig, MfccConfig, SpectrogramConfig
from voicevault.errors import SettingsError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Crops = tuple[tuple[Annotated[int, Field(ge=2)], Annotated[float, Field(ge=0.25)]], ...]
"""Speakers a step, each giving two crops, and the seconds of a crop: a step draws one of these pairs."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class DataSection(_Section):
    """Which recordings, and how much of a batch comes from which collection (`source` column of the manifest)."""

    manifest: str = ""
    """Path below the corpus folder that the command line names: a manifest, a Kaldi folder, or a folder of speakers;
    empty is the corpus folder itself."""
    min_recordings: Annotated[int, Field(ge=1)] = 1
    """A speaker with fewer is an error, found before anything is decoded: more often than not it is a mistyped name."""
    weights: dict[str, Positive] = {}
    """Share of a batch per collection; those left out are not trained on. Empty: every collection by its speakers."""
    crops: Annotated[Crops, Field(min_length=1)] = ((64, 1.2), (48, 1.6), (32, 2.4))
    speed_share: Share = 0.3
    """Share of batches that are played 10 % slower or faster; such a copy counts as another speaker."""
    alike: tuple[Annotated[tuple[str, ...], Field(min_length=2)], ...] = ()
    """Collections that were recorded alike: each group of them counts as one for `loss.rivals`."""
    tract_share: Share = 0.0
    """Share of the other batches whose frequencies are 10 % lower or higher, at the same speed: a copy with another vocal tract,
    which counts as another speaker too (arXiv:2406.07421). For Kaldi's log-mel energies alone."""


class ValidationSection(_Section):
    """Who is kept out of the training: these speakers choose the model and tune its thresholds."""

    speakers: dict[str, Annotated[int, Field(ge=2)]] = {}
    """So many per collection. Empty: a share of each collection's."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    seed: Seed | None = None
    """Of the choice; without it, the training's. A second training keeps out whom the first one kept out."""
    pieces: Annotated[int, Field(ge=2)] = 3
    """A speaker with a single recording is heard in this many disjoint pieces of it."""
    recordings: Annotated[int, Field(ge=0)] = 0
    """So many recordings of the speakers that are trained on are kept out too, one of a speaker who has three or more: how many
    of them are given to the right speaker is the closed-set accuracy."""
    augmented: bool = False
    """The kept-out recordings are scored a second time, each in rooms, noise, babble, bands and codecs that it has for good (see
    `train.fixed_condition`), and the EER that is selected by is the mean of both."""
    select: Literal["eer", "accuracy"] = "eer"
    """What the best weights are best in: the EER of the speakers kept out, or the closed-set accuracy."""
    every_steps: Annotated[int, Field(ge=1)] = 500
    patience: Annotated[int, Field(ge=0)] = 0
    """Validations without a better one after which the training ends; 0 never ends it early."""
    refit: bool = False
    """Nobody is kept out: for a recipe that was chosen already. The weights of the last step are what is exported, and thresholds
    come from a training that kept speakers out (`train.tune_refit`)."""

    @model_validator(mode="after")
    def _can_select(self) -> Self:
        fields = type(self).model_fields.items()
        others = [key for key, field in fields if key != "refit" and getattr(self, key) != field.default]
        if self.refit and others:
            raise ValueError(
                f"refit = true keeps nobody out and measures nothing: leave out {', '.join(others)}"
            )
        if self.select == "accuracy" and not self.recordings:
            raise ValueError(
                'select = "accuracy" needs recordings to measure it on: set recordings = 500 or so'
            )
        return self


class LossSection(_Section):
    """See `train.losses`."""

    kind: Literal["aam", "am"] = "aam"
    margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    margin_share: Share = 0.35
    """The margin grows from 0 to `margin` over this share of the training."""
    scale: Positive = 30.0
    centres: Literal["random", "embeddings"] = "random"
    """With --init: where the centres of the classes start, at random or where that model hears the speakers (`train.centres`)."""
    rivals: Literal["all", "collection"] = "all"
    """Whose centres the own one must win against: all speakers', or those of its own collection. Between collections the
    channel is enough to tell speakers apart, and a model that is rewarded for it spends angles that the voices inside a
    collection then lack."""
    subcentres: Annotated[int, Field(ge=1, le=10)] = 1
    top_k: Annotated[int, Field(ge=0)] = 0
    top_penalty: Annotated[float, Field(ge=0.0, le=0.5)] = 0.06
    prototypical: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the angular prototypical term."""
    uniformity: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of a term that parts the speakers of each collection from each other (`train.losses.uniformity`), so that what all
    of them share, which is the channel more often than not, does not stand in their cosines."""


class LargeMarginSection(_Section):
    """The last part of the schedule: longer crops, a larger margin, no speed copies (arXiv:2010.11255)."""

    share: Share = 0.12
    crops: Annotated[Crops, Field(min_length=1)] = ((24, 3.2), (16, 4.5))
    margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.35
    learning_rate: Positive | None = None
    """Where the rate starts anew for this part, having come down to a hundredth before; without it, one decay spans all."""


class SpecAugmentSection(_Section):
    """Masks over frequency and time (arXiv:1904.08779), zero being the mean; widths in bins and frames."""

    bins: Annotated[int, Field(ge=0)] = 8
    frames: Annotated[int, Field(ge=0)] = 10


class OptimiserSection(_Section):
    """AdamW, linear warm-up and cosine decay. Shares are of the whole training."""

    steps: Annotated[int, Field(ge=1)]
    minutes: Positive | None = None
    """The schedule ends here if `steps` have not been reached by then; time of earlier, interrupted runs counts."""
    learning_rate: Positive = 1.5e-3
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """WavLM: each layer further from the output learns by this factor slower."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.02
    warmup_share: Share = 0.05
    clip_norm: Positive = 5.0
    average_decay: Share = 0.999
    """Decay per step of the exponential average of the weights; the average is what is exported."""
    bfloat16: bool = True
    """Autocast the network to bfloat16 where the GPU or processor computes in it; elsewhere float32 is faster, and used."""
    keep_norms: bool = True
    """With --init: batch-norm statistics stay those of the model that is trained further. Those of a few speakers and rooms
    would cost what it knows of others; a corpus as broad as its own needs no such care."""
    compile: bool = False
    """torch.compile the network: a minute or two for each crop length, then faster steps."""


TRAINED_FRONTENDS: Mapping[str, type[Any]] = {
    name: FRONTENDS[name][0] for name in ("kaldi", "mfcc", "spectrogram", "mel-power")
}
"""What ``frontend.type`` may be; without it, it is Kaldi's log-mel energies."""


def _typed(value: Any) -> Any:
    """The config of the front-end that the key ``type`` names."""
    if isinstance(value, tuple(TRAINED_FRONTENDS.values())):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"a table is needed, not {value!r}")
    settings = dict(value)
    name = settings.pop("type", "kaldi")
    if name not in list(TRAINED_FRONTENDS):
        raise ValueError(f"type must be one of {', '.join(TRAINED_FRONTENDS)}, not {name!r}")
    if unknown := settings.keys() - TRAINED_FRONTENDS[name].__dataclass_fields__.keys():
        raise ValueError(f"unknown keys for type {name!r}: {', '.join(sorted(unknown))}")
    try:
        return TypeAdapter(TRAINED_FRONTENDS[name]).validate_python(settings)
    except ValidationError as error:
        raise ValueError(_problems(error)) from error


Frontend = Annotated[
    FrontendConfig | MfccConfig | SpectrogramConfig | MelPowerConfig, BeforeValidator(_typed)
]


LATER = (
    ("data", "min_recordings"),
    ("validation", "recordings"),
    ("validation", "augmented"),
    ("validation", "select"),
    ("validation", "refit"),
    ("loss", "centres"),
    ("loss", "rivals"),
    ("loss", "uniformity"),
    ("data", "alike"),
    ("augment", "clean"),
    ("model", "local_means"),
)
"""Keys that came after the first trainings, and are written only where they are not the default: so a run that was begun without
them goes on."""


class FitConfig(_Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    seed: Seed = 0
    data: DataSection = DataSection()
    validation: ValidationSection = ValidationSection()
    optimiser: OptimiserSection
    loss: LossSection = LossSection()
    large_margin: LargeMarginSection = LargeMarginSection()
    spec_augment: SpecAugmentSection = SpecAugmentSection()
    augment: AugmentConfig = AugmentConfig()
    frontend: Frontend = FrontendConfig()
    model: EcapaConfig = EcapaConfig()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.frontend.bins != self.model.bins:
            raise ValueError(
                f"model.bins is {self.model.bins}, and the front-end gives {self.frontend.bins} features a frame:"
                f" set model.bins = {self.frontend.bins}"
            )
        if self.data.tract_share and not isinstance(self.frontend, FrontendConfig):
            raise ValueError(
                "data.tract_share warps Kaldi's log-mel energies: set it to 0 for another front-end"
            )
        return self

    @property
    def validation_seed(self) -> int:
        """Of what is kept out, and of the conditions that it is heard in."""
        return self.seed if self.validation.seed is None else self.validation.seed

    def as_json(self) -> dict[str, Any]:
        """Every setting, resolved, as plain JSON values. A front-end without a type is Kaldi's."""
        values: dict[str, Any] = TypeAdapter(FitConfig).dump_python(self, mode="json")
        for section, key in LATER:
            part = getattr(self, section)
            if getattr(part, key) == _default(type(part), key):
                del values[section][key]
        if not isinstance(self.frontend, FrontendConfig):
            values["frontend"] = {"type": kind(FRONTENDS, self.frontend), **values["frontend"]}
        return values

    def digest(self) -> str:
        """Hex SHA-256 of everything that a training's course depends on."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()


def _default(section: type[Any], key: str) -> Any:
    fields = section.model_fields if issubclass(section, BaseModel) else section.__dataclass_fields__
    return fields[key].default


def read_config(path: Path) -> FitConfig:
    """Raises SettingsError that lists what is wrong, by key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    try:
        return FitConfig.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_problems(error)}") from error


def _problems(error: ValidationError) -> str:
    """What is wrong, by key; the keys that are unknown first."""
    unknown, others = [], []
    for found in error.errors():
        place = ".".join(map(str, found["loc"]))
        if found["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            unknown.append(place)
        else:
            others.append(": ".join(filter(None, (place, found["msg"].removeprefix("Value error, ")))))
    return "; ".join([f"unknown keys: {', '.join(unknown)}"] * bool(unknown) + others)
