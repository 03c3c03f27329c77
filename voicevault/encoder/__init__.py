"""The speaker models: the only home of torch, which importing this package does not load."""

from __future__ import annotations

from voicevault.encoder.batching import BatchingEncoder
from voicevault.encoder.lazy import LazyEncoder, default_model_dir, load_encoder, read_identity

__all__ = ["BatchingEncoder", "LazyEncoder", "default_model_dir", "load_encoder", "read_identity"]
