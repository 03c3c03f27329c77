"""Settings: from the environment (``VOICEVAULT_...``), with what the caller passes in front of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic_settings
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from voicevault.errors import SettingsError

PREFIX = "VOICEVAULT_"
MOST_WORKERS = 1024
"""Threads and processes that may be asked for: a slip of the keyboard must not take the machine down."""


def default_home() -> Path:
    """``$XDG_DATA_HOME/voicevault``, or ``~/.local/share/voicevault`` where that is unset or relative.

    Raises:
        SettingsError: The user has no home.
    """
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".local" / "share") / "voicevault"
    except RuntimeError as error:  # neither HOME nor an entry in the list of users
        raise SettingsError(
            f"There is no folder for the data: your home is unknown. Set {PREFIX}HOME."
        ) from error


class Settings(BaseSettings):
    """Every setting; each is the environment variable of its name in capitals behind ``VOICEVAULT_``.

    An argument that is None counts as not given, so that the flags of a command line can be passed as they
    are. An empty text does not: it comes from a variable that was meant to hold something.

    Raises:
        SettingsError: A value cannot be used, or there is no such setting; the message names each.

    Attributes:
        home: Data folder: database, index files, models.
        database_url: ``sqlite:///PATH`` or ``postgresql://...``; None is voicevault.db in `home`.
        model: ``default``, the name of a folder in ``HOME/models``, or a path of a model folder.
        device: Where the model runs: ``cpu``, ``cuda``, ``cuda:1``. Unless it is the CPU, large indexes are copied to the first
            GPU that FAISS sees.
        precision: ``fp32``, ``int8`` on the CPU where the model has such a variant, ``bf16`` on a GPU; None is the
            model's own choice.
        threads: Most threads of one embedding; None is one per core, in the server one per core and inference.
        min_enroll_speech: Seconds of net speech that an enrollment needs.
        min_probe_speech: Seconds of net speech that a probe needs.
        max_bytes: Largest recording in bytes.
        max_seconds: Longest recording in seconds.
        max_channels: Most channels of a recording.
        approximate_recall: Share of hard probes whose nearest speaker a search must find, 0.5 to below 1. Lets collections
            from 1,000,000 speakers on be searched approximately, where that gains; None is exactly, always.
        workers: Decoding processes of bulk enrollment; None chooses by the cores.
        lock_timeout: Seconds to wait for another writer of the database.
        host, port: Where the server listens.
        allowed_hosts: Host names that the server answers to beside its own; separated by commas in the
            environment.
        concurrency: Inferences at a time in the server; None is one per core.
        queue: Requests that may wait for one.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    home: Path = Field(default_factory=default_home)
    database_url: str | None = Field(None, min_length=1)
    model: str = Field("default", min_length=1)
    device: str = Field("cpu", min_length=1)
    precision: Literal["fp32", "int8", "bf16"] | None = None
    threads: int | None = Field(None, ge=1, le=MOST_WORKERS)
    min_enroll_speech: float = Field(2.0, gt=0, allow_inf_nan=False)
    min_probe_speech: float = Field(0.5, gt=0, allow_inf_nan=False)
    max_bytes: int = Field(256 * 1024 * 1024, ge=1)
    max_seconds: float = Field(1800.0, gt=0, allow_inf_nan=False)
    max_channels: int = Field(16, ge=1)
    approximate_recall: float | None = Field(None, ge=0.5, lt=1)
    workers: int | None = Field(None, ge=1, le=MOST_WORKERS)
    lock_timeout: float = Field(10.0, gt=0, allow_inf_nan=False)
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8420, ge=0, le=65535)
    allowed_hosts: Annotated[list[str], NoDecode] = Field(default_factory=list)
    concurrency: int | None = Field(None, ge=1, le=MOST_WORKERS)
    queue: int = Field(64, ge=0)

    def __init__(self, **overrides: Any) -> None:
        try:
            super().__init__(**{name: value for name, value in overrides.items() if value is not None})
        except ValidationError as error:
            raise _explained(error) from error
        except pydantic_settings.SettingsError as error:
            raise SettingsError(f"The environment cannot be read: {error}.") from error

    @field_validator("home", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if value == "":  # pathlib takes it for the present folder
            raise ValueError("must name a folder")
        return value

    @field_validator("home", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError as error:
            raise ValueError(f"there is no home for {value.parts[0]}") from error

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'voicevault.db'}"

    @property
    def index_folder(self) -> Path:
        return self.home / "index"

    @property
    def models_folder(self) -> Path:
        return self.home / "models"

    def changed(self, **overrides: Any) -> Self:
        """These settings with some of them changed; the environment is not asked again."""
        kept = {name: value for name, value in dict(self).items() if value is not None}
        return type(self)(**{**kept, **{name: v for name, v in overrides.items() if v is not None}})

    def resolved(self) -> dict[str, object]:
        """All settings as plain JSON values, as they are in force; a password of the database is masked."""
        shown = self.model_dump(mode="json")
        shown["database_url"] = masked(self.resolved_database_url)
        return {**shown, "index_folder": str(self.index_folder), "models_folder": str(self.models_folder)}


def masked(url: str) -> str:
    """The URL with ``***`` for its password, wherever it stands."""
    url = re.sub(r"(://[^:@/?]*:).*(@)", r"\1***\2", url)
    return re.sub(r"((?:password|passfile|sslpassword)=)[^&]*", r"\1***", url)


def _explained(error: ValidationError) -> SettingsError:
    problems = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join(str(part) for part in detail["loc"]) or "settings"
        if detail["type"] == "extra_forbidden":
            problems.append(f"there is no setting {name}")
        else:
            problems.append(f"{name} (or {PREFIX}{name.upper()}): {detail['msg']}")
    return SettingsError("Change these settings: " + "; ".join(problems) + ".", problems=problems)
