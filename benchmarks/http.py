"""Identification and verification over HTTP: a real server on loopback, at one client and at several."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING
from urllib.parse import quote

from benchmarks.benchmark import Benchmark, Bound, Metrics, Options, Table, Unmeasured, option
from benchmarks.plots import COLORS, INK, footer, new_figure, save
from benchmarks.report import where
from benchmarks.rows import Recorded, Rows
from benchmarks.serving import post_all, running_server
from benchmarks.timing import interleaved, latency, one_thread
from benchmarks.workbench import (
    FORMATS,
    by_speaker,
    encode_audio,
    fill_gallery,
    find_recordings,
    speech_clip,
    temporary_settings,
)
from voicevault.errors import RequestError
from voicevault.types import ManifestRow
from voicevault.vault import DEFAULT_COLLECTION

if TYPE_CHECKING:
    from rich.progress import Progress

    from voicevault.settings import Settings

OPERATIONS = ("identify", "verify")
STAGES = ("decode", "speech", "embed", "search")
THRESHOLD = 0.5
"""Given with every request, since a model may have no policy."""
DIRECT = 30
"""Answers of the vault without a server, of each operation."""
SPEAKERS = 12
"""At most so many speakers are enrolled and ask."""
WAITING = "#c8c8c8"
FEW = 30
"""Requests per series below which neither throughput nor scaling says anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions(Options):
    clients: tuple[int, ...] = option((1, 8), "clients at a time, each with one connection")
    requests: int = option(100, "requests per series")
    rounds: int = option(3, "series of each operation and number of clients")
    gallery: int = option(1_000, "speakers in the gallery beside those who ask")
    seconds: float = option(3.0, "seconds of speech in a request", least=0.5)
    format: str = option("WAV", f"format of the recordings that are sent: {', '.join(FORMATS)}")


def measure(options: HttpOptions, rows: Rows, progress: Progress) -> None:
    from voicevault.cores import available_cores

    if options.format not in FORMATS:
        raise RequestError(f"format is one of {', '.join(FORMATS)}.", format=options.format)
    speakers = dict(islice(by_speaker(find_recordings(options)).items(), SPEAKERS))
    task = progress.add_task("preparing", total=None)
    with temporary_settings(options, rows.path) as settings:
        probes = _enroll(settings, speakers, options, rows)
        with running_server(settings) as server:
            series = [(operation, clients) for operation in OPERATIONS for clients in options.clients]
            total = options.rounds * options.requests * len(series)
            progress.update(task, description="requests", total=total)
            for operation, clients in series:  # nothing is loaded or compiled for the first time later
                post_all(server, _requests(operation, probes, max(2, clients)), clients)
            for number in range(options.rounds):
                random.Random(options.seed + number).shuffle(series)
                for operation, clients in series:
                    asked = _requests(operation, probes, options.requests)
                    before = server.cpu_seconds()
                    calls, seconds = post_all(server, asked, clients, lambda: progress.advance(task))
                    after = server.cpu_seconds()
                    rows.append(
                        "series",
                        operation=operation,
                        clients=clients,
                        round=number,
                        requests=len(calls),
                        seconds=seconds,
                        cores=available_cores(),
                        server_cpu=None if before is None or after is None else after - before,
                    )
                    for call in calls:
                        rows.append(
                            "request",
                            operation=operation,
                            clients=clients,
                            round=number,
                            seconds=call.seconds,
                            timing=call.answer["timing"],
                        )


def _enroll(
    settings: Settings, speakers: dict[str, list[ManifestRow]], options: HttpOptions, rows: Rows
) -> list[tuple[str, bytes]]:
    """Fills the vault, enrolls the speakers, and asks without a server, on one thread; (speaker, recording to
    send) of each."""
    from voicevault.vault import Vault

    probes = []
    with Vault.open(settings) as vault:
        fill_gallery(settings, vault, options.gallery, options.seed)
        for speaker, recordings in speakers.items():
            enrolled = speech_clip(vault.pipeline, recordings, 10.0)
            vault.enroll(speaker, encode_audio(enrolled, "WAV"))
            asked = speech_clip(vault.pipeline, recordings[::-1], options.seconds)
            probes.append((speaker, encode_audio(asked, options.format)))
        turns = cycle(probes)

        def identify() -> object:
            return vault.identify(next(turns)[1], threshold=THRESHOLD)

        def verify() -> object:
            return vault.verify(*next(turns), threshold=THRESHOLD)

        calls = {"identify": identify, "verify": verify}
        with one_thread(), vault.pipeline.encoder.one_thread_per_call():
            for sample in interleaved(calls, min(options.requests, DIRECT), seed=options.seed, warmup=3):
                rows.append("direct", operation=sample.name, seconds=sample.wall, cpu=sample.cpu)
    return probes


def _requests(operation: str, probes: Sequence[tuple[str, bytes]], count: int) -> list[tuple[str, bytes]]:
    """Paths and bodies, every probe in turn."""
    base = f"/v1/collections/{DEFAULT_COLLECTION}/{operation}?threshold={THRESHOLD}"
    made = []
    for place in range(count):
        speaker, recording = probes[place % len(probes)]
        asked = "&k=5" if operation == "identify" else f"&speaker={quote(speaker)}"
        made.append((base + asked, recording))
    return made


def _rate(recorded: Recorded, operation: str, clients: int) -> float:
    """Requests per second, median of the series."""
    found = recorded.where("series", operation=operation, clients=clients)
    return float(median(row["requests"] / row["seconds"] for row in found))


def _cores(recorded: Recorded) -> int:
    return int(recorded.where("series")[0]["cores"])


def metrics(recorded: Recorded) -> Metrics:
    derived: dict[str, float | Unmeasured] = {}
    numbers = sorted(recorded.distinct("clients", "series"))
    few = Unmeasured("one client was not among those asked for")
    overheads: list[float | Unmeasured] = []
    cpu: list[float | Unmeasured] = []
    for operation in OPERATIONS:
        for clients in numbers:
            found = latency(recorded.values("seconds", "request", operation=operation, clients=clients))
            for name in ("p50", "p95", "p99"):
                derived[f"{operation}_{clients}_{name}_ms"] = 1e3 * getattr(found, name)
            derived[f"{operation}_{clients}_per_second"] = _rate(recorded, operation, clients)
        alone = recorded.where("request", operation=operation, clients=1)
        overheads.append(
            latency([row["seconds"] / row["timing"]["total"] for row in alone]).p50 if alone else few
        )
        derived[f"{operation}_cpu_ms"] = server = _server_cpu_ms(recorded, operation)
        derived[f"{operation}_direct_cpu_ms"] = direct = _direct_cpu_ms(recorded, operation)
        cpu.append(server if isinstance(server, Unmeasured) else server / direct)
    derived["http_over_vault"] = _worst(overheads)
    derived["http_cpu_over_vault"] = _worst(cpu)
    derived["busy_cores"] = _busy_cores(recorded, numbers)
    return derived


def _worst(values: Sequence[float | Unmeasured]) -> float | Unmeasured:
    numbers = [value for value in values if not isinstance(value, Unmeasured)]
    return (
        max(numbers) if len(numbers) == len(values) else next(v for v in values if isinstance(v, Unmeasured))
    )


def _direct_cpu_ms(recorded: Recorded, operation: str) -> float:
    """CPU milliseconds of the vault's answer where there is no server, mean."""
    return float(1e3 * mean(recorded.values("cpu", "direct", operation=operation)))


def _server_cpu_ms(recorded: Recorded, operation: str) -> float | Unmeasured:
    found = recorded.where("series", operation=operation)
    if any(row["server_cpu"] is None for row in found):
        return Unmeasured("the system does not tell the CPU time of another process")
    return float(1e3 * sum(row["server_cpu"] for row in found) / sum(row["requests"] for row in found))


def _busy_cores(recorded: Recorded, numbers: Sequence[int]) -> float | Unmeasured:
    """Share of the machine's cores that the server keeps computing while most clients ask, the worst operation's."""
    shares = []
    for operation in OPERATIONS:
        found = recorded.where("series", operation=operation, clients=max(numbers))
        if max(numbers) < 2 * _cores(recorded):
            return Unmeasured(f"{max(numbers)} clients are too few to keep {_cores(recorded)} cores busy")
        if min(row["requests"] for row in found) < FEW:
            return Unmeasured(f"fewer than {FEW} requests a series")
        if any(row["server_cpu"] is None for row in found):
            return Unmeasured("the system does not tell the CPU time of another process")
        shares.append(median(row["server_cpu"] / row["seconds"] / row["cores"] for row in found))
    return float(min(shares))


def _parts(recorded: Recorded, operation: str, clients: int) -> dict[str, float]:
    """Mean milliseconds of a request by stage; what the vault does beside, and what lies around it."""
    found = recorded.where("request", operation=operation, clients=clients)
    parts = {
        stage: 1e3 * sum(row["timing"].get(stage, 0.0) for row in found) / len(found) for stage in STAGES
    }
    total = 1e3 * sum(row["timing"]["total"] for row in found) / len(found)
    whole = 1e3 * sum(row["seconds"] for row in found) / len(found)
    return {**parts, "other": max(total - sum(parts.values()), 0.0), "HTTP, waiting": max(whole - total, 0.0)}


def tables(recorded: Recorded) -> list[Table]:
    derived, series = metrics(recorded), [(o, c) for o in OPERATIONS for c in _clients(recorded)]
    lines, shares = [], []
    for operation, clients in series:
        found = latency(
            [1e3 * s for s in recorded.values("seconds", "request", operation=operation, clients=clients)]
        )
        rate = _rate(recorded, operation, clients)
        lines.append((operation, clients, found.p50, found.p95, found.p99, rate, found.count))
        parts = _parts(recorded, operation, clients)
        shares.append((operation, clients, *parts.values()))
    return [
        Table(
            "Over HTTP, latency in milliseconds as the client sees it",
            ("operation", "clients", "p50", "p95", "p99", "requests/s", "requests"),
            lines,
            "CPU time of a request in the server: "
            + ", ".join(
                f"{o} {_shown(derived[f'{o}_cpu_ms'])} ms, where the vault alone takes"
                f" {_shown(derived[f'{o}_direct_cpu_ms'])} ms"
                for o in OPERATIONS
            )
            + f". {_cores(recorded)} cores, which the clients share.",
        ),
        Table(
            "Where a request spends its time, mean milliseconds",
            ("operation", "clients", *_parts(recorded, *series[0])),
            shares,
            "Stages as the answers state them. Waiting: for a free core, where more clients ask than there are.",
        ),
    ]


def _shown(value: float | Unmeasured) -> str:
    return "an unknown number of" if isinstance(value, Unmeasured) else f"{value:.3g}"


def _clients(recorded: Recorded) -> list[int]:
    return sorted(recorded.distinct("clients", "series"))


def plot(recorded: Recorded, path: Path) -> None:
    figure, (left, right) = new_figure(10.0, 4.2, 2)
    series = [(o, c) for o in OPERATIONS for c in _clients(recorded)]
    names = [f"{o}, {c} client{'s' if c > 1 else ''}" for o, c in series]
    for color, name, (operation, clients) in zip(COLORS, names, series, strict=False):
        times = sorted(
            1e3 * t for t in recorded.values("seconds", "request", operation=operation, clients=clients)
        )
        shares = [(place + 1) / len(times) for place in range(len(times))]
        left.step(times, shares, where="post", color=color, label=name, linewidth=1.6)
    left.set_ylim(0.0, 1.01)
    left.set_xlim(left=0.0)
    left.set_xlabel("Milliseconds")
    left.set_ylabel("Share of requests answered")
    left.set_title("Latency over HTTP", loc="left", color=INK)
    left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    starts = [0.0] * len(series)
    for color, stage in zip((*COLORS[:5], WAITING), _parts(recorded, *series[0]), strict=True):
        widths = [_parts(recorded, *one)[stage] for one in series]
        right.barh(names, widths, left=starts, color=color, label=stage, height=0.6)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    right.invert_yaxis()
    right.set_xlabel("Mean milliseconds of a request")
    right.set_title("Where they go", loc="left", color=INK)
    right.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=3)
    footer(figure, where(recorded))
    save(figure, path)


BENCHMARK = Benchmark(
    name="http",
    summary="latency and throughput of identification and verification over HTTP",
    options=HttpOptions,
    measure=measure,
    metrics=metrics,
    tables=tables,
    plot=plot,
    bounds=(
        Bound(
            name="one client's latency beside the vault's own time",
            metric="http_over_vault",
            at_most=1.15,
            unit="x",
            why="HTTP is small beside a network",
        ),
        Bound(
            name="CPU time of a request beside the vault's own",
            metric="http_cpu_over_vault",
            at_most=1.25,
            unit="x",
            why="reading, queueing and JSON cost little",
        ),
        Bound(
            name="cores that the server keeps busy",
            metric="busy_cores",
            at_least=0.85,
            unit="of them",
            why="requests run side by side; the clients need the rest",
        ),
    ),
    quick={"requests": 16, "rounds": 1, "gallery": 50},
)
