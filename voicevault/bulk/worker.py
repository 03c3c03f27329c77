"""The far end of a decoding process. It loads no torch, and nothing of the program that started it.

Messages are JSON and, for a recording, its samples as bytes behind it: what comes out of a process that has
opened hostile files is never unpickled.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from voicevault.audio import AudioLimits, SpeechDetector
from voicevault.bulk.stages import Prepared, fingerprint, prepare_batch
from voicevault.embedding import PreparedRecording
from voicevault.types import SAMPLE_RATE, Float32Array, ManifestRow, Quality, RowOutcome, Segment


def serve(descriptor: int) -> None:
    """Answers requests on a socket until its other end is closed."""
    with Connection(descriptor) as connection, suppress(EOFError, ConnectionError):
        config = json.loads(connection.recv_bytes())
        detector = SpeechDetector(**config["detector"])
        limits = AudioLimits(**config["limits"])
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        connection.send_bytes(b"{}")
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)  # what decoders have to say is in the answers; they chatter besides
            while True:
                request = json.loads(connection.recv_bytes())
                path = Path(request["path"])
                # The other end kills a process that hangs; should it be gone by then, this one ends itself.
                signal.setitimer(signal.ITIMER_REAL, config["timeout"] + 5)
                if request["do"] == "fingerprint":
                    send(connection, {"sha256": fingerprint(path, limits)})
                else:
                    row = ManifestRow(path, request["speaker"])
                    send_prepared(connection, prepare_batch([row], detector, limits, config["min_speech"])[0])
                signal.setitimer(signal.ITIMER_REAL, 0)


def send(connection: Connection, message: dict[str, Any]) -> None:
    # ASCII: names of files that are no UTF-8 (surrogates in Python) pass unharmed.
    connection.send_bytes(json.dumps(message).encode("ascii"))


def send_prepared(connection: Connection, answer: Prepared | RowOutcome) -> None:
    if isinstance(answer, RowOutcome):
        send(connection, {"outcome": asdict(answer)})
        return
    recording = answer.recording
    send(
        connection,
        {
            "quality": asdict(recording.quality),
            "source_sha256": recording.source_sha256,
            "audio_sha256": recording.audio_sha256,
            "timing": dict(recording.timing),
        },
    )
    connection.send_bytes(np.ascontiguousarray(recording.samples, dtype="<f4").data.cast("B"))


def receive(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes(1 << 20))


def receive_prepared(connection: Connection, row: ManifestRow, limits: AudioLimits) -> Prepared | RowOutcome:
    """The other end of `send_prepared`. Raises EOFError or OSError where the process is gone."""
    message = receive(connection)
    if "outcome" in message:
        return RowOutcome(**message["outcome"])
    samples: Float32Array = np.frombuffer(
        connection.recv_bytes(4 * (int(limits.max_seconds * SAMPLE_RATE) + SAMPLE_RATE)), dtype="<f4"
    )
    return Prepared(
        row,
        PreparedRecording(
            samples,
            (Segment(0.0, len(samples) / SAMPLE_RATE),),
            Quality(**message["quality"]),
            message["source_sha256"],
            message["audio_sha256"],
            message["timing"],
        ),
    )
