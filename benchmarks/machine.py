"""What a measurement ran on: processor, memory, versions, revision."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from voicevault.cores import available_cores

PACKAGES = (
    "voicevault",
    "numpy",
    "torch",
    "torchaudio",
    "transformers",
    "faiss-gpu",
    "faiss-cpu",
    "onnxruntime",
    "openvino",
    "silero-vad",
    "soundfile",
    "av",
    "sqlalchemy",
    "fastapi",
    "uvicorn",
)
"""Whose versions stand in every run, where they are installed."""


def describe_machine() -> dict[str, Any]:
    """JSON facts: ``cpu``, ``cores`` (usable by this process), ``memory_gb``, ``gpu``, ``load`` (of the last
    minute, before the run), ``system``, ``python``, ``packages``, ``revision`` (with ``+`` where files
    differ from it)."""
    return {
        "cpu": _cpu(),
        "cores": available_cores(),
        "memory_gb": _memory_gb(),
        "gpu": _gpu(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "packages": _versions(),
        "revision": _revision(),
    }


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _gpu() -> list[str]:
    return _lines("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _revision() -> str | None:
    root = str(Path(__file__).parents[1])
    head = _lines("git", "-C", root, "rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    changed = _lines("git", "-C", root, "status", "--porcelain", "--untracked-files=no")
    return head[0] + ("+" if changed else "")


def _lines(program: str, *arguments: str) -> list[str]:
    """What a program prints; nothing where it is missing or fails."""
    found = shutil.which(program)
    if found is None:
        return []
    try:
        done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
