"""What may enter the tables: checked before a lock is taken, alike for both databases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from voicevault.errors import ModelMismatchError, RequestError
from voicevault.types import MAX_TAGS, Embedding

MAX_DEPTH = 32
"""Levels of nested attributes; what reads them later has limits of its own, and must not fail on what was kept."""


def checked_text(value: str, what: str, limit: int = 255) -> str:
    """Raises: RequestError where the text is empty, too long, or holds what a database cannot keep."""
    if not value or not value.strip() or len(value) > limit:
        raise RequestError(f"The {what} must have 1 to {limit} characters.", field=what)
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in value):
        raise RequestError(f"The {what} holds control characters.", field=what)
    if any(0xD800 <= ord(c) <= 0xDFFF for c in value):  # as Python reads names of files that are no UTF-8
        raise RequestError(f"The {what} is no UTF-8 text.", field=what)
    return value


def can_be_id(value: str) -> bool:
    """Whether a speaker may have this id; a database may choke on being asked for one that may not."""
    try:
        return bool(checked_text(value, "speaker id"))
    except RequestError:
        return False


def check_labels(speaker_id: str, source_name: str | None) -> None:
    """Raises: RequestError where no recording can be enrolled for such a speaker, or under such a name."""
    checked_text(speaker_id, "speaker id")
    if source_name is not None:
        checked_text(source_name, "source name", 4096)


def checked_name(value: str | None) -> str | None:
    return None if value is None else checked_text(value, "name", 1024)


def checked_tags(tags: Iterable[str] | None) -> list[str]:
    if isinstance(tags, str):
        raise RequestError("Tags are a list of texts, not one text.", field="tags")
    checked = sorted({checked_text(tag, "tag") for tag in tags or ()})
    if len(checked) > MAX_TAGS:
        raise RequestError(
            f"There are {len(checked)} tags; give at most {MAX_TAGS}.", field="tags", most=MAX_TAGS
        )
    return checked


def checked_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Raises: RequestError where the attributes are not plain JSON, or nested deeper than `MAX_DEPTH`."""
    try:
        text = json.dumps(dict(attributes or {}), allow_nan=False, ensure_ascii=False)
        text.encode()
        kept: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"The attributes are not plain JSON: {error}", field="attributes") from error
    level: list[Any] = [kept]
    for _ in range(MAX_DEPTH):
        inside = [one.values() if isinstance(one, dict) else one for one in level]
        level = [value for values in inside for value in values if isinstance(value, dict | list)]
        if not level:
            return kept
    raise RequestError(f"The attributes are nested deeper than {MAX_DEPTH} levels.", field="attributes")


def check_embedding(embedding: Embedding, model_id: str, dim: int) -> None:
    """Raises: ModelMismatchError where another model made it, RequestError where it is no unit vector."""
    if embedding.model_id != model_id:
        raise ModelMismatchError(
            "The collection belongs to another model than the one that made this embedding.",
            collection_model=model_id,
            embedding_model=embedding.model_id,
        )
    vector = embedding.vector
    if (
        vector.shape != (dim,)
        or not np.isfinite(vector).all()
        or abs(float(np.linalg.norm(vector)) - 1) > 1e-3
    ):
        raise RequestError(f"An embedding must be a finite unit vector of {dim} numbers.", dim=dim)
