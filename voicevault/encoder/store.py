"""The local model store: ``HOME/models``, one folder per model, each loadable by itself.

Beside config.json and the weights, ``source.json`` tells where a model came from: the folder or the hub's repository and
commit, and the SHA-256 of each file that was read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from voicevault import __version__
from voicevault.encoder.lazy import ModelIdentity, default_model_dir, read_identity
from voicevault.errors import (
    CheckpointError,
    ModelExistsError,
    ModelNotFoundError,
    RequestError,
    SettingsError,
)

SOURCE_FILE = "source.json"
SHIPPED = "default"
"""Name of the model that comes with the package."""
STALE = 24 * 3600
"""Seconds after which an unfinished import is taken for dead."""
OWN_FILES = (
    "config.json",
    "model.safetensors",
    "model.onnx",
    "policy.json",
    "cohort.safetensors",
    "MODEL_CARD.md",
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model came from.

    Attributes:
        kind: ``voicevault``, ``speechbrain``, ``transformers`` or ``onnx``: what the files were.
        origin: The folder or file, or the hub's repository.
        revision: The hub's commit.
        files: Hex SHA-256 by name of each file that was read.
        created: When, ISO 8601 in UTC.
    """

    kind: str
    origin: str
    revision: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A folder of the store, or the model that comes with the package; `problem` says why it cannot be used.

    Attributes:
        name: Of the folder; the model's own is in `identity`.
        config: config.json as it stands.
    """

    name: str
    folder: Path
    identity: ModelIdentity | None
    source: Source | None
    config: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def architecture(self) -> str | None:
        """Type of the network, as config.json calls it."""
        found = self.config.get("architecture")
        return str(found.get("type")) if isinstance(found, dict) else None

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())


class ModelStore:
    """The models of one home folder, and the one that comes with the package. Reading one does not load torch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def models(self) -> list[StoredModel]:
        """All of them: the package's own, then those of the store by name."""
        found = [self._read(SHIPPED, default_model_dir())] if default_model_dir().is_dir() else []
        folders = sorted(p for p in self.folder.iterdir() if p.is_dir()) if self.folder.is_dir() else []
        return found + [self._read(p.name, p) for p in folders if not p.name.startswith(".")]

    def get(self, name: str) -> StoredModel:
        """By name, or by a model_id of which at least 8 digits are given. Raises ModelNotFoundError."""
        models = self.models()
        # A folder of the user's goes before the package's model of the same name, as it does for the settings.
        for model in reversed(models):
            if model.name == name:
                return model
        by_id = [m for m in models if m.identity and len(name) >= 8 and m.identity.model_id.startswith(name)]
        if len({m.identity.model_id for m in by_id if m.identity}) == 1:
            return by_id[0]
        raise ModelNotFoundError(
            f"There is no model {name!r}. There are: {', '.join(m.name for m in models) or 'none'}.",
            model=name,
        )

    def find(self, model_id: str) -> StoredModel | None:
        """A model by its full model_id."""
        return next((m for m in self.models() if m.identity and m.identity.model_id == model_id), None)

    def add(
        self, name: str, write: Callable[[Path], Source], *, replace: bool = False, check: bool = True
    ) -> StoredModel:
        """Puts a model into the store: all of it or nothing.

        Args:
            name: Of its folder: small letters, digits, ``.``, ``_`` and ``-``.
            write: Fills an empty folder with config.json and weights, and says where they came from.
            replace: Whether a model of this name is given up for it.
            check: Whether it is loaded, which loads torch, to see that it can be.

        Raises:
            RequestError: The name cannot be one.
            ModelExistsError: There is one of this name and `replace` is off.
            CheckpointError: What was written cannot be loaded.
            SettingsError: The store cannot be written.
        """
        self.check_name(name)
        target = self.folder / name
        if target.exists() and not replace:
            raise ModelExistsError(
                f"There is a model {name!r} in {self.folder}. Choose another name, or replace it.", model=name
            )
        with self._writing(), self._workplace() as work:
            source = write(work)
            (work / SOURCE_FILE).write_text(json.dumps(asdict(source), indent=2) + "\n", encoding="utf-8")
            if check:
                from voicevault.encoder.checkpoint import load_checkpoint

                load_checkpoint(work)
            for file in work.iterdir():
                _flush(file)
            if target.exists():
                old = work.with_name(work.name + ".old")
                target.rename(old)
                work.rename(target)
                shutil.rmtree(old)
            else:
                work.rename(target)
            _flush(self.folder)
        return self._read(name, target)

    def keep(self, folder: Path) -> StoredModel:
        """A copy of a model folder under ``NAME-`` and the first digits of its model_id, made where there is none.

        The model that comes with the package changes with an upgrade; the collections that are bound to it stay readable on
        this copy.
        """
        identity = read_identity(folder)
        if (there := self.find_own(identity.model_id)) is not None:
            return there
        stem = re.sub(r"[^a-z0-9._-]+", "-", identity.name.lower()).strip("-._") or "model"
        name = f"{stem}-{identity.model_id[:8]}"
        try:
            return self.add(
                name,
                lambda work: (
                    replace(copy_own(folder, work), origin=f"voicevault {__version__}")
                    if folder == default_model_dir()
                    else copy_own(folder, work)
                ),
                check=False,
            )
        except ModelExistsError:  # another process was faster
            return self.get(name)

    def find_own(self, model_id: str) -> StoredModel | None:
        """As `find`, of the folders of the store alone."""
        return next(
            (
                m
                for m in self.models()
                if m.folder.parent == self.folder and m.identity and m.identity.model_id == model_id
            ),
            None,
        )

    def check_name(self, name: str) -> None:
        """Raises RequestError where a model cannot be called so."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) or name == SHIPPED:
            raise RequestError(
                f"A model cannot be called {name!r}: use up to 64 small letters, digits, '.', '_' and '-', and not"
                f" {SHIPPED!r}, which is the one that comes with the package.",
                name=name,
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError) as error:  # weights that cannot be written fail as the latter
            raise SettingsError(
                f"The model cannot be put into {self.folder}: {error}. Make room there, or set VOICEVAULT_HOME to another"
                " folder.",
                folder=str(self.folder),
            ) from error

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        """An empty folder in the store; what is still there at the end is deleted."""
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self.folder.glob(".import-*"):  # by a process that died
            if left.suffix != ".old" and time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=".import-", dir=self.folder))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _read(self, name: str, folder: Path) -> StoredModel:
        try:
            identity = read_identity(folder)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return StoredModel(name, folder, identity, read_source(folder), config)
        except CheckpointError as error:
            return StoredModel(name, folder, None, None, problem=error.message)


def read_source(folder: Path) -> Source | None:
    """What ``source.json`` says; None where there is none, as in a folder that was put there by hand."""
    try:
        values: Any = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
        return Source(**values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / SOURCE_FILE} cannot be read: {error}") from error


def copy_own(folder: Path, target: Path) -> Source:
    """Copies what belongs to a model of ours, variants too."""
    names = [*OWN_FILES, *variant_files(folder)]
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    return Source("voicevault", str(folder), files=digests(folder, names))


def variant_files(folder: Path) -> list[str]:
    """Files of other precisions that config.json names, by plain names only."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = [str(variant["file"]) for variant in config.get("variants", {}).values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [name for name in found if Path(name).name == name]


def digests(folder: Path, names: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Hex SHA-256 of those of the files that are there."""
    found = {}
    for name in names:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
