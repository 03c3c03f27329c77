"""Settings to a Vault: the one place that knows which parts it is made of."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from voicevault.catalogue import Catalogue, Model
from voicevault.encoder import BatchingEncoder, LazyEncoder, default_model_dir
from voicevault.encoder.store import ModelStore
from voicevault.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    ModelNotFoundError,
    SchemaOutdatedError,
    SettingsError,
)
from voicevault.gallery import Galleries, Limits
from voicevault.index import find_gpu
from voicevault.settings import Settings
from voicevault.store import Store
from voicevault.types import Encoder
from voicevault.vault import DEFAULT_COLLECTION, Vault

DEFAULT_MODEL = "default"


def resolve_settings(target: str | Path | Settings | None = None) -> Settings:
    """A database URL, a home folder, settings as they are, or None for what the environment says.

    Raises:
        SettingsError: A setting is wrong.
    """
    if isinstance(target, Settings):
        return target
    if isinstance(target, str) and "://" in target:
        return Settings(database_url=target)
    return Settings(home=target)


def make_folder(folder: Path) -> None:
    """A folder that only its owner can enter, with those above it that are missing.

    Raises:
        SettingsError: It cannot be made.
    """
    try:
        for missing in [above for above in reversed(folder.parents) if not above.exists()]:
            missing.mkdir(exist_ok=True, mode=0o700)  # mkdir's own `parents` ignores the mode
        folder.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(
            f"The data folder {folder} cannot be made: {error.strerror}. Set VOICEVAULT_HOME to another one.",
            folder=str(folder),
        ) from error


def model_folder(settings: Settings) -> Path:
    """The folder of the model that the settings name. Raises ModelNotFoundError."""
    # `Path.expanduser` would fail at a user who does not exist; this leaves such a name as it is.
    named, given = settings.models_folder / settings.model, Path(os.path.expanduser(settings.model))
    for folder in (named, given):
        if (folder / "config.json").is_file():
            return folder
    if settings.model == DEFAULT_MODEL and (default_model_dir() / "config.json").is_file():
        return default_model_dir()
    raise ModelNotFoundError(
        f"There is no model {settings.model!r}: neither {named} nor {given} is a model folder.",
        model=settings.model,
    )


def open_store(settings: Settings) -> Store:
    """The database, at the schema of this release: an empty one, or an older SQLite file, is brought there.

    Raises:
        SchemaOutdatedError: A newer release made it; or a PostgreSQL database, which others may be using, has another
            schema.
        DatabaseUnavailableError, SettingsError: It cannot be reached, or the URL is none.
    """
    store = Store(settings.resolved_database_url, lock_timeout=settings.lock_timeout)
    try:
        local = store.url.get_backend_name() == "sqlite"
        if local and store.url.database:
            make_folder(Path(store.url.database).parent)
        try:
            store.check_schema()
        except SchemaOutdatedError as error:
            if not local and error.facts["found"] is not None:
                raise
            store.upgrade()
    except BaseException:
        store.close()
        raise
    return store


def upgrade_database(settings: Settings) -> tuple[str | None, str | None]:
    """Brings the database to the schema of this release; returns its revision before and after.

    Raises:
        DatabaseUnavailableError, DatabaseBusyError, SettingsError.
        SchemaOutdatedError: A newer release made it.
    """
    store = Store(settings.resolved_database_url, lock_timeout=settings.lock_timeout)
    try:
        if store.url.get_backend_name() == "sqlite" and store.url.database:
            make_folder(Path(store.url.database).parent)
        before = store.current_revision()
        store.upgrade()
        return before, store.current_revision()
    finally:
        store.close()


def open_vault(target: str | Path | Settings | None = None, *, serving: bool = False) -> Vault:
    """A vault for a database URL, a home folder, settings, or (None) the environment.

    The collection ``default`` is made where it is missing; a model loads when it is first needed. The model that collections
    are bound to is kept in ``HOME/models``. With `serving`, callers in
    several threads share the passes of a GPU; on the CPU each core embeds one recording at a time anyway.

    Raises:
        SettingsError, ModelNotFoundError, CheckpointError, SchemaOutdatedError, DatabaseUnavailableError.
    """
    settings = resolve_settings(target)

    def open_model(folder: Path) -> Model:
        encoder: Encoder = LazyEncoder(
            folder, threads=settings.threads, device=settings.device, precision=settings.precision
        )
        if serving and settings.device != "cpu":
            encoder = BatchingEncoder(encoder)
        return Model(folder, encoder, settings)

    catalogue = Catalogue(model_folder(settings), ModelStore(settings.models_folder), open_model)
    make_folder(settings.home)
    store = open_store(settings)
    try:
        try:
            store.collection(DEFAULT_COLLECTION)
        except CollectionNotFoundError:
            with suppress(CollectionExistsError):  # another process was faster
                store.create_collection(DEFAULT_COLLECTION, catalogue.default.model_id, catalogue.default.dim)
        if any(found.model_id == catalogue.default.model_id for found in store.collections()):
            catalogue.keep_default()
        find_device = find_gpu if settings.device.startswith("cuda") else None
        limits = Limits(approximate_recall=settings.approximate_recall)
        galleries = Galleries(store, settings.index_folder, limits, find_device)
        return Vault(settings, store, catalogue, galleries)
    except BaseException:
        store.close()
        raise
