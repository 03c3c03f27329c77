"""What can be said of a model, and promised, before torch is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import voicevault
from voicevault.errors import CheckpointError
from voicevault.types import Encoder, Float32Array


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model by its name, the hash of what it computes, and the dimensions of its embeddings."""

    name: str
    model_id: str
    dim: int


def default_model_dir() -> Path:
    """The folder of the model that comes with the package."""
    return Path(voicevault.__file__).parent / "models" / "default"


def load_encoder(
    folder: Path, *, threads: int | None = None, device: str = "cpu", precision: str | None = None
) -> Encoder:
    """The model of a folder, loaded. See `voicevault.encoder.encoder.ModelEncoder`."""
    from voicevault.encoder.encoder import ModelEncoder

    return ModelEncoder(folder, threads=threads, device=device, precision=precision)


def read_identity(folder: Path) -> ModelIdentity:
    """Name, model_id and dimensions from ``config.json``; loading the model checks that the weights are its.

    Raises:
        CheckpointError: There is no such file, or it is no model's.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return ModelIdentity(
            str(config["name"]), str(config["model_id"]), int(config["architecture"]["embedding"])
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no config.json; is it a model folder?") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not say which model it is ({type(error).__name__}: {error}); export it again."
        ) from error


class LazyEncoder:
    """A model that loads when it is first asked for an embedding. Thread-safe; implements `types.Encoder`."""

    def __init__(
        self, folder: Path, *, threads: int | None = None, device: str = "cpu", precision: str | None = None
    ) -> None:
        self._folder, self._threads, self._device, self._precision = folder, threads, device, precision
        self._identity = read_identity(folder)
        self._encoder: Encoder | None = None
        self._lock = Lock()

    @property
    def name(self) -> str:
        return self._identity.name

    @property
    def model_id(self) -> str:
        return self._identity.model_id

    @property
    def dim(self) -> int:
        return self._identity.dim

    def load(self) -> Encoder:
        """The model itself. Raises CheckpointError where the folder does not hold what it says."""
        with self._lock:
            if self._encoder is None:
                encoder = load_encoder(
                    self._folder, threads=self._threads, device=self._device, precision=self._precision
                )
                if (encoder.model_id, encoder.dim) != (self.model_id, self.dim):
                    raise CheckpointError(f"{self._folder} was changed while it was in use; start again.")
                self._encoder = encoder
            return self._encoder

    def embed(self, waveforms: Sequence[Float32Array]) -> Float32Array:
        """See `types.Encoder`; loads the model on the first call."""
        return self.load().embed(waveforms)

    def one_thread_per_call(self) -> AbstractContextManager[None]:
        """See `types.Encoder`; loads the model."""
        return self.load().one_thread_per_call()
