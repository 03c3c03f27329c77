"""A real server in a process of its own, and clients that keep it busy."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from voicevault.errors import VoicevaultError
from voicevault.settings import PREFIX, Settings

START_SECONDS = 180.0
_PROGRAM = (
    "from voicevault.service.server import serve; from voicevault.settings import Settings; serve(Settings())"
)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where it listens, and its process."""

    host: str
    port: int
    pid: int

    def cpu_seconds(self) -> float | None:
        """CPU time of the process so far; None where the system does not tell."""
        try:
            # proc(5): utime and stime are the 14th and 15th fields; the second may hold blanks and brackets.
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


@contextmanager
def running_server(settings: Settings) -> Iterator[RunningServer]:
    """``voicevault serve`` with these settings on a free loopback port, ready to answer; ended afterwards.

    Raises:
        VoicevaultError: It does not start; with the end of what it printed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    given = settings.changed(host="127.0.0.1").model_dump(mode="json", exclude_none=True)
    told = {
        f"{PREFIX}{name.upper()}": ",".join(value) if isinstance(value, list) else str(value)
        for name, value in given.items()
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            env={**kept, **told, f"{PREFIX}PORT": "0"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # it says where it listens, or ends
            where = urlsplit(line.split()[-1]) if line else None
            if where is None or where.hostname is None or where.port is None:
                process.wait(10)
                errors.seek(0)
                raise VoicevaultError(
                    f"The server did not start: {errors.read().decode(errors='replace')[-2000:].strip()}"
                )
            server = RunningServer(where.hostname, where.port, process.pid)
            _wait_until_ready(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(server: RunningServer) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status == 200:
            return
        if time.monotonic() > deadline:
            raise VoicevaultError(f"The server is not ready: {body.decode(errors='replace')[:500]}")
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its latency in seconds as the client sees it, and what the answer says."""

    seconds: float
    answer: dict[str, Any]


def post_all(
    server: RunningServer,
    requests: Sequence[tuple[str, bytes]],
    clients: int,
    step: Callable[[], object] = lambda: None,
) -> tuple[list[Call], float]:
    """Posts every (path, body) once; each of `clients` keeps one connection and sends its next request as soon
    as it has its answer. Returns the calls, and the seconds from the first to the last.

    Raises:
        VoicevaultError: The server answers anything but 200.
    """
    turns = count()

    def client(_: int) -> list[Call]:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
        calls = []
        try:
            while (turn := next(turns)) < len(requests):  # one step of the interpreter: no request twice
                path, body = requests[turn]
                start = time.perf_counter()
                connection.request("POST", path, body, {"Content-Type": "application/octet-stream"})
                response = connection.getresponse()
                answer = response.read()
                seconds = time.perf_counter() - start
                if response.status != 200:
                    raise VoicevaultError(
                        f"The server answered {response.status}: {answer.decode(errors='replace')[:500]}"
                    )
                calls.append(Call(seconds, json.loads(answer)))
                step()
        finally:
            connection.close()
        return calls

    with ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        calls = [call for part in pool.map(client, range(clients)) for call in part]
        return calls, time.perf_counter() - start
