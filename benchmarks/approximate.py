"""Approximate search beside the exact one: what it misses of other probes than those it was measured with, and whether it
is faster."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.benchmark import Benchmark, Bound, Metrics, Options, Table, Unmeasured, option
from benchmarks.plots import COLORS, INK, footer, legend, new_figure, save
from benchmarks.report import where
from benchmarks.rows import Recorded, Rows
from benchmarks.timing import Latency, latency

if TYPE_CHECKING:
    from rich.progress import Progress

    from benchmarks.galleries import Population
    from benchmarks.index_parts import Built
    from voicevault.index import CompressedIndex

EXACT = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproximateOptions(Options):
    n: int = option(1_000_000, "speakers in the gallery", least=20_000)
    dim: int = option(192, "dimensions of a voiceprint of the hard gallery", least=4)
    probes: int = option(3_000, "probes of the recall, a third of each kind", least=30)
    rounds: int = option(100, "timed searches of each kind")
    galleries: tuple[str, ...] = option(("hard", "grown"), "populations: hard, grown")
    recalls: tuple[float, ...] = option((0.95, 0.98), "values of VOICEVAULT_APPROXIMATE_RECALL", least=0.5)


def measure(options: ApproximateOptions, rows: Rows, progress: Progress) -> None:
    from benchmarks import index_parts as parts
    from benchmarks.galleries import grown, hard
    from voicevault.errors import VoicevaultError

    each = 1 + len(options.recalls)
    task = progress.add_task("", total=len(options.galleries) * each * (options.probes + options.rounds))
    with tempfile.TemporaryDirectory(prefix="approximate-", dir=rows.path.parent) as name:
        for kind in options.galleries:
            progress.update(task, description=f"{kind}: build")
            try:
                population: Population = hard(options.dim, options.seed) if kind == "hard" else grown(options)
            except VoicevaultError as error:
                rows.append("absent", gallery=kind, reason=error.message)
                continue
            built = parts.build(population, options.n, options.probes, options.seed, Path(name), rows)
            indexes = made(built, options.recalls, rows, lambda text: progress.update(task, description=text))
            progress.update(task, description=f"{kind}: recall")
            recall(built, indexes, rows, lambda count: progress.advance(task, count))
            progress.update(task, description=f"{kind}: latency")
            times(built, indexes, options.rounds, options.seed, rows, lambda: progress.advance(task))
            del built, indexes
    progress.update(task, completed=progress.tasks[task].total)


def made(
    built: Built, recalls: tuple[float, ...], rows: Rows, tell: Callable[[str], object]
) -> dict[str, CompressedIndex]:
    """The exact index and one with lists for each recall, worth it or not."""
    from math import inf

    from benchmarks.timing import timed
    from voicevault.gallery import Limits
    from voicevault.index import CompressedIndex
    from voicevault.index.lists import reading_cost

    indexes = {EXACT: built.index}
    for asked in recalls:
        name = f"approximate, recall >= {asked:g}"
        tell(f"{built.population.name}: {name}")
        index, before = CompressedIndex(built.index.base), built.index.stats().bytes
        sample = timed("", 0, lambda index=index, asked=asked: index.approximate(asked, inf))  # type: ignore[misc]
        found = index.approximation
        if found is None:
            rows.append("declined", **built.where(), contender=name)
            continue
        cost = reading_cost(built.size, found.nlist, found.nprobe)
        rows.append(
            "lists", **built.where(), contender=name, asked=asked, at_1=found.recall_at_1, at_10=found.recall_at_10,
            nlist=found.nlist, nprobe=found.nprobe, cost=cost, used=cost <= Limits().approximate_cost,
            seconds=sample.wall, cpu=sample.cpu, bytes=index.stats().bytes - before,
        )  # fmt: skip
        indexes[name] = index
    return indexes


def recall(
    built: Built, indexes: dict[str, CompressedIndex], rows: Rows, step: Callable[[int], object]
) -> None:
    """Every probe by itself, in each index."""
    from benchmarks import index_parts as parts
    from benchmarks.timing import one_thread

    exact = parts.exact_rows(built, step)
    with one_thread():
        for name, index in indexes.items():
            for kind, at_1, at_10, seconds in parts.found_rows(built, index, exact, step):
                rows.append(
                    "recall", **built.where(), contender=name, probe=kind, probes=len(seconds), at_1=at_1, at_10=at_10
                )  # fmt: skip


def times(
    built: Built,
    indexes: dict[str, CompressedIndex],
    rounds: int,
    seed: int,
    rows: Rows,
    step: Callable[[], object],
) -> None:
    """One probe, the best 10, the indexes by turns."""
    from benchmarks.index_parts import K
    from benchmarks.timing import interleaved, one_thread

    turns = cycle(built.probes[:300])
    contenders: dict[str, Callable[[], object]] = {
        name: lambda index=index: index.search(next(turns)[None], K)  # type: ignore[misc]
        for name, index in indexes.items()
    }
    with one_thread():
        for sample in interleaved(contenders, rounds, warmup=3, seed=seed, step=step):
            rows.append("search", **built.where(), contender=sample.name, seconds=sample.wall, cpu=sample.cpu)


# --- derived -------------------------------------------------------------------------------------------------


def metrics(recorded: Recorded) -> Metrics:
    """`kept`: by how much other probes, weak ones or strangers, find more of their best than was asked for, at the least;
    `gain`: how many times as fast as an exact search lists are that are worth it, at the least."""
    kept, gains = [], []
    found: dict[str, float | Unmeasured] = {}
    for row in recorded.where("lists"):
        at = {"gallery": row["gallery"], "size": row["size"]}
        measured = _recall(recorded, "at_1", row["contender"], **at)
        gain = _latency(recorded, EXACT, **at).p50 / _latency(recorded, row["contender"], **at).p50
        tag = f"{row['gallery']}_{row['size']}_{row['asked']:g}"
        found[f"recall_1_{tag}"], found[f"gain_{tag}"] = measured, gain
        kept.append(measured - row["asked"])
        gains += [gain] if row["used"] else []
    found["kept"] = min(kept) if kept else Unmeasured("no lists could be made")
    found["gain"] = min(gains) if gains else Unmeasured("no lists are worth it here")
    return found


def _recall(recorded: Recorded, field: str, contender: str, **at: object) -> float:
    """Of weak probes or strangers, which lists are chosen by: of those that find less."""
    values = [
        recorded.values(field, "recall", contender=contender, probe=probe, **at)[0]
        for probe in ("weak", "stranger")
    ]
    return float(min(values))


def _latency(recorded: Recorded, contender: str, **at: object) -> Latency:
    return latency([1e3 * value for value in recorded.values("seconds", "search", contender=contender, **at)])


def tables(recorded: Recorded) -> list[Table]:
    lines: list[tuple[object, ...]] = []
    for build in recorded.where("build"):
        at = {"gallery": build["gallery"], "size": build["size"]}
        head = f"{build['gallery']}, {build['size']:,}"
        exact = _latency(recorded, EXACT, **at)
        for name in recorded.distinct("contender", "search", **at):
            lists, stated = "all codes", ""
            for row in recorded.where("lists", contender=name, **at):
                lists = f"{row['nprobe']:,} of {row['nlist']:,}" + ("" if row["used"] else ", not worth it")
                stated = f"{row['at_1']:.3f}, {row['at_10']:.3f}"
            first, ten = (
                " ".join(f"{value:.3f}" for value in recorded.values(field, "recall", contender=name, **at))
                for field in ("at_1", "at_10")
            )
            took = _latency(recorded, name, **at).p50
            lines.append((head, name, lists, stated, first, ten, took, exact.p50 / took))
        for name in recorded.distinct("contender", "declined", **at):
            lines.append((head, name, "cannot be promised", *[""] * 5))
    absent = "".join(f" {row['gallery']}: not measured, {row['reason']}" for row in recorded.where("absent"))
    return [
        Table(
            "One probe, the best 10, on all cores",
            ("gallery", "what", "lists read", "stated", "found @1", "found @10", "p50 ms", "x faster"),
            lines,
            "Stated: recall@1 and @10 that the index measured itself when the lists were made, and says with every answer. Found:"
            " by own, weak and strange probes of this run. What is not worth it is measured here, and answered exactly by a"
            f" server.{absent}",
        ),
        Table(
            "Everything derived",
            ("metric", "value"),
            [(name.replace("_", " "), value) for name, value in metrics(recorded).items()],
        ),
    ]


def plot(recorded: Recorded, path: Path) -> None:
    figure, (axes,) = new_figure(8, 4.6)
    for color, gallery in zip(COLORS, recorded.distinct("gallery", "build"), strict=False):
        for marker, name in zip(
            "osv^D", recorded.distinct("contender", "search", gallery=gallery), strict=False
        ):
            took = _latency(recorded, name, gallery=gallery).p50
            axes.plot(
                took, _recall(recorded, "at_1", name, gallery=gallery), marker, color=color, label=f"{name}, {gallery}"
            )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_xlabel("Milliseconds per probe (median)")
    axes.set_ylabel("Weak probes or strangers that find their nearest")
    axes.set_title("What approximate search gains and misses", loc="left", color=INK)
    legend(axes)
    footer(figure, where(recorded))
    save(figure, path)


BENCHMARK = Benchmark(
    name="approximate",
    summary="approximate search in a gallery of a million beside the exact one: what it misses, and what it gains",
    options=ApproximateOptions,
    measure=measure,
    metrics=metrics,
    tables=tables,
    plot=plot,
    bounds=(
        Bound(
            name="recall of other probes beside that asked for", metric="kept", at_least=-0.015, unit="",
            why="two standard deviations of the recall of 1,000 probes of a kind",
        ),
        Bound(name="exact search beside lists that are worth it", metric="gain", at_least=1.0, unit="x"),
    ),
    quick={"n": 20_000, "probes": 90, "rounds": 5, "dim": 32, "recalls": (0.9,)},
    uses_model=False,
    default=False,
)  # fmt: skip
