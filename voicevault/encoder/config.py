"""From the dataclasses that describe a model to JSON and back, strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
LATER: Mapping[str, bool] = {"later": True}
"""Field metadata: a setting that came after the first release, and is written only where it is not the default.
So the files and the identities of models made before it stay what they were."""


def check_ranges(config: object, **ranges: tuple[float, float]) -> None:
    """Raises ValueError for the first attribute that is not in its range, ends included."""
    for name, (low, high) in ranges.items():
        if not low <= getattr(config, name) <= high:
            raise ValueError(f"{name} must be in {low:g} to {high:g}, not {getattr(config, name)!r}")


def stored(config: Any) -> dict[str, Any]:
    """A config dataclass as the JSON object that config.json holds."""
    return {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if not (f.metadata.get("later") and getattr(config, f.name) == f.default)
    }


def parse(cls: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass from such an object.

    Raises:
        ValueError: A key is missing or unknown, or a value has the wrong type or is out of range; names each.
    """
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    required = {name for name, f in known.items() if not f.metadata.get("later")}
    problems = [f"{name} is missing" for name in sorted(required - values.keys())]
    problems += [f"{name} is unknown" for name in sorted(values.keys() - known.keys())]
    if not problems:
        try:
            return TypeAdapter(cls).validate_json(json.dumps(dict(values)), strict=True)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False):
                place = ".".join(str(part) for part in detail["loc"])
                problems.append(": ".join(filter(None, (place, detail["msg"].removeprefix("Value error, ")))))
    raise ValueError("; ".join(problems))
