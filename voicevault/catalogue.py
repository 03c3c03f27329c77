"""The models that a vault answers with: the one that it was opened with, and those that its other collections are bound to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from voicevault.encoder.store import ModelStore
from voicevault.errors import CheckpointError, ModelExistsError, ModelMismatchError, VoicevaultError
from voicevault.scoring.policy import Policy
from voicevault.settings import Settings
from voicevault.types import Encoder

if TYPE_CHECKING:
    from voicevault.embedding import EmbeddingPipeline

log = logging.getLogger(__name__)


class Model:
    """A model that answers: its encoder, its thresholds, and the way from a recording to its embeddings. Thread-safe."""

    def __init__(self, folder: Path, encoder: Encoder, settings: Settings) -> None:
        self.folder, self.encoder = folder, encoder
        table = folder / "policy.json"
        self.policy = Policy.load(table, encoder.model_id) if table.is_file() else None
        self._settings = settings
        self._pipeline: EmbeddingPipeline | None = None
        self._lock = Lock()

    @property
    def model_id(self) -> str:
        return self.encoder.model_id

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def pipeline(self) -> EmbeddingPipeline:
        """With the limits of the settings; made when it is first asked for."""
        with self._lock:
            if self._pipeline is None:
                from voicevault.audio import AudioLimits
                from voicevault.embedding import EmbeddingPipeline

                chosen = self._settings
                limits = AudioLimits(
                    max_bytes=chosen.max_bytes,
                    max_seconds=chosen.max_seconds,
                    max_channels=chosen.max_channels,
                )
                self._pipeline = EmbeddingPipeline(self.encoder, limits=limits)
            return self._pipeline


class Catalogue:
    """Models by identity; each is opened when it is first needed. Thread-safe.

    Args:
        default: Folder of the model for new collections.
        store: Where the others are looked for.
        open_model: A folder to a `Model`.

    Raises:
        CheckpointError: The default folder is no model's.
    """

    def __init__(self, default: Path, store: ModelStore, open_model: Callable[[Path], Model]) -> None:
        self._store, self._open = store, open_model
        self.default = open_model(default)
        self._models = {self.default.model_id: self.default}
        self._lock = Lock()

    def of(self, model_id: str, collection: str) -> Model:
        """The model that a collection is bound to. Raises ModelMismatchError where it is not there."""
        if (known := self._models.get(model_id)) is not None:
            return known
        if (found := self._store.find(model_id)) is None:
            raise ModelMismatchError(
                f"The collection {collection!r} belongs to model {model_id}, which is neither the one in use"
                f" ({self.default.name!r}, {self.default.model_id}) nor among those that were imported. Import that model"
                " again, or create a collection for this one.",
                collection=collection,
                collection_model=model_id,
                model=self.default.model_id,
            )
        return self._opened(found.folder, model_id)

    def named(self, name: str | None) -> Model:
        """By the name of its folder or its own, or by the start of its model_id; None is the default.

        Raises:
            ModelNotFoundError: There is none.
            CheckpointError: It cannot be used.
        """
        if (
            name is None
            or name == self.default.name
            or (len(name) >= 8 and self.default.model_id.startswith(name))
        ):
            return self.default
        found = self._store.get(name)
        if found.identity is None:
            raise CheckpointError(str(found.problem))
        return self._opened(found.folder, found.identity.model_id)

    def models(self) -> list[Model]:
        """Every usable model once, the default first."""
        found = {self.default.model_id: self.default}
        for stored in self._store.models():
            if stored.identity is None or stored.identity.model_id in found:
                continue
            try:
                found[stored.identity.model_id] = self._opened(stored.folder, stored.identity.model_id)
            except VoicevaultError as error:
                log.warning("model %s cannot be used: %s", stored.folder, error)
        return list(found.values())

    def keep_default(self) -> None:
        """Sees to it that the default model has a copy in the store, for when another release brings another one."""
        try:
            self._store.keep(self.default.folder)
        except (OSError, ModelExistsError) as error:
            log.warning("model %s cannot be kept in %s: %s", self.default.folder, self._store.folder, error)

    def _opened(self, folder: Path, model_id: str) -> Model:
        with self._lock:
            if model_id not in self._models:
                self._models[model_id] = self._open(folder)
            return self._models[model_id]
