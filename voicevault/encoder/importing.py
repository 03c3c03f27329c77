"""From the files of any toolkit to a model of the store."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voicevault.encoder.store import OWN_FILES, ModelStore, Source, StoredModel, copy_own, digests
from voicevault.errors import CheckpointError, RequestError

KINDS: Mapping[str, tuple[str, ...]] = {
    "voicevault": OWN_FILES,
    "speechbrain": ("embedding_model.ckpt", "hyperparams.yaml"),
    "transformers": ("config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"),
    "onnx": (),
}
"""The files that are read, by what a folder is."""


def import_model(
    store: ModelStore,
    path: Path,
    name: str | None = None,
    *,
    frontend: str | None = None,
    settings: Mapping[str, Any] | None = None,
    replace: bool = False,
    origin: str | None = None,
    revision: str | None = None,
) -> StoredModel:
    """Reads a model folder or an ONNX file, whichever toolkit it is of, into the store.

    Args:
        name: What to call it; by default after the folder or file.
        frontend: For ONNX: the toolkit whose front-end it needs (``wespeaker``, ``3d-speaker``).
        settings: For ONNX: settings of the front-end that differ.
        replace: Whether a model of the same name is given up for it.
        origin, revision: Where the files are from, where it is not `path` itself.

    Raises:
        CheckpointError: The files are incomplete, damaged, or no model that can be run here. Nothing in them is executed.
        RequestError, ModelExistsError: The name, or the front-end's settings.
    """
    # `Path.expanduser` would fail at a user who does not exist; this leaves such a path as it is, to be told below.
    path = Path(os.path.expanduser(path)).absolute()
    kind = kind_of(path)
    if kind != "onnx" and (frontend is not None or settings):
        raise RequestError(f"{path} says itself which front-end it needs; only for ONNX files is it given.")
    if kind == "onnx" and frontend is None and not settings:
        from voicevault.encoder.importers.onnx import PRESETS

        raise RequestError(
            f"{path} does not say which front-end it needs. Name its toolkit ({', '.join(PRESETS)}), or give settings.",
            known=sorted(PRESETS),
        )
    name = name if name is not None else default_name(path)
    store.check_name(name)

    def write(work: Path) -> Source:
        if kind == "voicevault":
            copied = copy_own(path, work)
            return Source(kind, origin or str(path), revision, copied.files)
        from voicevault.encoder.checkpoint import save_checkpoint
        from voicevault.encoder.importers import onnx, speechbrain, transformers

        if kind == "speechbrain":
            model = speechbrain.read_speechbrain(path, name)
        elif kind == "transformers":
            model = transformers.read_transformers(path, name)
        else:
            model = onnx.read_onnx(path, name, onnx.preset(frontend, settings or {}))
        save_checkpoint(model, work)
        folder, names = (path.parent, (path.name,)) if path.is_file() else (path, KINDS[kind])
        return Source(kind, origin or str(path), revision, digests(folder, names))

    return store.add(name, write, replace=replace)


def kind_of(path: Path) -> str:
    """Which toolkit's files these are. Raises CheckpointError."""
    if path.is_file() and path.suffix == ".onnx":
        return "onnx"
    if (path / "hyperparams.yaml").is_file() or (path / "embedding_model.ckpt").is_file():
        return "speechbrain"
    if (path / "config.json").is_file():
        import json

        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path / 'config.json'} cannot be read: {error}") from error
        return "voicevault" if isinstance(config, dict) and "format" in config else "transformers"
    what = "is not there" if not path.exists() else "is no model"
    raise CheckpointError(
        f"{path} {what}: give an .onnx file, or a folder of voicevault (config.json, model.safetensors), of SpeechBrain"
        " (hyperparams.yaml, embedding_model.ckpt) or of transformers (config.json of WavLMForXVector,"
        " preprocessor_config.json and weights)"
    )


def default_name(path: Path) -> str:
    """A name for the store from that of a file or folder."""
    stem = path.stem if path.is_file() else path.name
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or "model"
