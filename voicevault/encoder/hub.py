"""Models from the Hugging Face hub. `pull` is the only thing in voicevault that uses the network of its own accord."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from voicevault.encoder.importing import KINDS, import_model
from voicevault.encoder.store import ModelStore, StoredModel
from voicevault.errors import (
    CheckpointError,
    HubUnavailableError,
    ModelNotFoundError,
    RequestError,
    SettingsError,
)

_OWN_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
"""What no hub answers: these failures are of this machine."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def pull(
    store: ModelStore,
    repository: str,
    name: str | None = None,
    *,
    revision: str | None = None,
    frontend: str | None = None,
    settings: Mapping[str, Any] | None = None,
    replace: bool = False,
    endpoint: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> StoredModel:
    """Downloads a model from the hub, at one commit, and imports it as `import_model` does.

    Args:
        repository: ``owner/name``.
        name: What to call it; by default after the repository.
        revision: Branch, tag or commit; None is the newest. The commit is recorded with the model.
        endpoint: Another hub than huggingface.co; None asks the environment (``HF_ENDPOINT``).
        progress: Called with the name of each file before it is downloaded.

    Raises:
        HubUnavailableError: There is no network, or the hub does not give the files.
        SettingsError: There is no room for the files, or no permission to write them.
        ModelNotFoundError: The hub has no such repository or revision.
        CheckpointError, RequestError, ModelExistsError: As `import_model`.
    """
    if not REPOSITORY.fullmatch(repository):
        raise RequestError(
            f"{repository!r} is no repository of the hub; it would be owner/name.", repository=repository
        )
    name = name if name is not None else re.sub(r"[^a-z0-9._-]+", "-", repository.split("/")[1].lower())
    store.check_name(name)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, library_name="voicevault")
    with _explained(repository, revision, api.endpoint):
        info = api.model_info(repository, revision=revision, files_metadata=True, timeout=30)
    sizes = {file.rfilename: file for file in info.siblings or ()}
    wanted = choose(list(sizes))
    try:
        workplace = tempfile.TemporaryDirectory(prefix="voicevault-pull-")
    except OSError as error:
        raise _unwritable(error) from error
    with workplace as folder:
        for file in wanted:
            if progress is not None:
                progress(file)
            with _explained(repository, revision, api.endpoint):
                path = Path(api.hf_hub_download(repository, file, revision=info.sha, local_dir=folder))
            _check(path, sizes[file])
        source = Path(folder)
        return import_model(
            store,
            source / wanted[0] if len(wanted) == 1 and wanted[0].endswith(".onnx") else source,
            name,
            frontend=frontend,
            settings=settings,
            replace=replace,
            origin=repository,
            revision=info.sha,
        )


def choose(files: list[str]) -> list[str]:
    """Which of a repository's files make a model.

    Raises:
        CheckpointError: None do.
    """
    present = set(files)
    if {"embedding_model.ckpt", "hyperparams.yaml"} <= present:
        return list(KINDS["speechbrain"])
    if {"config.json", "preprocessor_config.json"} <= present:
        for weights in KINDS["transformers"][2:]:
            if weights in present:
                return ["config.json", "preprocessor_config.json", weights]
    if {"config.json", "model.safetensors"} <= present:
        return [file for file in KINDS["voicevault"] if file in present]
    if len(graphs := sorted(file for file in files if file.endswith(".onnx"))) == 1:
        return graphs
    raise CheckpointError(
        "The repository holds no model that can be imported: neither embedding_model.ckpt with hyperparams.yaml (SpeechBrain),"
        " nor config.json with preprocessor_config.json and weights (transformers), nor a single .onnx file."
        f" It holds: {', '.join(sorted(files)[:20]) or 'nothing'}."
    )


def _check(path: Path, known: Any) -> None:
    """The hub names the SHA-256 of large files."""
    expected = known.lfs.sha256 if known.lfs else None
    if expected is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{path.name} came with SHA-256 {found}, and the hub says {expected}; pull it again"
        )


def _unwritable(error: OSError) -> SettingsError:
    return SettingsError(
        f"What is downloaded cannot be written: {error}. Make room there, or set TMPDIR to another folder."
    )


@contextmanager
def _explained(repository: str, revision: str | None, endpoint: str) -> Iterator[None]:
    """Turns what the hub's client raises into errors that say what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"{repository} has no revision {revision!r} on {endpoint}.", model=repository
        ) from error
    except errors.GatedRepoError as error:
        raise HubUnavailableError(
            f"{repository} is given to those only who accepted its terms. Accept them on {endpoint}, log in with"
            " `hf auth login`, and pull it again.",
            repository=repository,
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{endpoint} has no model {repository!r}, or it is private: log in with `hf auth login` then.",
            model=repository,
        ) from error
    except Exception as error:  # its HTTP client has changed between releases, and its exceptions with it
        if isinstance(error, OSError) and error.errno in _OWN_DISK:
            raise _unwritable(error) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HubUnavailableError(
            f"{endpoint} does not answer ({reason}). Without a network, download the files of {repository} on another machine,"
            " bring the folder here and run `voicevault models import FOLDER`.",
            repository=repository,
        ) from error
