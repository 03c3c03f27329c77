"""stdin, stdout and stderr as a command needs them, whatever its caller handed in; and the last word on what nobody foresaw."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import traceback
from typing import TextIO

from voicevault.cli.exits import INTERNAL
from voicevault.errors import VoicevaultError


def mend() -> None:
    """Opens what the caller closed, and sees to it that every text can be written.

    The next file that a process opens gets the first free number: where 1 or 2 is free, what some library prints would
    end up in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - as long as the process
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def let_go(stream: TextIO) -> None:
    """Nobody can read what is left in the stream; Python must not fail on it while it shuts down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def unexpected(error: Exception) -> int:
    """Tells of a failure that nobody foresaw, as JSON with ``--json``; the traceback goes to a file. Returns the exit code."""
    message = f"Something failed that should not have: {type(error).__name__}: {error}"
    try:
        number, path = tempfile.mkstemp(prefix="voicevault-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
        message += f". Where it happened is written to {path}."
    except OSError:
        message += "."
    document = {"error": {"code": VoicevaultError.code, "message": message, "facts": {}}}
    try:
        if "--json" in sys.argv:
            print(json.dumps(document), flush=True)
            return INTERNAL
        sys.stdout.flush()
    except (OSError, ValueError):
        let_go(sys.stdout)
    try:
        print(f"Error: {message} [{VoicevaultError.code}]", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        let_go(sys.stderr)
    return INTERNAL
