"""The near end of a decoding process: started when it is needed, and anew when a recording has ended it.

Not `multiprocessing`: a process that it spawns imports the caller's main program, and with it torch; and its
pools do not tell which of the recordings in flight was the one that killed the process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from voicevault.audio import AudioLimits, SpeechDetector
from voicevault.bulk.stages import Prepared, rejected
from voicevault.bulk.worker import receive, receive_prepared, send
from voicevault.errors import CorruptAudioError, VoicevaultError
from voicevault.types import ManifestRow, RowOutcome

T = TypeVar("T")

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from voicevault.bulk.worker import serve
serve(int(sys.argv[1]))
"""
SLOW = 5.0
"""Seconds after which a recording most likely waits for a disk or hangs, and computes nothing."""
_START = 120.0
"""Seconds that a process may take to start."""


class DecoderClosed(Exception):
    """`Decoder.interrupt` was called."""


class _Died(Exception):
    def __init__(self, how: str, hung: bool) -> None:
        super().__init__(how)
        self.how, self.hung = how, hung


class Decoder:
    """One decoding process. For one thread; `interrupt` is for the others.

    Args:
        min_speech: Seconds of net speech that each recording needs.
        timeout: Seconds after which a recording counts as hanging.

    Calls take `slow`, which is called once, where their answer takes longer than `SLOW`.
    """

    def __init__(
        self, detector: SpeechDetector, limits: AudioLimits, min_speech: float, timeout: float
    ) -> None:
        self._limits, self._timeout = limits, timeout
        self._config = {
            "detector": detector.__getstate__(),
            "limits": asdict(limits),
            "min_speech": min_speech,
            "timeout": timeout,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._closed = False

    def fingerprint(self, path: Path, slow: Callable[[], None]) -> str | None:
        """Hex SHA-256 of a file, None where it has none to offer. Raises DecoderClosed."""
        try:
            sha256 = self._ask("fingerprint", path, "", receive, slow)["sha256"]
        except _Died:
            return None
        return None if sha256 is None else str(sha256)

    def prepare(self, row: ManifestRow, slow: Callable[[], None]) -> Prepared | RowOutcome:
        """Decodes a recording and finds the speech in it; one that ends the process twice is rejected.

        Raises:
            DecoderClosed.
            VoicevaultError: The process does not start.
        """

        def answer(connection: Connection) -> Prepared | RowOutcome:
            return receive_prepared(connection, row, self._limits)

        for last in (False, True):
            try:
                return self._ask("prepare", row.path, row.speaker, answer, slow)
            except _Died as died:
                # Once may be somebody else's doing, such as the system being out of memory.
                if last or died.hung:
                    return rejected(
                        row,
                        CorruptAudioError(
                            f"The recording is broken: its decoder {died.how}. Copy or export it again."
                        ),
                    )
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Ends the process."""
        self._end(0.0)

    def interrupt(self) -> None:
        """Ends the process whatever it does; whoever waits for its answer gets DecoderClosed."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()

    def _ask(
        self,
        what: str,
        path: Path,
        speaker: str,
        answer: Callable[[Connection], T],
        slow: Callable[[], None],
    ) -> T:
        connection = self._connection if self._connection is not None else self._start()
        try:
            send(connection, {"do": what, "path": str(path), "speaker": speaker})
            if connection.poll(min(SLOW, self._timeout)):
                return answer(connection)
            slow()
            if connection.poll(max(0.0, self._timeout - SLOW)):
                return answer(connection)
        except (EOFError, OSError) as error:
            how = self._end(5.0)
            if self._closed:
                raise DecoderClosed from error
            raise _Died(how, hung=False) from error
        self._end(0.0)
        raise _Died(f"did not come to an end in {self._timeout:g} s", hung=True)

    def _start(self) -> Connection:
        near, far = Pipe()
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(far.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=[far.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                process_group=0,  # Ctrl-C is for the program, which ends this process in its own time
            )
            far.close()
            self._connection = near
            try:
                send(near, self._config)
                started = near.poll(_START) and receive(near) is not None
            except (EOFError, OSError):
                started = False
            if self._closed or not started:
                how = self._end(5.0 if not self._closed else 0.0)
                if self._closed:
                    raise DecoderClosed
                complaints.seek(0)
                last = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
                raise VoicevaultError(
                    f"A decoding process does not start: it {how}. {' '.join(last)}".strip()
                )
        return near

    def _end(self, patience: float) -> str:
        """Kills the process if it does not end in `patience` seconds; -> how it ended, for people."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is None:
            return "is not there"
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code < 0:
            return f"was ended by a signal ({signal.strsignal(-code) or -code})"
        return f"ended with exit code {code}"
