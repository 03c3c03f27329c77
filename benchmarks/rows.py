"""Raw rows: one file of JSON lines per benchmark and run. The first line says what ran, where and when."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voicevault.errors import RequestError

FORMAT = 1


class Rows:
    """Appends rows to a new file, each written through at once: a run that breaks off keeps what it has.

    Args:
        path: The file; its folder is made. It must not exist.
        run: What is true of the whole run: benchmark, run id, options, machine, model.

    Raises:
        RequestError: The file cannot be made.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path
        self._id = run["run"]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x", encoding="utf-8")
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {error}.", path=str(path)) from error
        self._write({"kind": "run", "format": FORMAT, **run})

    def append(self, kind: str, **fields: Any) -> None:
        """One row of a kind. Fields are JSON values; NaN and infinity are refused."""
        if kind == "run":
            raise ValueError("the row of the run stands there already")
        self._write({"kind": kind, "run": self._id, **fields})

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Recorded:
    """The rows of one run, read back.

    Attributes:
        run: The first line: ``benchmark``, ``run``, ``started``, ``quick``, ``options``, ``machine``, ``model``.
        rows: All others, in order.
    """

    run: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def where(self, kind: str, **equal: Any) -> list[Mapping[str, Any]]:
        """The rows of a kind whose fields equal the given ones."""
        return [
            row
            for row in self.rows
            if row["kind"] == kind and all(row.get(name) == value for name, value in equal.items())
        ]

    def values(self, field: str, kind: str, **equal: Any) -> list[Any]:
        """One field of `where`."""
        return [row[field] for row in self.where(kind, **equal)]

    def distinct(self, field: str, kind: str, **equal: Any) -> list[Any]:
        """The different values of a field, in order of their first appearance."""
        return list(dict.fromkeys(self.values(field, kind, **equal)))


def read_rows(path: Path) -> Recorded:
    """The run in a file of `Rows`.

    Raises:
        RequestError: It cannot be read, or is no such file. A last line that was cut off is left out.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}.", path=str(path)) from error
    rows = list(_parsed(path, text))
    head = rows[0] if rows else {}
    if head.get("kind") != "run" or head.get("format") != FORMAT:
        raise RequestError(
            f"{path} is no rows file of this release: its first line must be a run of format {FORMAT}.",
            path=str(path),
        )
    if any(row.get("run") != head["run"] for row in rows):
        raise RequestError(f"{path} holds rows of several runs; give each its own file.", path=str(path))
    return Recorded(head, rows[1:])


def _parsed(path: Path, text: str) -> Iterator[dict[str, Any]]:
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # no line end behind it: the process was stopped here
                return
            raise RequestError(f"{path}, line {number}: not JSON ({error}).", path=str(path)) from error
        if not isinstance(row, dict) or "kind" not in row:
            raise RequestError(f"{path}, line {number}: not a row.", path=str(path))
        yield row
