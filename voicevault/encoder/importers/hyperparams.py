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
    return {str(name): resolve(hyperparams, value) for name, value in entry.value.items()}


def resolve(hyperparams: Mapping[str, Any], value: Any) -> Any:
    """A value with ``!ref <key>`` followed, in lists too. Raises CheckpointError as `arguments` does."""
    for _ in range(8):
        if isinstance(value, list):
            return [resolve(hyperparams, item) for item in value[:64]]
        if not isinstance(value, Tagged) or value.tag != "!ref":
            return value
        match = re.fullmatch(r"<(\w+)>", str(value.value).strip())
        if not match or match[1] not in hyperparams:
            raise CheckpointError(
                f"hyperparams.yaml: the reference {str(value.value)[:80]!r} cannot be followed"
            )
        value = hyperparams[match[1]]
    raise CheckpointError("hyperparams.yaml: references go round in a circle")
