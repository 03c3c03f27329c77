"""The near end of a decoding process: started when it is needed, and anew when a recording has ended it.

Not `multiprocessing`: a process that it spawns imports the caller's main program, and with it torch; and its
pools do not tell which of the recordings in flight was the one that killed the process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

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
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""For glibc: a process keeps the memory of a recording for its next one. Else it asks for most of it anew, page by page."""
_START = 120.0
"""Seconds that a process may take to start."""

_BUFFER = 1 << 20
"""Bytes of an answer that a process has not to wait with until somebody takes them: 16 s of speech."""


class DecoderClosed(Exception):
    """`Decoder.interrupt` was called."""


class _Died(Exception):
    def __init__(self, how: str, hung: bool) -> None:
        super().__init__(how)
        self.hung = hung


class Decoder:
    """One decoding process. For one thread; `interrupt` is for the others.

    It may be given its next recording before it is through with the one at hand, so that it never waits: `begin` one, then
    `begin` another and `finish` the first, and so on. Should the process end, the first that has no answer is to blame.

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
        self._begun: deque[ManifestRow] = deque()

    @property
    def busy(self) -> bool:
        """Whether a recording is begun and not finished."""
        return bool(self._begun)

    def fingerprint(self, path: Path, slow: Callable[[], None]) -> str | None:
        """Hex SHA-256 of a file, None where it has none to offer; not while it is busy. Raises DecoderClosed, VoicevaultError."""
        assert not self.busy
        try:
            connection = self._connected()
            _tell(connection, {"do": "fingerprint", "path": str(path)})
            sha256 = self._answer(connection, receive, slow)["sha256"]
        except _Died:
            return None
        return None if sha256 is None else str(sha256)

    def begin(self, row: ManifestRow) -> None:
        """Has a recording decoded and the speech in it found. Raises DecoderClosed, VoicevaultError as `finish`."""
        connection = self._connected()
        self._begun.append(row)
        _tell(connection, _preparing(row))

    def finish(self, slow: Callable[[], None]) -> Prepared | RowOutcome:
        """What became of the recording that was begun first; one that ends the process twice is rejected.

        Raises:
            DecoderClosed.
            VoicevaultError: The process does not start.
        """
        row = self._begun[0]

        def answer(connection: Connection) -> Prepared | RowOutcome:
            return receive_prepared(connection, row, self._limits)

        for last in (False, True):
            try:
                done = self._answer(self._connected(), answer, slow)
            except _Died as died:
                # Once may be somebody else's doing, such as the system being out of memory.
                if not last and not died.hung:
                    continue
                done = rejected(
                    row,
                    CorruptAudioError(
                        f"The recording is broken: its decoder {died}. Copy or export it again."
                    ),
                )
            self._begun.popleft()
            return done
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

    def _connected(self) -> Connection:
        """To the process, or to a new one, which is told again what is begun."""
        if self._connection is not None:
            return self._connection
        connection = self._start()
        for row in self._begun:
            _tell(connection, _preparing(row))
        return connection

    def _answer(
        self, connection: Connection, answer: Callable[[Connection], T], slow: Callable[[], None]
    ) -> T:
        try:
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
        near, far = _pipe()
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(far.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=[far.fileno()],
                env={**_MEMORY, **os.environ, "OMP_NUM_THREADS": "1"},
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


def _pipe() -> tuple[Connection, Connection]:
    """As `multiprocessing.Pipe`, with room for most answers."""
    near, far = socket.socketpair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return Connection(near.detach()), Connection(far.detach())


def _preparing(row: ManifestRow) -> dict[str, Any]:
    return {"do": "prepare", "path": str(row.path), "speaker": row.speaker}


def _tell(connection: Connection, message: dict[str, Any]) -> None:
    with suppress(OSError):  # where the process is gone, whoever waits for its answer notices
        send(connection, message)
