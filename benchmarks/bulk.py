"""The rate of bulk enrollment, beside the bare encoder's and beside what the stages alone would allow."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark, Bound, Metrics, Options, Table, Unmeasured, option
from benchmarks.bulk_parts import bare_encoder, stages_alone, stages_crowded
from benchmarks.plots import COLORS, INK, footer, new_figure, save
from benchmarks.report import where
from benchmarks.rows import Recorded, Rows
from benchmarks.workbench import find_recordings, temporary_settings
from voicevault.errors import RequestError
from voicevault.types import ManifestRow, RowOutcome

if TYPE_CHECKING:
    from rich.progress import Progress

    from voicevault.vault import Vault

STAGES = ("decode", "speech", "embed", "commit")
ENOUGH = 1_000
"""Recordings below which the start of the processes weighs too much to speak of a rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOptions(Options):
    recordings: int = option(
        6_000,
        "recordings of one import, of whose time the start (0.6 s on two cores) is 1 to 2 % then;"
        " the voices are enrolled again under other names",
    )
    sample: int = option(180, "different recordings that each stage is measured on alone")
    rounds: int = option(3, "imports, each beside the stages alone and the bare encoder")
    batch: int = option(32, "recordings that are embedded and committed together")
    device: str = option("cpu", "where the model runs")


def measure(options: BulkOptions, rows: Rows, progress: Progress) -> None:
    from voicevault.cores import available_cores
    from voicevault.vault import Vault

    recordings = find_recordings(options)
    every = max(len(recordings) / options.sample, 1.0)
    chosen = [recordings[int(place * every)] for place in range(min(len(recordings), options.sample))]
    with (
        temporary_settings(options, rows.path, device=options.device) as settings,
        Vault.open(settings) as vault,
    ):
        vault.warm()
        usable = _usable(vault, chosen, progress)
        rows.append("sample", recordings=len(usable), refused=len(chosen) - len(usable),
                    cores=available_cores(), device=options.device)  # fmt: skip
        manifest = _repeated(usable, options.recordings)
        order = [stages_alone, bare_encoder, _import]
        if options.device == "cpu":
            order.append(stages_crowded)
        steps = len(manifest) + (len(order) - 1) * len(usable)
        task = progress.add_task("rounds", total=options.rounds * steps)
        for number in range(options.rounds):
            # Drawn anew, so that what disturbs the machine for a while hits all of them alike.
            random.Random(options.seed + number).shuffle(order)
            for part in order:
                work = manifest if part is _import else usable
                part(vault, work, options.batch, rows, number)
                progress.advance(task, len(work))


def _usable(vault: Vault, recordings: Sequence[ManifestRow], progress: Progress) -> list[ManifestRow]:
    """Those that are accepted: what is refused takes no part in the later stages."""
    from voicevault.errors import AudioError

    found = []
    for row in progress.track(recordings, description="choosing recordings"):
        try:
            vault.pipeline.prepare(row.path).require(vault.settings.min_enroll_speech)
        except AudioError:
            continue
        found.append(row)
    if not found:
        raise RequestError("None of the recordings can be enrolled.", recordings=len(recordings))
    return found


def _repeated(rows: Sequence[ManifestRow], count: int) -> list[ManifestRow]:
    """All of `rows` again and again, each time under other speakers' names, `count` or a few more in all."""
    copies = -(-count // len(rows))
    return [replace(row, speaker=f"{row.speaker}-{copy}") for copy in range(copies) for row in rows]


def _import(vault: Vault, manifest: Sequence[ManifestRow], batch: int, rows: Rows, number: int) -> None:
    collection = f"import-{number}"
    vault.create_collection(collection)
    start, cpu = time.perf_counter(), _cpu_seconds()
    done = 0

    def count(outcome: RowOutcome) -> None:
        nonlocal done
        done += 1
        if done % batch == 0:
            rows.append("imported", round=number, recordings=done, seconds=time.perf_counter() - start)

    summary = vault.enroll_many(manifest, collection=collection, batch=batch, progress=count)
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    vault.delete_collection(collection)
    if summary.enrolled != len(manifest):
        raise RequestError(
            f"{len(manifest) - summary.enrolled} of {len(manifest)} recordings were not enrolled.",
            codes=dict(summary.codes),
        )
    rows.append("import", round=number, recordings=len(manifest), seconds=seconds, cpu=cpu,
                audio_seconds=summary.audio_seconds)  # fmt: skip


def _cpu_seconds() -> float:
    """CPU time so far, of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _cpu_ms(recorded: Recorded, stage: str) -> float:
    """CPU milliseconds of a stage per recording, median of the rounds."""
    return float(1e3 * median(row["cpu"] / row["recordings"] for row in recorded.where("stage", stage=stage)))


def _crowded_ms(recorded: Recorded, stage: str) -> float | None:
    """The same while all cores are at that stage; None where it was not measured."""
    found = [1e3 * row["cpu"] / row["recordings"] for row in recorded.where("crowded", stage=stage)]
    return float(median(found)) if found else None


def _rate(recorded: Recorded, kind: str) -> float:
    """Recordings per second, median of the rounds."""
    return float(median(row["recordings"] / row["seconds"] for row in recorded.where(kind)))


def _ideal(recorded: Recorded) -> float:
    """Recordings per second that the stages allow where no core is ever idle."""
    cores, device = (recorded.where("sample")[0][name] for name in ("cores", "device"))
    if device == "cpu":
        return float(1e3 * cores / sum(_cpu_ms(recorded, stage) for stage in STAGES))
    host = 1e3 * cores / sum(_cpu_ms(recorded, stage) for stage in STAGES if stage != "embed")
    return float(min(host, _rate(recorded, "encoder")))


def metrics(recorded: Recorded) -> Metrics:
    bulk, bare, ideal = _rate(recorded, "import"), _rate(recorded, "encoder"), _ideal(recorded)
    cpu = float(1e3 * median(row["cpu"] / row["recordings"] for row in recorded.where("import")))
    derived: dict[str, float | Unmeasured] = {
        "bulk_per_second": bulk,
        "encoder_per_second": bare,
        "ideal_per_second": ideal,
        "bulk_over_encoder": bulk / bare,
        "bulk_over_ideal": bulk / ideal,
        "bulk_cpu_ms": cpu,
        "bulk_cpu_over_stages": cpu / sum(_cpu_ms(recorded, stage) for stage in STAGES),
        "times_real_time": median(row["audio_seconds"] / row["seconds"] for row in recorded.where("import")),
    }
    derived |= {f"{stage}_cpu_ms": _cpu_ms(recorded, stage) for stage in STAGES}
    crowded = {stage: ms for stage in STAGES if (ms := _crowded_ms(recorded, stage)) is not None}
    if crowded:
        derived |= {f"{stage}_crowded_cpu_ms": ms for stage, ms in crowded.items()}
        every = sum(crowded.get(stage, _cpu_ms(recorded, stage)) for stage in STAGES)
        derived["crowded_per_second"] = 1e3 * recorded.where("sample")[0]["cores"] / every
    count = recorded.where("import")[0]["recordings"]
    if count < ENOUGH:
        few = Unmeasured(f"{count} recordings: the start of the processes weighs too much")
        derived |= {"bulk_over_ideal": few, "bulk_cpu_over_stages": few}
    return derived


def tables(recorded: Recorded) -> list[Table]:
    derived, (sample,) = metrics(recorded), recorded.where("sample")
    lines: list[tuple[object, ...]] = []
    for stage in STAGES:
        cpu = _cpu_ms(recorded, stage)
        wall = 1e3 * median(r["seconds"] / r["recordings"] for r in recorded.where("stage", stage=stage))
        lines.append((stage, cpu, _crowded_ms(recorded, stage), wall, 1e3 / wall))
    total = sum(_cpu_ms(recorded, stage) for stage in STAGES)
    lines.append(("all four", total, None, None, 1e3 / total))
    lines.append(("an import, everything", derived["bulk_cpu_ms"], None, None, None))
    first = recorded.where("import")[0]
    rates = [
        ("bulk enrollment", derived["bulk_per_second"]),
        ("the stages, no core ever idle", derived["ideal_per_second"]),
        ("the same at what they take with all cores at them", derived.get("crowded_per_second")),
        ("bare encoder, all cores", derived["encoder_per_second"]),
    ]
    return [
        Table(
            "Stages of bulk enrollment, each alone on one core",
            ("stage", "CPU ms per recording", "with all cores at it", "ms per recording", "recordings/s"),
            lines,
            f"{sample['recordings']} recordings, median of the rounds. What a stage takes longer when every core has a"
            " process at it is what the cores share: caches, memory, power.",
        ),
        Table(
            "Rates on this machine",
            ("what", "recordings/s", "bulk beside it"),
            [
                (name, rate, _rate(recorded, "import") / rate if isinstance(rate, float) else None)
                for name, rate in rates
            ],
            f"{first['recordings']:,} recordings an import, {derived['times_real_time']:,.0f} times real time on"
            f" {sample['cores']} cores, from the first call to the last commit.",
        ),
    ]


def plot(recorded: Recorded, path: Path) -> None:
    figure, (left, right) = new_figure(10.0, 4.2, 2, width_ratios=(2, 3))
    for place, (stage, color) in enumerate(zip(STAGES, COLORS, strict=False)):
        cpu = _cpu_ms(recorded, stage)
        left.barh(-place, cpu, color=color, height=0.6)
        left.annotate(f"{cpu:.3g}", (cpu, -place), (4, 0), textcoords="offset points", va="center", color=INK)
    left.set_yticks([-place for place in range(len(STAGES))], STAGES)
    left.margins(x=0.18)
    left.set_xlabel("CPU milliseconds per recording")
    left.set_title("Stages, each alone", loc="left", color=INK)
    longest = max(recorded.values("seconds", "import"))
    for number in recorded.distinct("round", "import"):
        steps = recorded.where("imported", round=number)
        end = recorded.where("import", round=number)[0]
        right.plot(
            [0.0, *(row["seconds"] for row in steps), end["seconds"]],
            [0, *(row["recordings"] for row in steps), end["recordings"]],
            color=COLORS[0],
            linewidth=1.6,
            alpha=0.8,
            label="bulk enrollment" if number == 0 else None,
        )
    most = recorded.where("import")[0]["recordings"]
    for label, rate, style, color in (
        ("stages, no core idle", _ideal(recorded), "--", INK),
        ("bare encoder", _rate(recorded, "encoder"), ":", COLORS[2]),
    ):
        end_time = min(longest, most / rate)
        right.plot(
            [0.0, end_time], [0.0, rate * end_time], style, color=color, label=f"{label}: {rate:.3g}/s"
        )
    right.set_xlabel("Seconds")
    right.set_ylabel("Recordings enrolled")
    right.set_title(f"Imports, {_rate(recorded, 'import'):.3g} recordings/s", loc="left", color=INK)
    right.legend(frameon=False, loc="lower right")
    footer(figure, where(recorded))
    save(figure, path)


BENCHMARK = Benchmark(
    name="bulk",
    summary="rate of bulk enrollment, beside the bare encoder's and beside the stages'",
    options=BulkOptions,
    measure=measure,
    metrics=metrics,
    tables=tables,
    plot=plot,
    bounds=(
        Bound(
            name="bulk beside its stages with no core idle",
            metric="bulk_over_ideal",
            at_least=0.9,
            unit="x",
            why="decoding, detection, embedding and commits overlap",
        ),
        Bound(
            name="CPU time of an import beside its stages",
            metric="bulk_cpu_over_stages",
            at_most=1.2,
            unit="x",
            why="passing recordings on and starting processes costs little",
        ),
    ),
    quick={"recordings": 60, "sample": 20, "rounds": 1},
)
