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

PROVENANCE_FILE = "provenance.json"


def write_provenance(folder: Path, config: FitConfig, cache: SpeechCache, init: Path | None) -> None:
    """Writes ``provenance.json``: enough to train the same weights again on the same machine."""
    speakers = {u.speaker for u in cache.utterances}
    facts: dict[str, Any] = {
        "config": config.as_json(),
        "config_sha256": config.digest(),
        "init": str(init) if init else None,
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


def git_revision() -> str | None:
    """The commit that this code is, with ``+changes`` where files differ from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if changed.returncode else "")
