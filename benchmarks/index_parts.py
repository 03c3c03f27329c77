"""What the index benchmark measures, part by part: recall and latency, changes, batches, a database of its own."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks.galleries import KINDS, Population, mixed
from benchmarks.index_peers import GRAPHS, Peer, open_peers
from benchmarks.rows import Rows
from benchmarks.timing import interleaved, one_thread, read_bandwidth, timed
from voicevault.cores import available_cores
from voicevault.gallery import Galleries, Limits
from voicevault.index import Base, CompressedIndex, Crew, write_base
from voicevault.store import NewEnrollment, Store
from voicevault.types import Change, Embedding, Float32Array, GalleryPosition, Int64Array, Op, Quality

OURS, READ = "compressed index", "memory read"
K = 10
MOST_FOR_GRAPHS = 100_000
"""Gallery size up to which graphs are built."""
PEER_PROBES = 300


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A gallery with its index, opened and checked."""

    population: Population
    vectors: Float32Array
    probes: Float32Array
    kinds: np.ndarray
    path: Path
    position: GalleryPosition
    index: CompressedIndex

    @property
    def size(self) -> int:
        return len(self.vectors)

    def where(self) -> dict[str, object]:
        return {"gallery": self.population.name, "size": self.size}


def build(population: Population, size: int, probes: int, seed: int, folder: Path, rows: Rows) -> Built:
    """Draws a gallery, builds its index, times both the build and the memory's speed."""
    vectors = population.speakers(size, seed + 1)
    points, kinds = mixed(population, vectors, probes, seed + 2)
    position = GalleryPosition("benchmark", population.name, vectors.shape[1], 1, "benchmark")
    path = folder / f"{population.name}-{size}.base"
    steps = range(0, size, 1 << 12)
    sample = timed(
        "build",
        0,
        lambda: write_base(
            path,
            position,
            ((np.arange(at, min(at + (1 << 12), size)), vectors[at : at + (1 << 12)]) for at in steps),
        ),
    )
    index = CompressedIndex(Base(path, position, Crew(available_cores())))
    index.base.scrub()
    found = index.base.calibration
    rows.append(
        "build", gallery=population.name, size=size, dim=vectors.shape[1], seconds=sample.wall, cpu=sample.cpu,
        margin=found.margin, depth=found.depth, note=population.note, code_bytes=index.base.code_bytes,
    )  # fmt: skip
    return Built(population, vectors, points, np.array(kinds), path, position, index)


def recall(built: Built, rows: Rows, step: Callable[[int], object]) -> Int64Array:
    """Every probe by itself, against FAISS' exact scan. Returns the exact rows int64 [probes, K]."""
    exact = exact_rows(built, step)
    with one_thread():
        for kind, at_1, at_10, seconds in found_rows(built, built.index, exact, step):
            rows.append(
                "recall", **built.where(), probe=kind, probes=len(seconds), at_1=at_1, at_10=at_10,
                p50=float(np.median(seconds)), p99=float(np.quantile(seconds, 0.99)),
            )  # fmt: skip
    return exact


def exact_rows(built: Built, step: Callable[[int], object]) -> Int64Array:
    """The best rows int64 [probes, K] of FAISS' exact scan."""
    import faiss

    # For batches; one probe alone takes twice as long with it, which would be unfair to FlatIP.
    threshold, faiss.cvar.distance_compute_blas_threshold = faiss.cvar.distance_compute_blas_threshold, 20
    exact = np.empty((len(built.probes), K), dtype=np.int64)
    for at in range(0, len(exact), 1000):
        part = built.probes[at : at + 1000]
        exact[at : at + 1000] = faiss.knn(part, built.vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
        step(len(part))
    faiss.cvar.distance_compute_blas_threshold = threshold
    return exact


def found_rows(
    built: Built, index: CompressedIndex, exact: Int64Array, step: Callable[[int], object]
) -> Iterator[tuple[str, float, float, np.ndarray]]:
    """Every probe by itself. For each kind of probe: recall@1, recall@10, and the seconds of its searches."""
    first, ten, seconds = (np.empty(len(exact)) for _ in range(3))
    for row, probe in enumerate(built.probes):
        started = time.perf_counter()
        found = index.search(probe[None], K).ids[0]
        seconds[row] = time.perf_counter() - started
        first[row] = found[0] == exact[row, 0]
        ten[row] = len(np.intersect1d(found, exact[row])) / K
        if row % 1000 == 999:
            step(1000)
    for kind in KINDS:
        of = built.kinds == kind
        yield kind, float(first[of].mean()), float(ten[of].mean()), seconds[of]


def latency(
    built: Built,
    exact: Int64Array,
    rounds: int,
    seed: int,
    graphs: bool,
    rows: Rows,
    step: Callable[[], object],
) -> None:
    """Ours and every peer in turn, the peers on one thread, and one read of as many bytes as the codes have."""
    scanned = np.ones(built.size * built.index.base.code_bytes // 4, dtype=np.float32)

    def missing(name: str, reason: str) -> None:
        rows.append("missing", **built.where(), contender=name, reason=reason)

    small = built.size <= MOST_FOR_GRAPHS
    if not graphs or not small:
        for name in GRAPHS:
            missing(name, "left out" if small else "built for the smaller gallery only")
    graphs = graphs and small
    with open_peers(built.vectors, K, graphs, missing) as peers, one_thread():
        ours = Peer(OURS, lambda probe: built.index.search(probe[None], K).ids[0], 0.0, K)
        count = min(PEER_PROBES, len(built.probes))
        for peer in (ours, *peers):
            found = [list(peer.search(probe)) for probe in built.probes[:count]]
            at_1 = np.mean([one[:1] == [truth[0]] for one, truth in zip(found, exact, strict=False)])
            at_10 = np.mean(
                [len(set(one) & set(truth)) / K for one, truth in zip(found, exact.tolist(), strict=False)]
            )
            rows.append(
                "peer", **built.where(), contender=peer.name, at_1=float(at_1), probes=count,
                at_10=float(at_10) if peer.answers > 1 else None, build=peer.build_seconds,
            )  # fmt: skip
        turns = cycle(built.probes[:count])
        contenders: dict[str, Callable[[], object]] = {
            peer.name: lambda search=peer.search: search(next(turns))  # type: ignore[misc]
            for peer in (ours, *peers)
        }
        contenders[READ] = lambda: scanned.max()
        rows.append("bandwidth", **built.where(), bytes_per_second=read_bandwidth())
        for sample in interleaved(contenders, rounds, warmup=3, seed=seed, step=step):
            rows.append("search", **built.where(), contender=sample.name, seconds=sample.wall, cpu=sample.cpu)
        rows.append("bandwidth", **built.where(), bytes_per_second=read_bandwidth())


def changes(built: Built, sizes: tuple[int, ...], rounds: int, seed: int, rows: Rows) -> None:
    """Latency with so many voiceprints written since the base, and what a commit of 100 costs the index itself."""
    fresh = built.population.speakers(max(sizes), seed + 5)
    index, written = CompressedIndex(built.index.base), 0
    with one_thread():
        for generation, size in enumerate(sorted(sizes), start=2):
            new = [
                Change(generation, "t", built.size + row, Op.UPSERT, fresh[row])
                for row in range(written, size)
            ]
            index.apply(new, generation, "t")
            written = size
            for probe in np.resize(built.probes[:PEER_PROBES], (rounds, fresh.shape[1])):
                started = time.perf_counter()
                index.search(probe[None], K)
                rows.append("changed", **built.where(), changed=size, seconds=time.perf_counter() - started)
        for turn in range(20):
            generation, first = index.generation + 1, 2 * built.size + turn * 100
            batch = [Change(generation, "t", first + row, Op.UPSERT, fresh[row]) for row in range(100)]
            started = time.perf_counter()
            index.apply(batch, generation, "t")
            rows.append("apply", **built.where(), seconds=time.perf_counter() - started)


def batches(built: Built, sizes: tuple[int, ...], rounds: int, seed: int, rows: Rows) -> None:
    """Many probes at once on all cores: ours, torch's product and top-k, and the products alone, of sizes at which libraries
    are fastest. All are timed in turn, so that the peak is that of the same moments; it is the best of all rounds."""
    import torch

    gallery = torch.from_numpy(built.vectors)
    square = np.ones((2048, 2048), dtype=np.float32)
    other = torch.from_numpy(square)
    products: dict[str, Callable[[], object]] = {
        "numpy": lambda: square @ square,
        "torch": lambda: other @ other,
    }
    for size in sizes:
        probes = np.resize(built.probes, (size, built.vectors.shape[1]))
        points = torch.from_numpy(probes)
        contenders: dict[str, Callable[[], object]] = {
            OURS: lambda probes=probes: built.index.search(probes, K),  # type: ignore[misc]
            "torch mm + topk": lambda points=points: torch.topk(points @ gallery.T, K),  # type: ignore[misc]
        }
        for sample in interleaved(contenders | products, rounds, seed=seed):
            if sample.name in products:
                rows.append("gemm", library=sample.name, flops=2 * 2048**3 / sample.wall)
            else:
                rows.append("batch", **built.where(), probes=size, contender=sample.name, seconds=sample.wall)


def memory(built: Built, rows: Rows) -> None:
    """A process of its own that opens the file: time to the first answer, private memory."""
    where = built.position
    command = [
        sys.executable, "-m", "benchmarks.index_memory", str(built.path), where.uuid, where.model_id,
        str(where.dim), str(where.generation), where.token, "300",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    rows.append("memory", **built.where(), **json.loads(run.stdout))


def database(built: Built, folder: Path, seconds: float, rows: Rows, tell: Callable[[str], object]) -> None:
    """The same gallery in SQLite: rebuild, start, writes seen by another process' index, a compaction under load."""
    where, probes = built.where(), cycle(built.probes[:PEER_PROBES])
    with closing(Store(f"sqlite:///{folder / 'voicevault.db'}")) as store:
        store.upgrade()
        store.create_collection("c", "m", built.vectors.shape[1])
        tell("filling a database")
        fill(folder / "voicevault.db", built.vectors)
        limits = Limits(compress_from=min(20_000, built.size), compact_after=1 << 40, compact_share=1e6)
        with closing(Galleries(store, folder / "index", limits)) as one:
            tell("rebuild from the database")
            sample = timed("", 0, lambda: one.current("c"))
            rows.append("rebuild", **where, seconds=sample.wall, vectors=one.current("c")[0].stats().vectors)
        with closing(Galleries(store, folder / "index", limits)) as one:
            tell("start from the file")
            sample = timed("", 0, lambda: one.search("c", next(probes)[None], K))
            rows.append("start", **where, seconds=sample.wall, rebuilds=one.rebuilds)
        with (
            closing(Store(f"sqlite:///{folder / 'voicevault.db'}")) as other,
            closing(Galleries(store, folder / "index", limits)) as one,
            closing(Galleries(other, folder / "index", limits)) as two,
            one_thread(),
        ):
            tell("writes")
            for each in (one, two):
                index = each.current("c")[0]
                assert isinstance(index, CompressedIndex)
                index.base.scrub()

            def search(phase: str, galleries: Galleries = two) -> None:
                sample = timed("", 0, lambda: galleries.search("c", next(probes)[None], K))
                rows.append("served", **where, phase=phase, seconds=sample.wall)

            for _ in range(200):
                search("undisturbed")
            fresh = built.population.speakers(2000, 77)
            for turn in range(20):
                started = time.perf_counter()
                store.add_enrollments("c", enrollments(fresh[turn * 100 : turn * 100 + 100], f"w{turn}"))
                rows.append("commit", **where, seconds=time.perf_counter() - started)
                search("after 100 adds")
                search("undisturbed")
            for turn in range(10):
                store.forget_speaker("c", f"s{turn}")
                started = time.perf_counter()
                one.forget("c")
                rows.append("forget", **where, seconds=time.perf_counter() - started)
                search("after a removal")
            tell("1,000 adds a second")
            _sustained(store, built, seconds, rows, search)
            tell("compaction while answering")
            _compaction(two, built, rows, search)


def _sustained(store: Store, built: Built, seconds: float, rows: Rows, search: Callable[[str], None]) -> None:
    fresh, done, added = built.population.speakers(int(seconds * 1000) + 100, 78), threading.Event(), [0]

    def write() -> None:
        try:
            started = time.perf_counter()
            for at in range(0, len(fresh) - 100, 100):
                time.sleep(max(0.0, started + at / 1000 - time.perf_counter()))
                store.add_enrollments("c", enrollments(fresh[at : at + 100], f"x{at}"))
                added[0] += 100
        finally:
            done.set()

    writer, started = threading.Thread(target=write), time.perf_counter()
    writer.start()
    while not done.is_set():
        search("1,000 adds/s")
    writer.join()
    rows.append("sustained", **built.where(), added=added[0], seconds=time.perf_counter() - started)


def _compaction(two: Galleries, built: Built, rows: Rows, search: Callable[[str], None]) -> None:
    failures: list[BaseException] = []

    def compact() -> None:
        try:
            two.compact("c")
        except BaseException as error:
            failures.append(error)

    worker, started = threading.Thread(target=compact), time.perf_counter()
    worker.start()
    while worker.is_alive():
        search("compaction")
    worker.join()
    if failures:
        raise failures[0]
    rows.append("compaction", **built.where(), seconds=time.perf_counter() - started)


def enrollments(vectors: Float32Array, prefix: str) -> list[NewEnrollment]:
    quality = Quality(3.0, 3.0, -20.0, 0.0, None)
    return [
        NewEnrollment(
            f"{prefix}-{row}", Embedding(vector, "m", quality, f"{prefix}-{row}", f"{prefix}-{row}")
        )
        for row, vector in enumerate(vectors)
    ]


def fill(path: Path, vectors: Float32Array) -> None:
    """Puts speakers s0, s1, ... with these voiceprints into the only collection, past the vault's own ways: a
    million enrollments through them would take longer than the rest."""
    moment = "2026-01-01 00:00:00.000000"
    with closing(sqlite3.connect(path)) as database, database:
        collection = database.execute("SELECT id FROM collections WHERE name = 'c'").fetchone()[0]
        database.execute("PRAGMA synchronous = OFF")
        database.executemany(
            "INSERT INTO speakers (key, collection_id, public_id, name, attributes, created, updated)"
            " VALUES (?, ?, ?, NULL, '{}', ?, ?)",
            ((row + 1, collection, f"s{row}", moment, moment) for row in range(len(vectors))),
        )
        database.executemany(
            "INSERT INTO voiceprints (speaker_key, collection_id, vector, updated) VALUES (?, ?, ?, ?)",
            ((row + 1, collection, vector.tobytes(), moment) for row, vector in enumerate(vectors)),
        )
