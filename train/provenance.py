"""What a run was: the resolved config, the code and the data, written beside it."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import voicevault
from train.config import FitConfig
from train.data import SpeechCache
from voicevault.errors import SettingsError

PROVENANCE_FILE = "provenance.json"


def write_provenance(
    folder: Path, config: FitConfig, cache: SpeechCache, root: Path, init: Path | None, init_id: str | None
) -> None:
    """Writes ``provenance.json``: enough to train the same weights again on the same machine.

    Args:
        root: Corpus folder.
        init, init_id: Folder and model_id of the model that the training starts from.
    """
    speakers = {u.speaker for u in cache.utterances}
    facts: dict[str, Any] = {
        "config": config.as_json(),
        "config_sha256": config.digest(),
        "corpora": str(root.absolute()),
        "init": str(init.absolute()) if init else None,
        "init_model_id": init_id,
        "data_sha256": cache.digest,
        "recordings": len(cache.utterances),
        "skipped": cache.skipped,
        "speakers": len(speakers),
        "hours": round(len(cache.samples) / 16_000 / 3600, 2),
        "git_revision": git_revision(),
        "voicevault": voicevault.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    path = folder / PROVENANCE_FILE
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_provenance(run: Path) -> tuple[FitConfig, Path | None]:
    """Config and corpus folder that a run noted (None by earlier releases).

    Raises:
        SettingsError: It did not, or this release reads the config otherwise.
    """
    path = run / PROVENANCE_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        config = FitConfig.model_validate(facts["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} does not tell the config ({error}); name it by --config") from error
    if config.digest() != facts.get("config_sha256"):
        raise SettingsError(f"{path} was written by another release or changed; name the config by --config")
    return config, Path(facts["corpora"]) if "corpora" in facts else None


def git_revision() -> str | None:
    """The commit that this code is, with ``+changes`` where files differ from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if changed.returncode else "")
