"""voicevault: a self-hosted speaker database.

>>> from voicevault import Vault
>>> with Vault.open() as vault:  # doctest: +SKIP
...     vault.enroll("ada", "ada.wav")
...     vault.identify("who.wav").speaker_id

Importing this package loads nothing heavy: what it exports is found on first use.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voicevault.errors import VoicevaultError as VoicevaultError
    from voicevault.settings import Settings as Settings
    from voicevault.vault import Vault as Vault

try:
    __version__ = metadata.version("voicevault")
except metadata.PackageNotFoundError:  # run from a checkout
    __version__ = "0.1.0"

_TYPES = (
    "Candidate Collection DuplicatePolicy Embedding Enrollment Identification ImportSummary ManifestRow Quality"
    " RowOutcome Speaker Threshold Verification"
)
_HOMES = {"Vault": "voicevault.vault", "Settings": "voicevault.settings"} | dict.fromkeys(
    _TYPES.split(), "voicevault.types"
)

__all__ = ["Settings", "Vault", "VoicevaultError", "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None and name.endswith("Error"):
        home = "voicevault.errors"
    found = getattr(import_module(home), name, None) if home else None
    if found is None:
        raise AttributeError(f"module 'voicevault' has no attribute {name!r}")
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *__all__})
