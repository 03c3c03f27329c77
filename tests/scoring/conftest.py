"""Property tests of a busy machine: how long an example takes says nothing about it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
