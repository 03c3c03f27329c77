"""What a training starts from: random weights, an existing model, or where it was when it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train.config import FitConfig
from train.provenance import PROVENANCE_FILE
from voicevault.encoder.checkpoint import ModelConfig, SpeakerModel, load_checkpoint
from voicevault.encoder.frontend import FrontendConfig
from voicevault.encoder.lazy import read_identity
from voicevault.encoder.onnx import OnnxConfig
from voicevault.errors import CheckpointError, SettingsError


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """The model to train, and the model_id of the one that it was made from; None for random weights."""

    model: SpeakerModel
    init: str | None

    def facts(self) -> dict[str, Any]:
        """As JSON values, for `resume` to build the same model."""
        return {"init": self.init, "model": self.model.config.to_json()}


def begin(config: FitConfig, init: Path | None) -> Start:
    """A fresh model as the config describes it, or the one in the folder `init`, whose front-end and architecture it keeps.

    Raises:
        CheckpointError: `init` is no model that can be trained.
        SettingsError: The config describes another model than `init` is.
    """
    if init is None and config.loss.centres == "embeddings":
        raise SettingsError(
            'loss.centres = "embeddings" needs a model that hears the speakers: name one by --init, or set it to "random"'
        )
    if init is None:
        return Start(SpeakerModel(ModelConfig(config.name, config.frontend, config.model)), None)
    given, identity = load_checkpoint(init)
    frontend, architecture = given.config.frontend, given.config.architecture
    if isinstance(architecture, OnnxConfig):
        raise CheckpointError(
            f"{init} holds an ONNX file, which cannot be trained further; name another --init"
        )
    for section, described, found in (
        ("frontend", config.frontend, frontend),
        ("model", config.model, architecture),
    ):
        if section in config.model_fields_set and described != found:
            raise SettingsError(
                f"[{section}] of the config is not that of the model in {init} ({_difference(described, found)});"
                f" leave [{section}] out, since --init brings its own"
            )
    if config.data.tract_share and not isinstance(frontend, FrontendConfig):
        raise SettingsError(
            f"data.tract_share warps Kaldi's log-mel energies, and the model in {init} has another front-end: set it to 0"
        )
    return Start(_trainable(ModelConfig(config.name, frontend, architecture), given), identity)


def resume(config: FitConfig, facts: Mapping[str, Any], run: Path, init: Path | None) -> Start:
    """The start of a run that has a state: the same kind of model, whose weights are restored afterwards.

    Args:
        facts: Of the state.
        run: Its folder.
        init: What the command names now; None is whatever the run started from.

    Raises:
        CheckpointError: `init` is another model than the run started from.
    """
    if "model" in facts:
        started, values = facts["init"], ModelConfig.from_json(facts["model"])
    else:  # an older state: what stands beside it says so
        began = _noted(run)
        started = None if began is None else read_identity(began).model_id
        values = begin(config, None).model.config if began is None else load_checkpoint(began)[0].config
    if init is not None and (named := read_identity(init).model_id) != started:
        raise CheckpointError(
            f"{run} holds a training that started from {started or 'random weights'}, not from the model {named};"
            " leave --init out to go on with it, or name another --run folder"
        )
    return Start(_trainable(ModelConfig(config.name, values.frontend, values.architecture)), started)


def _trainable(config: ModelConfig, given: SpeakerModel | None = None) -> SpeakerModel:
    model = SpeakerModel(config, None if given is None else given.network)
    wavlm = getattr(model.network, "wavlm", None)
    if wavlm is not None:
        # Its convolutions are kept as they are, as in the recipes it comes from; the transformer recomputes what
        # it would have to remember.
        wavlm.feature_extractor._freeze_parameters()
        wavlm.activation_checkpointing_enable()
    return model


def _noted(run: Path) -> Path | None:
    try:
        init = json.loads((run / PROVENANCE_FILE).read_text(encoding="utf-8"))["init"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{run / PROVENANCE_FILE} does not say what the training started from: {error}"
        ) from error
    return None if init is None else Path(init)


def _difference(described: Any, found: Any) -> str:
    if type(described) is not type(found):
        return f"which has a {type(found).__name__}"
    ours, theirs = asdict(described), asdict(found)
    return ", ".join(f"{key} {ours[key]} against {theirs[key]}" for key in ours if ours[key] != theirs[key])
