"""The demo's tour: enroll the bundled voices, serve them, and ask over HTTP. It returns answers and prints nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import voicevault
from voicevault.errors import VoicevaultError
from voicevault.manifest import read_corpus
from voicevault.settings import Settings
from voicevault.types import ImportSummary, RowOutcome

if TYPE_CHECKING:
    import httpx

FOLDER = Path(voicevault.__file__).parent / "demo"
MANIFEST = FOLDER / "enroll.tsv"
VOICES = FOLDER / "voices"
IDENTIFIED_SENTENCE, VERIFIED_SENTENCE = 5, 6
"""Held out of the enrollments."""
START_SECONDS = 300.0
"""How long the server may take to load the model, also on a slow disk."""


@dataclass(frozen=True, slots=True)
class Question:
    """A recording that was asked about, and what the server answered.

    Attributes:
        speaker: Who speaks; None where the voice is not enrolled.
        voice: Folder of the voice.
        answer: The server's JSON.
        seconds: From sending the recording until the answer was there.
    """

    voice: str
    file: Path
    speaker: str | None
    answer: dict[str, Any]
    seconds: float

    @property
    def right(self) -> bool:
        return bool(self.answer["speaker_id"] == self.speaker)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed identity, and what the server said to it."""

    voice: str
    file: Path
    claimed: str
    answer: dict[str, Any]

    @property
    def right(self) -> bool:
        return bool(self.answer.get("accepted") == (self.voice == self.claimed))


def recording(voice: str, sentence: int) -> Path:
    """A bundled recording."""
    return VOICES / voice / f"{sentence}.opus"


def enrolled_voices() -> list[str]:
    return list(dict.fromkeys(row.speaker for row in read_corpus(MANIFEST)))


def unknown_voices() -> list[str]:
    known = set(enrolled_voices())
    return sorted(folder.name for folder in VOICES.iterdir() if folder.is_dir() and folder.name not in known)


def demo_settings(settings: Settings) -> Settings:
    """The same model, in a data folder of the demo's own, on a free port of loopback."""
    from voicevault.bootstrap import model_folder

    home = settings.home / "demo"
    return settings.changed(
        home=home,
        database_url=f"sqlite:///{home / 'voicevault.db'}",
        model=str(model_folder(settings)),
        host="127.0.0.1",
        port=0,
    )


def enroll(settings: Settings, progress: Callable[[RowOutcome], None] | None = None) -> ImportSummary:
    """Bulk-enrolls the demo's speakers into a collection ``default`` that is made anew.

    Args:
        settings: Those of `demo_settings`; never the user's own, whose ``default`` would be emptied.

    Raises:
        VoicevaultError: What `Vault.open` and `Vault.enroll_many` raise.
    """
    from voicevault.vault import DEFAULT_COLLECTION, Vault

    with Vault.open(settings) as vault:
        vault.delete_collection(DEFAULT_COLLECTION)
        vault.create_collection(DEFAULT_COLLECTION)
        return vault.enroll_many(MANIFEST, progress=progress)


class Client:
    """Asks a running server about bundled recordings."""

    def __init__(self, http: httpx.Client, url: str) -> None:
        self._http, self.url = http, url

    def identify(self, voice: str, enrolled: bool) -> Question:
        """Who speaks in the voice's held-out sentence?"""
        file = recording(voice, IDENTIFIED_SENTENCE)
        start = time.perf_counter()
        answer = self._post("identify", file, {})
        return Question(voice, file, voice if enrolled else None, answer, time.perf_counter() - start)

    def verify(self, voice: str, claimed: str) -> Claim:
        """Is the voice's held-out sentence spoken by `claimed`?"""
        file = recording(voice, VERIFIED_SENTENCE)
        return Claim(voice, file, claimed, self._post("verify", file, {"speaker": claimed}))

    def _post(self, route: str, file: Path, query: dict[str, str]) -> dict[str, Any]:
        response = self._http.post(
            f"/v1/collections/default/{route}",
            params=query,
            content=file.read_bytes(),
            headers={"Content-Type": "audio/ogg"},
        )
        answer: dict[str, Any] = response.json()
        # Of a speaker none of whose recordings could be enrolled, that is the answer.
        if response.status_code != 200 and answer.get("code") != "SPEAKER_NOT_FOUND":
            raise VoicevaultError(
                f"The server answered {response.status_code} to {route}: {answer.get('detail', answer)}",
                problem=answer,
            )
        return answer


@contextmanager
def server(settings: Settings) -> Iterator[Client]:
    """Runs ``voicevault serve`` in a process of its own and yields a client once it is ready.

    Raises:
        VoicevaultError: It ends, or is not ready in time; with the last lines that it wrote.
    """
    import httpx

    # Every setting in force goes along, whatever the environment of that process says.
    flags = [
        f"--{name.replace('_', '-')}={','.join(value) if isinstance(value, list) else value}"
        for name, value in settings.model_dump(mode="json").items()
        if value not in (None, [])
    ]
    log = settings.home / "serve.log"
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "voicevault", "serve", *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=os.name == "posix",  # Ctrl-C reaches us, and we end it
        )
    deadline = time.monotonic() + START_SECONDS
    watchdog = threading.Timer(START_SECONDS, process.kill)
    try:
        watchdog.start()
        assert process.stdout is not None
        line = process.stdout.readline()  # "voicevault listens on URL", or the end of a process that failed
        if "http://" not in line:
            process.wait(timeout=10)
            raise VoicevaultError(f"The server did not start: {_tail(log)}", log=str(log))
        url = "http://" + line.split("http://", 1)[1].strip()
        with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http:
            while http.get("/readyz").status_code != 200:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise VoicevaultError(f"The server is not ready: {_tail(log)}", log=str(log))
                time.sleep(0.1)
            watchdog.cancel()
            yield Client(http, url)
    finally:
        watchdog.cancel()
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return " ".join(line for line in lines if line)[-500:] or "it wrote nothing."
