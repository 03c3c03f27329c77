"""``models quantize | bench``: what a model gains in 8-bit arithmetic, and what it does on this machine."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voicevault.cli import render
from voicevault.cli.command import Session
from voicevault.errors import AudioError, RequestError, SettingsError

if TYPE_CHECKING:
    from voicevault.audio import SpeechDetector
    from voicevault.types import Float32Array

    Many = Callable[[list[Float32Array]], object]

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A name of `models list`, or the start of a model_id.", show_default=False
    ),
]


def quantize(
    session: Session,
    model: ModelArgument,
    calibration: Annotated[
        Path,
        typer.Option(
            metavar="PATH",
            help="Speech to calibrate on, like that of your users: a folder with recordings, or a manifest.",
            show_default=False,
        ),
    ],
    recordings: Annotated[int, typer.Option(metavar="N", min=8, help="How many of them are used.")] = 300,
    default: Annotated[
        bool, typer.Option("--default/--no-default", help="Compute in int8 where no precision is chosen.")
    ] = False,
) -> None:
    """Make the int8 variant of an ECAPA-TDNN: faster, and nearly the same embeddings.

    Measure what it costs on trials of your own before you make it the default: see the manual on models.
    """
    from voicevault.audio import SpeechDetector
    from voicevault.encoder.quantization import quantize as calibrate
    from voicevault.encoder.store import ModelStore
    from voicevault.manifest import read_corpus

    stored = ModelStore(session.settings.models_folder).get(model)
    if calibration.is_dir():
        files = sorted(file for file in calibration.rglob("*") if file.is_file())
    else:
        files = [row.path for row in read_corpus(calibration)]
    used = files[:: max(1, len(files) // recordings)][:recordings]
    session.note(f"Listening to {len(used)} of {len(files)} recordings ...")
    speech = list(_speech(session, used, SpeechDetector()))
    try:
        found = calibrate(stored.folder, speech, default=default)
    except OSError as error:
        raise RequestError(f"{stored.folder} cannot be written: {error.strerror}.") from error
    document = {"model": stored.name, **asdict(found), "default": default}
    text = (
        f"Calibrated {stored.name!r} on {found.seconds:.0f} s of speech in {found.recordings} recordings: cosine to"
        f" float32 {found.cosine_mean:.4f} on average, {found.cosine_min:.4f} at worst.\n"
    )
    text += "It computes in int8 from now on." if default else "Use it with --precision int8."
    session.answer(document, text)


def _speech(session: Session, files: list[Path], detector: SpeechDetector) -> Iterator[Float32Array]:
    """What the encoder would hear of each recording."""
    from voicevault.audio import AudioLimits
    from voicevault.audio.level import normalise
    from voicevault.embedding import prepare

    settings = session.settings
    limits, least = AudioLimits(settings.max_bytes, settings.max_seconds), settings.min_probe_speech
    left_out: Counter[str] = Counter()
    for file in files:
        try:
            recording = prepare(file, detector, limits)
            recording.require(least)
        except AudioError as error:
            left_out[error.code] += 1
            continue
        yield normalise(recording.speech)
    if left_out:
        reasons = ", ".join(f"{code} {count}" for code, count in left_out.most_common())
        session.note(f"Left out: {reasons}.")


def bench(
    session: Session,
    model: ModelArgument = "default",
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Timed calls of each kind.")] = 15,
) -> None:
    """Measure what a model does on this machine, beside the detection of speech.

    Times are medians, of a whole call by the clock; let nothing else compute meanwhile.
    """
    from voicevault.audio import SpeechDetector
    from voicevault.cores import available_cores
    from voicevault.encoder.encoder import ModelEncoder
    from voicevault.encoder.store import ModelStore

    stored = ModelStore(session.settings.models_folder).get(model)
    cores, device = available_cores(), session.settings.device
    detector = SpeechDetector()
    contenders: list[tuple[str, int, Many]] = [
        ("speech detection", 1, lambda clips: [detector.segments(clip) for clip in clips])
    ]
    for precision in ("fp32", *stored.config.get("variants", {})):
        for threads in sorted({1, session.settings.threads or cores}):
            try:
                encoder = ModelEncoder(stored.folder, threads=threads, device=device, precision=precision)
            except SettingsError as error:
                if precision == "fp32":
                    raise
                session.note(error.message)
                break
            contenders.append((f"embedding, {encoder.engine}", threads, encoder.embed))
    cases = [("3 s", [_clip(3.0)]), ("10 s", [_clip(10.0)]), ("each of 16 of 3 s", [_clip(3.0)] * 16)]
    measured = [
        {"what": what, "threads": threads}
        | {name: 1e3 * _median(lambda: call(clips), repeats) / len(clips) for name, clips in cases}  # noqa: B023
        for what, threads, call in contenders
    ]
    rows = [[f"{v:.1f}" if isinstance(v, float) else v for v in line.values()] for line in measured]
    session.answer(
        {"model": stored.name, "cores": cores, "device": device, "milliseconds": measured},
        render.table(list(measured[0]), rows, numbers=list(measured[0])[1:]),
        "Milliseconds, medians; decoding comes on top.",
    )


def _clip(seconds: float) -> Float32Array:
    """Speech of that length, from the voices that come with the package."""
    import numpy as np

    from voicevault.audio import decode
    from voicevault.audio.level import normalise
    from voicevault.demo.tour import recording
    from voicevault.types import SAMPLE_RATE

    whole = np.concatenate([decode(recording("alba", sentence)).samples for sentence in range(1, 4)])
    return normalise(np.resize(whole, round(seconds * SAMPLE_RATE)))


def _median(call: Callable[[], object], repeats: int) -> float:
    """Seconds."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
