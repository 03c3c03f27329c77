"""Embeddings that an evaluation has computed before."""

from __future__ import annotations

import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

import voicevault
from voicevault.types import Encoder, Float32Array


class EmbeddingCache:
    """Embeddings of one model that were computed before, by the hash of the file, the piece and the condition.

    Args:
        folder: The file lies there.
        encoder: The model, and what computes it: 8-bit embeddings are others than float ones.
    """

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        engine = getattr(encoder, "engine", "other")
        self.path = folder / f"embeddings-{encoder.model_id[:12]}-{engine}-{voicevault.__version__}.npz"
        self._rows: dict[str, tuple[Float32Array, float, float, str]] = {}
        self._stored = 0
        if self.path.is_file():
            try:
                with np.load(self.path, allow_pickle=False) as stored:
                    columns = [stored[name] for name in ("keys", "vectors", "numbers", "audio")]
            except (OSError, ValueError, KeyError, EOFError, BadZipFile):
                return  # cut off while it was written, or not ours: compute anew
            for key, vector, numbers, audio in zip(*columns, strict=True):
                self._rows[str(key)] = (vector, float(numbers[0]), float(numbers[1]), str(audio))
            self._stored = len(self._rows)

    def get(self, key: str) -> tuple[Float32Array, float, float, str] | None:
        return self._rows.get(key)

    def put(self, key: str, vector: Float32Array, seconds: float, speech: float, audio_sha256: str) -> None:
        self._rows[key] = (vector, seconds, speech, audio_sha256)

    def save(self) -> None:
        """Write what is new, whole or not at all."""
        if len(self._rows) == self._stored:
            return
        rows = list(self._rows.values())
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.savez(
                file,
                keys=np.array(list(self._rows), dtype=np.str_),
                vectors=np.stack([row[0] for row in rows]),
                numbers=np.array([row[1:3] for row in rows], dtype=np.float64),
                audio=np.array([row[3] for row in rows], dtype=np.str_),
            )
        os.replace(aside, self.path)
        self._stored = len(self._rows)
