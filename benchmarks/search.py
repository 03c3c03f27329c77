"""Search latency of the exact index against gallery size, beside numpy, bare FAISS and one read of the memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.benchmark import Benchmark, Bound, Metrics, Options, Table, Unmeasured, option
from benchmarks.plots import COLORS, INK, footer, legend, log_axis, new_figure, save
from benchmarks.report import where
from benchmarks.rows import Recorded, Rows
from benchmarks.timing import interleaved, latency, one_thread
from benchmarks.workbench import synthetic_gallery
from voicevault.types import Float32Array, VoiceIndex

if TYPE_CHECKING:
    from rich.progress import Progress

OURS, BATCH, NUMPY, FAISS, READ = "exact index", "exact index, batch", "numpy", "FAISS flat", "memory read"
STYLES = {OURS: "-o", BATCH: "-s", NUMPY: "--^", FAISS: "--v", READ: ":"}
JUDGED = 100_000
"""Gallery size that the bounds speak of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions(Options):
    sizes: tuple[int, ...] = option((1_000, 3_000, 10_000, 30_000, 100_000), "speakers in the gallery")
    dim: int = option(192, "dimensions of a voiceprint", least=2)
    k: int = option(5, "candidates asked for")
    rounds: int = option(100, "timed searches per contender and size")
    batch: int = option(64, "probes of one batched search", least=2)


def make_index(vectors: Float32Array) -> VoiceIndex:
    """The exact index, holding `vectors` [n, d] under the keys 0 to n - 1."""
    from voicevault.index import FlatIndex
    from voicevault.types import GalleryPosition

    position = GalleryPosition("benchmark", "synthetic", vectors.shape[1], 1, "benchmark")
    return FlatIndex.rebuild(position, np.arange(len(vectors), dtype=np.int64), vectors)


def measure(options: SearchOptions, rows: Rows, progress: Progress) -> None:
    task = progress.add_task("searches", total=len(options.sizes) * options.rounds * len(STYLES))
    for size in options.sizes:
        vectors = synthetic_gallery(size, options.dim, options.seed)
        probes = make_probes(vectors, options.batch, options.seed)
        k = min(options.k, size)
        with closing(make_index(vectors)) as index:
            rows.append(
                "recall", size=size, probes=len(probes), k=k, agree=_agreement(index, vectors, probes, k)
            )
            contenders = _contenders(index, vectors, probes, k)
            with one_thread():
                for sample in interleaved(
                    contenders, options.rounds, seed=options.seed, step=lambda: progress.advance(task)
                ):
                    rows.append(
                        "search",
                        size=size,
                        dim=options.dim,
                        contender=sample.name,
                        probes=len(probes) if sample.name == BATCH else 1,
                        seconds=sample.wall,
                        cpu=sample.cpu,
                    )


def make_probes(vectors: Float32Array, count: int, seed: int) -> Float32Array:
    """Unit vectors [count, d], each of which resembles one speaker (cosine about 0.7), as an enrolled voice
    does."""
    own = np.random.default_rng(seed + 1).integers(0, len(vectors), count)
    probes = vectors[own] + synthetic_gallery(count, vectors.shape[1], seed + 2)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    return probes


def _contenders(
    index: VoiceIndex, vectors: Float32Array, probes: Float32Array, k: int
) -> dict[str, Callable[[], object]]:
    import faiss

    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    turns = cycle(range(len(probes)))

    def probe() -> Float32Array:
        place = next(turns)
        return probes[place : place + 1]

    return {
        OURS: lambda: index.search(probe(), k),
        BATCH: lambda: index.search(probes, k),
        NUMPY: lambda: numpy_search(vectors, probe()[0], k),
        FAISS: lambda: flat.search(probe(), k),
        READ: lambda: vectors.max(),
    }


def numpy_search(
    vectors: Float32Array, probe: Float32Array, k: int
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The rows of the k largest inner products, best first."""
    scores = vectors @ probe
    found = np.argpartition(scores, -k)[-k:]
    return found[np.argsort(-scores[found])]


def _agreement(index: VoiceIndex, vectors: Float32Array, probes: Float32Array, k: int) -> float:
    """Share of the true k best that the index names, by products in float64."""
    found = index.search(probes, k).ids
    exact = probes.astype(np.float64) @ vectors.astype(np.float64).T
    true = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    return float(
        np.mean([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), true.tolist(), strict=True)])
    )


def metrics(recorded: Recorded) -> Metrics:
    sizes = recorded.distinct("size", "search")
    derived: dict[str, float | Unmeasured] = {}
    for size in sizes:
        for name in STYLES:
            times = recorded.values("seconds", "search", size=size, contender=name)
            probes = recorded.values("probes", "search", size=size, contender=name)[0]
            key = f"{name.replace(', ', '_').replace(' ', '_').lower()}_p50_ms_{size}"
            derived[key] = 1e3 * latency(times).p50 / probes
        derived[f"recall_{size}"] = recorded.where("recall", size=size)[0]["agree"]
    largest = max(sizes)
    derived["recall"] = min(recorded.values("agree", "recall"))
    derived["bytes_per_second"] = (
        4 * largest * recorded.where("search")[0]["dim"]
        / _p50(recorded, largest, READ)
    )  # fmt: skip
    for name, peer in (("over_read", READ), ("over_faiss", FAISS), ("over_numpy", NUMPY)):
        if JUDGED in sizes:
            derived[name] = _p50(recorded, JUDGED, OURS) / _p50(recorded, JUDGED, peer)
        else:
            derived[name] = Unmeasured(f"no gallery of {JUDGED:,} in this run")
    return derived


def _p50(recorded: Recorded, size: int, contender: str) -> float:
    return latency(recorded.values("seconds", "search", size=size, contender=contender)).p50


def tables(recorded: Recorded) -> list[Table]:
    lines = []
    for size in recorded.distinct("size", "search"):
        for name in STYLES:
            found = recorded.where("search", size=size, contender=name)
            times = latency([1e3 * row["seconds"] / row["probes"] for row in found])
            ratio = times.p50 / (1e3 * _p50(recorded, size, READ))
            lines.append((f"{size:,}", name, times.p50, times.p95, times.p99, times.count, ratio))
    recall = min(recorded.values("agree", "recall"))
    bandwidth = metrics(recorded)["bytes_per_second"]
    assert not isinstance(bandwidth, Unmeasured)
    dim, probes = recorded.where("search")[0]["dim"], max(recorded.values("probes", "search"))
    return [
        Table(
            f"Search of {dim}-dimensional voiceprints on one core, milliseconds per probe",
            ("speakers", "what", "p50", "p95", "p99", "searches", "x memory read"),
            lines,
            f"Batches hold {probes} probes. Memory read: one pass over the same vectors, at"
            f" {bandwidth / 1e9:.1f} GB/s for the largest gallery. Of the true nearest,"
            f" {recall:.2%} were found at worst.",
        )
    ]


def plot(recorded: Recorded, path: Path) -> None:
    figure, (axes,) = new_figure(7.2, 4.6)
    sizes = recorded.distinct("size", "search")
    for color, (name, style) in zip((*COLORS[:4], INK), STYLES.items(), strict=True):
        middle, low, high = [], [], []
        for size in sizes:
            found = recorded.where("search", size=size, contender=name)
            times = sorted(1e3 * row["seconds"] / row["probes"] for row in found)
            middle.append(latency(times).p50)
            low.append(times[len(times) // 20])
            high.append(latency(times).p95)
        axes.plot(sizes, middle, style, color=color, label=name, markersize=5, linewidth=1.6)
        if name == OURS:
            axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
    log_axis(axes, "x", sizes)
    log_axis(axes, "y")
    axes.set_xlabel("Speakers in the gallery")
    axes.set_ylabel("Milliseconds per probe (median)")
    axes.set_title("Search of the exact index against gallery size, one core", loc="left", color=INK)
    legend(axes)
    footer(figure, where(recorded))
    save(figure, path)


BENCHMARK = Benchmark(
    name="search",
    summary="search latency of the exact index against gallery size, beside numpy, FAISS and the memory's own speed",
    options=SearchOptions,
    measure=measure,
    metrics=metrics,
    tables=tables,
    plot=plot,
    bounds=(
        Bound(
            name="true nearest found",
            metric="recall",
            at_least=1.0,
            unit="",
            why="the index is exact",
        ),
        Bound(
            name=f"{JUDGED:,} speakers beside reading them once",
            metric="over_read",
            at_most=2.0,
            unit="x",
            why="a full scan can be no faster than memory",
        ),
        Bound(
            name=f"{JUDGED:,} speakers beside bare FAISS",
            metric="over_faiss",
            at_most=1.3,
            unit="x",
            why="order and ties cost little",
        ),
    ),
    quick={"sizes": (500, 2_000), "rounds": 10},
    uses_model=False,
)
