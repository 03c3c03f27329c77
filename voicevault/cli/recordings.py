"""Recordings named on the command line: files, or ``-`` for what comes in on stdin."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from voicevault.cli.command import Session, error_document, error_text
from voicevault.cli.exits import REJECTED
from voicevault.errors import AudioError, AudioTooLargeError, DuplicateRecordingError, RequestError
from voicevault.text import printable

STDIN = "-"

FilesArgument = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="Recordings; - reads one from stdin.", show_default=False),
]
FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A recording; - reads it from stdin.", show_default=False)
]


def source_of(session: Session, file: str) -> Path | bytes:
    """What to hand to the vault for `file`.

    Raises:
        RequestError: Nothing comes in on stdin.
        AudioTooLargeError: More comes in than `max_bytes`.
    """
    if file != STDIN:
        return Path(file)
    if sys.stdin.isatty():
        raise RequestError("- reads a recording from stdin: pipe one in, or name a file.")
    limit = session.settings.max_bytes
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise AudioTooLargeError(f"More than {limit} bytes came in on stdin.", limit=limit)
    return data


def each(session: Session, files: list[str], work: Callable[[str, Path | bytes], int | None]) -> int:
    """Does `work` on each file, in order, and returns the exit code of them all.

    A recording that cannot be used is shown, and does not stop the others; any other error does.
    """
    if files.count(STDIN) > 1:
        raise RequestError("- (stdin) can be read once only.")
    codes: list[int] = []
    for file in files:
        try:
            codes.append(work(file, source_of(session, file)) or 0)
        except (AudioError, DuplicateRecordingError) as error:
            codes.append(error.exit_code)
            if session.json:
                session.line({"file": file, "error": error_document(error)})
            else:
                session.note(f"{printable(file)}: {error_text(error)}")
    errors = [code for code in codes if 0 < code < REJECTED]
    return next(iter(errors), max(codes))
