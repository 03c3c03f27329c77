"""The compressed index at size: recall against the exact scan, latency beside other engines and the memory's own speed,
writes, compaction, memory, batches."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.benchmark import Benchmark, Bound, Metrics, Options, Table, Unmeasured, option
from benchmarks.plots import COLORS, INK, footer, legend, log_axis, new_figure, save
from benchmarks.report import where
from benchmarks.rows import Recorded, Rows
from benchmarks.timing import latency

if TYPE_CHECKING:
    from rich.progress import Progress

SMALL, LARGE = 100_000, 1_000_000
"""Gallery sizes that the bounds speak of."""
OVER_FLOOR = 1.6
"""Most times as long as one read of the codes by one core that a probe may take."""
OURS, READ = "compressed index", "memory read"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions(Options):
    n: int = option(LARGE, "speakers in the largest gallery; one of a tenth is measured too", least=20_000)
    dim: int = option(192, "dimensions of a voiceprint of the hard gallery", least=4)
    probes: int = option(9_999, "probes of the recall, a third of each kind", least=30)
    rounds: int = option(100, "timed searches per contender")
    galleries: tuple[str, ...] = option(("hard", "grown"), "populations: hard, grown")
    database: bool = option(
        True, "also fill a SQLite database and measure rebuild, start, writes and compaction", least=0
    )
    graphs: bool = option(
        True,
        "also build graph engines, which takes minutes, over the smaller gallery of the first population",
        least=0,
    )
    seconds: float = option(15.0, "seconds of 1,000 adds a second", least=0.2)


def measure(options: IndexOptions, rows: Rows, progress: Progress) -> None:
    from benchmarks import index_parts as parts
    from benchmarks.galleries import grown, hard
    from benchmarks.index_peers import versions
    from voicevault.errors import VoicevaultError

    sizes = sorted({options.n, options.n // 10} if options.n >= 100_000 else {options.n})
    task = progress.add_task(
        "", total=len(sizes) * len(options.galleries) * (2 * options.probes + 6 * options.rounds)
    )
    rows.append("versions", **versions())

    def tell(text: str) -> None:
        progress.update(task, description=text)

    with tempfile.TemporaryDirectory(prefix="index-", dir=rows.path.parent) as name:
        for kind in options.galleries:
            tell(f"{kind}: population")
            try:
                population = hard(options.dim, options.seed) if kind == "hard" else grown(options)
            except VoicevaultError as error:
                rows.append("absent", gallery=kind, reason=error.message)
                continue
            first = kind == options.galleries[0]
            for size in sizes:
                folder = Path(name) / f"{kind}-{size}"
                folder.mkdir()
                tell(f"{kind}, {size:,}: build")
                built = parts.build(population, size, options.probes, options.seed, folder, rows)
                tell(f"{kind}, {size:,}: recall")
                exact = parts.recall(built, rows, lambda count: progress.advance(task, count))
                tell(f"{kind}, {size:,}: latency")
                parts.latency(
                    built,
                    exact,
                    options.rounds,
                    options.seed,
                    options.graphs,
                    rows,
                    lambda: progress.advance(task),
                )
                parts.memory(built, rows)
                if first:
                    if size == sizes[0]:
                        tell(f"{kind}, {size:,}: batches")
                        parts.batches(built, (64, 1024), max(3, options.rounds // 10), options.seed, rows)
                    if size == sizes[-1]:
                        tell(f"{kind}, {size:,}: changes")
                        steps = (0, size // 256, size // 128, size // 64, size // 32)
                        parts.changes(built, steps, options.rounds, options.seed, rows)
                        if options.database:
                            parts.database(built, folder, options.seconds, rows, tell)
                del built
        progress.update(task, completed=progress.tasks[task].total)


# --- derived -------------------------------------------------------------------------------------------------


def metrics(recorded: Recorded) -> Metrics:
    found: dict[str, float | Unmeasured] = {}
    for size in recorded.distinct("size", "build"):
        for gallery in recorded.distinct("gallery", "build", size=size):
            at = {"gallery": gallery, "size": size}
            tag = f"{gallery}_{size}"
            found[f"recall_1_{tag}"] = min(recorded.values("at_1", "recall", **at))
            found[f"recall_10_{tag}"] = min(recorded.values("at_10", "recall", **at))
            found[f"p50_ms_{tag}"] = 1e3 * _p50(recorded, OURS, **at)
            found[f"over_floor_{tag}"] = _p50(recorded, OURS, **at) / _floor(recorded, **at)
    for size, tag in ((SMALL, "small"), (LARGE, "large")):
        found |= _judged(recorded, size, tag)
    found |= _changes(recorded) | _batches(recorded) | _database(recorded)
    return found


def _judged(recorded: Recorded, size: int, tag: str) -> dict[str, float | Unmeasured]:
    """Recall at its worst over the galleries; times of the first one, beside which the table shows the others'."""
    names = (
        "recall_1", "recall_10", "slower_than", "p50_ms", "over_floor", "over_numpy", "over_faiss",
        "build_seconds", "private_bytes", "first_answer",
    )  # fmt: skip
    galleries = recorded.distinct("gallery", "build", size=size)
    if not galleries:
        return {f"{name}_{tag}": Unmeasured(f"no gallery of {size:,} in this run") for name in names}
    every = [{"gallery": gallery, "size": size} for gallery in galleries]
    at = every[0]
    ours = _p50(recorded, OURS, **at)
    values = (
        min(_mean(recorded, "at_1", **each) for each in every),
        min(_mean(recorded, "at_10", **each) for each in every),
        float(len(_faster_peers(recorded, **at))),
        1e3 * ours,
        ours / _floor(recorded, **at),
        _p50(recorded, "numpy", **at) / ours,
        _p50(recorded, "FAISS FlatIP", **at) / ours,
        recorded.values("seconds", "build", **at)[0],
        recorded.values("private", "memory", **at)[0] / size,
        recorded.values("first_answer", "memory", **at)[0],
    )
    return {f"{name}_{tag}": value for name, value in zip(names, values, strict=True)}


def _mean(recorded: Recorded, field: str, **at: object) -> float:
    found = recorded.where("recall", **at)
    total = sum(float(row[field]) * int(row["probes"]) for row in found)
    return total / sum(int(row["probes"]) for row in found)


def _faster_peers(recorded: Recorded, **at: object) -> list[str]:
    """Peers that are faster than the index at equal or better recall; of the nearest, where they answer with no more."""
    ours = recorded.where("peer", contender=OURS, **at)[0]
    faster = []
    for row in recorded.where("peer", **at):
        recall = "at_1" if row["at_10"] is None else "at_10"
        as_good = row["contender"] != OURS and row[recall] >= ours[recall]
        if as_good and _p50(recorded, row["contender"], **at) < _p50(recorded, OURS, **at):
            faster.append(row["contender"])
    return faster


def _floor(recorded: Recorded, **at: Any) -> float:
    """Seconds that one core needs to read the codes once."""
    code = recorded.values("code_bytes", "build", **at)[0]
    return float(at["size"] * code / max(recorded.values("bytes_per_second", "bandwidth", **at)))


def _p50(recorded: Recorded, contender: str, **at: object) -> float:
    return latency(recorded.values("seconds", "search", contender=contender, **at)).p50


def _changes(recorded: Recorded) -> dict[str, float | Unmeasured]:
    found: dict[str, float | Unmeasured] = {}
    held, measured = 0, 0
    for size in recorded.distinct("changed", "changed"):
        rows = recorded.where("changed", changed=size)
        at = {"gallery": rows[0]["gallery"], "size": rows[0]["size"]}
        over = latency([row["seconds"] for row in rows]).p50 / _floor(recorded, **at)
        found[f"over_floor_changed_{size}"] = over
        measured = at["size"]
        if over <= OVER_FLOOR:
            held = max(held, size)
    found["largest_change_within_bound"] = (
        float(held) if measured == LARGE else Unmeasured(f"no changes to a gallery of {LARGE:,} in this run")
    )
    found["apply_100_ms"] = 1e3 * latency(recorded.values("seconds", "apply")).p50
    return found


def _batches(recorded: Recorded) -> dict[str, float | Unmeasured]:
    found: dict[str, float | Unmeasured] = {}
    build = recorded.where("build")[0]
    peak = max(recorded.values("flops", "gemm"))
    for size in recorded.distinct("probes", "batch"):
        ours = latency(recorded.values("seconds", "batch", probes=size, contender=OURS)).p50
        torch = latency(recorded.values("seconds", "batch", probes=size, contender="torch mm + topk")).p50
        gallery = recorded.where("batch", probes=size)[0]["size"]
        found[f"batch_{size}_ms_per_probe"] = 1e3 * ours / size
        found[f"batch_{size}_over_torch"] = ours / torch
        found[f"batch_{size}_of_gemm_peak"] = 2 * size * gallery * build["dim"] / ours / peak
    return found


def _database(recorded: Recorded) -> dict[str, float | Unmeasured]:
    names = (
        "rebuild_seconds", "start_seconds", "write_extra_ms", "removal_extra_ms", "forget_ms",
        "adds_per_second", "adding_p99_ms", "compaction_p99_over_p50", "compaction_seconds",
    )  # fmt: skip
    rebuilt = recorded.where("rebuild")
    if not rebuilt:
        return {name: Unmeasured("no database in this run") for name in names}
    if rebuilt[0]["size"] != LARGE:
        reason = f"the database holds {rebuilt[0]['size']:,} speakers, not {LARGE:,}"
        return {name: Unmeasured(reason) for name in names}

    def served(phase: str) -> Any:
        return latency([1e3 * value for value in recorded.values("seconds", "served", phase=phase)])

    quiet = served("undisturbed")
    sustained = recorded.where("sustained")[0]
    return {
        "rebuild_seconds": rebuilt[0]["seconds"],
        "start_seconds": recorded.values("seconds", "start")[0],
        "write_extra_ms": served("after 100 adds").p50 - quiet.p50,
        "removal_extra_ms": served("after a removal").p50 - quiet.p50,
        "forget_ms": 1e3 * latency(recorded.values("seconds", "forget")).p50,
        "adds_per_second": sustained["added"] / sustained["seconds"],
        "adding_p99_ms": served("1,000 adds/s").p99,
        "compaction_p99_over_p50": served("compaction").p99 / quiet.p50,
        "compaction_seconds": recorded.values("seconds", "compaction")[0],
    }


def tables(recorded: Recorded) -> list[Table]:
    return [_recall_table(recorded), _latency_table(recorded), _other_table(recorded)]


def _recall_table(recorded: Recorded) -> Table:
    lines = []
    for build in recorded.where("build"):
        at = {"gallery": build["gallery"], "size": build["size"]}
        for row in recorded.where("recall", **at):
            lines.append(
                (
                    build["gallery"],
                    f"{build['size']:,}",
                    row["probe"],
                    row["probes"],
                    f"{row['at_1']:.4f}",
                    f"{row['at_10']:.5f}",
                    build["depth"],
                    1e3 * row["p50"],
                    1e3 * row["p99"],
                )
            )
    notes = "; ".join(dict.fromkeys(f"{row['gallery']}: {row['note']}" for row in recorded.where("build")))
    absent = "".join(f" {row['gallery']}: not measured, {row['reason']}" for row in recorded.where("absent"))
    return Table(
        "Recall against FAISS' exact scan, each probe by itself",
        ("gallery", "speakers", "probe", "probes", "recall@1", "recall@10", "depth", "p50 ms", "p99 ms"),
        lines,
        f"Depth: candidates to begin with, as measured on the gallery at its build. {notes}.{absent}",
    )


def _latency_table(recorded: Recorded) -> Table:
    lines: list[tuple[object, ...]] = []
    for build in recorded.where("build"):
        at = {"gallery": build["gallery"], "size": build["size"]}
        head = (build["gallery"], f"{build['size']:,}")
        ours = _p50(recorded, OURS, **at)
        for name in recorded.distinct("contender", "search", **at):
            times = latency(
                [1e3 * value for value in recorded.values("seconds", "search", contender=name, **at)]
            )
            peer = recorded.where("peer", contender=name, **at)
            found = [_share(peer[0]["at_1"], 3), _share(peer[0]["at_10"], 4)] if peer else ["", ""]
            lines.append((*head, name, times.p50, times.p95, times.p99, *found, times.p50 / (1e3 * ours)))
        lines += [
            (*head, row["contender"], row["reason"], "", "", "", "", "")
            for row in recorded.where("missing", **at)
        ]
    speed = max(recorded.values("bytes_per_second", "bandwidth"))
    faster = [
        f" On {build['gallery']}, {build['size']:,}: {name} is faster at equal recall."
        for build in recorded.where("build")
        for name in _faster_peers(recorded, gallery=build["gallery"], size=build["size"])
    ]
    return Table(
        "One probe, milliseconds, the best 10: the compressed index on all cores, the others on one",
        ("gallery", "speakers", "what", "p50", "p95", "p99", "recall@1", "recall@10", "x ours"),
        lines,
        f"Memory read: one pass over as many bytes as the codes have. One core reads {speed / 1e9:.1f} GB/s at best."
        + ("".join(faster) or " No engine is faster than the compressed index at equal or better recall."),
    )


def _share(value: float | None, digits: int) -> str:
    return "answers with one" if value is None else f"{value:.{digits}f}"


def _other_table(recorded: Recorded) -> Table:
    lines = [(name.replace("_", " "), value) for name, value in metrics(recorded).items()]
    return Table("Everything derived", ("metric", "value"), lines)


def plot(recorded: Recorded, path: Path) -> None:
    figure, (axes, late) = new_figure(11.5, 4.6, 2)
    for color, gallery in zip(COLORS, recorded.distinct("gallery", "build"), strict=False):
        sizes = recorded.distinct("size", "build", gallery=gallery)
        for name, style in ((OURS, "-o"), ("numpy", "--^"), ("FAISS FlatIP", "--v"), (READ, ":")):
            times = [1e3 * _p50(recorded, name, gallery=gallery, size=size) for size in sizes]
            axes.plot(
                sizes, times, style, color=color, label=f"{name}, {gallery}", markersize=5, linewidth=1.6
            )
    log_axis(axes, "x", recorded.distinct("size", "build"))
    log_axis(axes, "y")
    axes.set_xlabel("Speakers in the gallery")
    axes.set_ylabel("Milliseconds per probe (median)")
    axes.set_title("One probe, the others on one thread", loc="left", color=INK)
    legend(axes)
    phases = recorded.distinct("phase", "served")
    for color, phase in zip(COLORS, phases, strict=False):
        served = np.sort([1e3 * value for value in recorded.values("seconds", "served", phase=phase)])
        share = (np.arange(len(served)) + 1) / len(served)
        late.plot(served, share, color=color, label=phase, linewidth=1.6)
    if phases:
        log_axis(late, "x")
        legend(late)
    else:
        late.text(0.5, 0.5, "no database in this run", ha="center", transform=late.transAxes, color=INK)
    late.set_xlabel("Milliseconds")
    late.set_ylabel("Share of searches")
    late.set_title("Searches from a database, by what goes on", loc="left", color=INK)
    footer(figure, where(recorded))
    save(figure, path)


BENCHMARK = Benchmark(
    name="index",
    summary="the compressed index at 100,000 and a million speakers: recall, latency beside other engines, writes, memory",
    options=IndexOptions,
    measure=measure,
    metrics=metrics,
    tables=tables,
    plot=plot,
    bounds=(
        *(
            bound
            for tag, size in (("small", SMALL), ("large", LARGE))
            for bound in (
                Bound(
                    name=f"nearest found, {size:,}", metric=f"recall_1_{tag}", at_least=1.0, unit="",
                    why="a missed neighbour is a missed person",
                ),
                Bound(name=f"best 10 found, {size:,}", metric=f"recall_10_{tag}", at_least=0.999, unit=""),
                Bound(
                    name=f"faster peers at equal recall, {size:,}", metric=f"slower_than_{tag}", at_most=0, unit="",
                    why="no engine that answers as well may be faster",
                ),
            )
        ),
        Bound(
            name="one probe beside the memory's speed, 1,000,000", metric="over_floor_large", at_most=OVER_FLOOR, unit="x",
            why="the codes must be read once",
        ),
        Bound(
            name="changes for which that holds", metric="largest_change_within_bound", at_least=LARGE // 64, unit="",
            why="a compaction begins at that many",
        ),
        Bound(name="one probe, 100,000", metric="p50_ms_small", at_most=0.8, unit="ms"),
        Bound(name="numpy beside it, 1,000,000", metric="over_numpy_large", at_least=10, unit="x"),
        Bound(name="FAISS FlatIP beside it, 1,000,000", metric="over_faiss_large", at_least=10, unit="x"),
        Bound(name="private memory per speaker", metric="private_bytes_large", at_most=80, unit="bytes"),
        Bound(name="build from vectors", metric="build_seconds_large", at_most=60, unit="s"),
        Bound(name="first answer after opening the file", metric="first_answer_large", at_most=2, unit="s"),
        Bound(name="rebuild from the database", metric="rebuild_seconds", at_most=180, unit="s"),
        Bound(name="start with a file, first answer", metric="start_seconds", at_most=2, unit="s"),
        Bound(name="first search after 100 adds elsewhere", metric="write_extra_ms", at_most=5, unit="ms more"),
        Bound(name="adds while searching", metric="adds_per_second", at_least=950, unit="/s"),
        Bound(name="p99 during a compaction", metric="compaction_p99_over_p50", at_most=5, unit="x p50"),
        Bound(name="compaction", metric="compaction_seconds", at_most=60, unit="s"),
        Bound(name="batch of 64 beside torch", metric="batch_64_over_torch", at_most=1.3, unit="x"),
        Bound(name="batch of 1,024 of the GEMM peak", metric="batch_1024_of_gemm_peak", at_least=0.6, unit=""),
    ),
    quick={"n": 20_000, "probes": 90, "rounds": 5, "dim": 32, "seconds": 1.0},
    uses_model=False,
    default=False,
)  # fmt: skip
