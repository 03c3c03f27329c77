"""The result file of a bulk enrollment: a line per recording, written as it goes."""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from voicevault.errors import RequestError
from voicevault.types import RowOutcome

_FIELDS = [field.name for field in fields(RowOutcome)]


def refuse_overwriting(results: Path, source: str | Path) -> None:
    """Raises RequestError where the results would replace the manifest that they are of."""
    with suppress(OSError):  # one of them is not there
        if results.samefile(source):
            raise RequestError(
                f"The results would replace the manifest {source}; give another file.", path=str(results)
            )


class ResultFile:
    """JSON lines (``.jsonl``) or a table with a header (``.tsv``); a file that is there is replaced.

    Raises:
        RequestError: Another suffix, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._json = path.suffix.lower() in (".jsonl", ".ndjson")
        if not self._json and path.suffix.lower() != ".tsv":
            raise RequestError(f"{path} must end in .jsonl or .tsv, by which its format is chosen.")
        try:
            # Names that are no UTF-8 are exact in JSON, and can be read in a table.
            self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {error.strerror}.", path=str(path)) from error
        self._table = csv.writer(self._file, delimiter="\t", lineterminator="\n")
        if not self._json:
            self._table.writerow(_FIELDS)

    def write(self, outcome: RowOutcome) -> None:
        record = asdict(outcome)
        if self._json:
            self._file.write(json.dumps(record) + "\n")
        else:
            self._table.writerow(["" if record[name] is None else record[name] for name in _FIELDS])
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
