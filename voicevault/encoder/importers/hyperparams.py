"""SpeechBrain's hyperparams.yaml, read as data.

Its tags name Python classes (``!new:package.Class``) which SpeechBrain instantiates. Here a tag is a string beside a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from voicevault.errors import CheckpointError

BYTES = 1 << 20
"""The largest file that is read."""
LENGTH = 64
"""Entries of a list that are looked at."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value under a tag: ``!new:a.B {c: 1}`` is Tagged("!new:a.B", {"c": 1})."""

    tag: str
    value: Any = field(default=None)


class _Loader(yaml.SafeLoader):
    """Plain YAML, and any tag as `Tagged`."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Tagged:
    if isinstance(node, yaml.MappingNode):
        value: Any = loader.construct_mapping(node, deep=True)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.ScalarNode)
        value = loader.construct_scalar(node)
    return Tagged(f"!{suffix}", value)


_Loader.add_multi_constructor("!", _tagged)


def read_hyperparams(path: Path) -> dict[str, Any]:
    """The mapping of the file. Raises CheckpointError where it is missing, too large, or no such YAML."""
    try:
        if path.stat().st_size > BYTES:
            raise CheckpointError(f"{path} is larger than {BYTES} bytes; it is no hyperparams.yaml")
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 a SafeLoader
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; bring the whole folder") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} cannot be read as YAML: {reason}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no mapping")
    return found


def arguments(hyperparams: Mapping[str, Any], key: str, wanted: str) -> dict[str, Any]:
    """The arguments of ``key: !new:package.Class``, references resolved.

    Args:
        wanted: The last part of the class name that must stand there.

    Raises:
        CheckpointError: There is no such key, it is another class, or a reference leads nowhere or is an expression.
    """
    entry = resolve(hyperparams, hyperparams.get(key))
    if not isinstance(entry, Tagged) or not entry.tag.startswith("!new:"):
        raise CheckpointError(f"hyperparams.yaml has no {key}: !new:...{wanted}")
    name = entry.tag.removeprefix("!new:")
    if not name.startswith("speechbrain.") or name.rpartition(".")[2] != wanted:
        raise CheckpointError(
            f"hyperparams.yaml: {key} is {name}, and only SpeechBrain's {wanted} can be imported"
        )
    if entry.value in (None, ""):
        return {}
    if not isinstance(entry.value, dict):
        raise CheckpointError(f"hyperparams.yaml: the arguments of {key} are no mapping")
    return {
        str(name): _plain(f"{name} of {key}", resolve(hyperparams, value))
        for name, value in entry.value.items()
    }


def resolve(hyperparams: Mapping[str, Any], value: Any) -> Any:
    """A value with ``!ref <key>`` followed, in the entries of a list too. Raises CheckpointError as `arguments` does."""
    for _ in range(8):
        if isinstance(value, list):
            return [_follow(hyperparams, item) for item in value[:LENGTH]]
        if not _is_reference(value):
            return value
        value = _follow(hyperparams, value)
    raise CheckpointError("hyperparams.yaml: references go round in a circle")


def _is_reference(value: Any) -> bool:
    return isinstance(value, Tagged) and value.tag == "!ref"


def _follow(hyperparams: Mapping[str, Any], value: Any) -> Any:
    if not _is_reference(value):
        return value
    text = value.value.strip() if isinstance(value.value, str) else ""
    match = re.fullmatch(r"<(\w+)>", text)
    if not match or match[1] not in hyperparams:
        raise CheckpointError(f"hyperparams.yaml: the reference {text[:80]!r} cannot be followed")
    return hyperparams[match[1]]


def _plain(key: str, value: Any) -> Any:
    """Scalars and short lists of them, of other tags their names: through YAML's aliases, a short text can spell an endless
    nest of values."""
    entries = [
        entry.tag if isinstance(entry, Tagged) else entry
        for entry in (value if isinstance(value, list) else [value])
    ]
    if any(isinstance(entry, list | dict) for entry in entries):
        raise CheckpointError(f"hyperparams.yaml: {key} must be a number, a word or a list of them")
    return entries if isinstance(value, list) else entries[0]
