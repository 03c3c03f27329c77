"""Inverted lists over the codes of a base: an opt-in that reads few of the codes, and misses what it does not read.

Each row goes to the list of the nearest of `nlist` centroids, and a search reads the `nprobe` lists whose centroids are
nearest to the probe (Sivic and Zisserman, Video Google, ICCV 2003; Jegou, Douze and Schmid, Product Quantization for
Nearest Neighbor Search, TPAMI 2011, section IV). Within those it finds what a scan of all codes would: the codes are the
base's own, so its calibration holds, and candidates are compared exactly. What share of the best lies elsewhere is
measured on the gallery itself, with the probes of `voicevault.index.calibration`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from math import ceil, isqrt, sqrt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from voicevault.index.base import Base, BuildStoppedError, never
from voicevault.index.calibration import K, draw_probes, exact_best
from voicevault.index.codec import BLOCK
from voicevault.index.products import one_thread
from voicevault.types import Approximation, Float32Array, Int64Array

log = logging.getLogger(__name__)

T = TypeVar("T")
Usable = Callable[[Int64Array], NDArray[np.bool_]]
Block = tuple[Int64Array, Float32Array]

_PROBES = 512
"""Of each kind."""
_DEVIATIONS = 1.645
"""Of the number of probes that find their best, above the share asked for: then 95 in 100 galleries hold what is promised."""
_PER_LIST = 200
"""Rows that a centroid is trained on; on a gallery like real embeddings a third fewer lists suffice than with 32."""
_LEAST_ROWS = 32
"""Of a list."""
_MOST_TRAINED = 1 << 18
_ROUNDS = 10
_STEP = 1 << 12
_LEAST_PER_CORE = 4
"""Lists below which another core is not worth waking."""

# In codes that a scan in order reads meanwhile. Only speed depends on them.
_CODE_COST = 1.5
"""Of a code in a list."""
_LIST_COST = 1300
"""Of coming to a list."""
_CENTROID_COST = 75
"""Of comparing a centroid."""


class Lists:
    """The codes of one base, dealt out to lists. Many threads may search; `erase` one at a time.

    Args:
        base: What the rows are of; its calibration, its vectors and its crew are used.
        centroids: float32 [nlist, d], of rotated vectors.
        nprobe: Lists that one search reads.
    """

    def __init__(self, base: Base, centroids: Float32Array, nprobe: int) -> None:
        import faiss

        codec = base.codec
        self._base, self._centroids = base, centroids
        self._parts = max(1, min(base.crew.cores, nprobe // _LEAST_PER_CORE))
        quantizer = faiss.IndexFlatIP(codec.dim)
        quantizer.add(centroids)
        self._index: Any = faiss.IndexIVFPQFastScan(
            quantizer, codec.dim, len(centroids), codec.parts, 4, faiss.METRIC_INNER_PRODUCT, BLOCK
        )
        # Codes of the vectors, not of residuals: their products are those that the base was calibrated with.
        self._index.by_residual = False
        faiss.copy_array_to_vector(np.ascontiguousarray(codec.centroids).ravel(), self._index.pq.centroids)
        self._index.is_trained = True
        # Of each part of a search.
        self._index.nprobe = min(-(-nprobe // self._parts), len(centroids) // self._parts)
        self._packer = self._index.get_CodePacker()
        self._numbers = np.full(base.count, -1, dtype=np.int32)  # the list of each row
        self.nprobe = self._parts * int(self._index.nprobe)
        self.approximation = Approximation(1.0, 1.0, len(centroids), self.nprobe)

    def fill(self, blocks: Iterator[Block]) -> None:
        """Deals rows and their vectors out."""
        import faiss

        with one_thread():
            for places, vectors in blocks:
                kept = vectors.any(axis=1)  # zeros were erased, by another process too
                self._index.add_with_ids(vectors[kept] @ self._base.codec.rotation, places[kept])
        for number in range(self._index.nlist):
            if size := self._index.invlists.list_size(number):
                self._numbers[faiss.rev_swig_ptr(self._index.invlists.get_ids(number), size)] = number

    def nearest(
        self, point: Float32Array, k: int, usable: Usable | None
    ) -> tuple[Int64Array, Float32Array] | None:
        """Keys and scores [k] of the best usable rows of the lists that are read for a probe [d], in order; None where
        they hold fewer than k."""
        depth = self._base.calibration.depth
        while True:
            keys, scores, beyond = self._base.nearest(point, k, depth, usable, self._scan)
            if len(keys) == k and scores[-1] > beyond:
                return keys, scores
            if beyond == -np.inf:
                return None  # all that the lists hold has been seen
            depth *= 4

    def _scan(
        self, point: Float32Array, depth: int, then: Callable[[Float32Array, Int64Array, float], T]
    ) -> list[T]:
        """See `Scanner.scan`; over the lists that are read, dealt out to the cores."""
        rotated, parts = point @ self._base.codec.rotation, self._parts
        products = self._centroids @ rotated
        # The nearest first: that raises the bar for what follows.
        nearest = np.argsort(-products)[: self.nprobe]
        share = depth if parts == 1 else depth // parts + 2 * isqrt(depth)

        def part(first: int) -> Callable[[], T]:
            def run() -> T:
                with one_thread():
                    (scores,), (rows,) = self._index.search_preassigned(
                        rotated[None], share, nearest[None, first::parts], None
                    )
                found = rows >= 0
                least = float(scores[-1]) if found.all() else -np.inf
                return then(scores[found], rows[found], least)

            return run

        return self._base.crew.run([part(first) for first in range(parts)])

    def erase(self, rows: Int64Array) -> None:
        """Makes the codes of rows all zeros. No search may use them any more."""
        for row in rows.tolist():
            number = int(self._numbers[row])
            if number >= 0:
                place, block = self._block(number, row)
                self._packer.pack_1(np.zeros(self._packer.code_size, dtype=np.uint8), place, block)
                self._numbers[row] = -1

    def measure(
        self, points: Float32Array, absent: Int64Array, exact: NDArray[np.float64], stop: Callable[[], bool]
    ) -> None:
        """States in `approximation` what these probes [2 p, d] of two kinds, see `draw_probes`, find of the best whose
        scores [2 p, K] are given; of the kind that finds less."""
        first, ten = [], []
        for point, skip, scores in zip(points, absent, exact, strict=True):
            if stop():
                raise BuildStoppedError
            found = self.nearest(point, K + 1, lambda rows: self._numbers[rows] >= 0)
            if found is None:  # such a probe is answered exactly
                first.append(True)
                ten.append(1.0)
                continue
            keys, near = found
            near = near[keys != self._base.keys[skip]]
            # By score, because which of two equal voiceprints is found does not matter.
            first.append(bool(near[0] >= scores[0]))
            ten.append(float(np.mean(near[:K] >= scores[-1])))
        at_1, at_10 = (float(np.mean(np.reshape(found, (2, -1)), axis=1).min()) for found in (first, ten))
        self.approximation = Approximation(at_1, at_10, len(self._centroids), self.nprobe)

    @property
    def nbytes(self) -> int:
        """Private memory, with half a block of padding for each list."""
        rows = self._index.ntotal + self._index.nlist * BLOCK // 2
        return int(
            rows * self._packer.code_size
            + self._index.ntotal * 8
            + 2 * self._centroids.nbytes
            + self._numbers.nbytes
        )

    def _block(self, number: int, row: int) -> tuple[int, NDArray[np.uint8]]:
        """The place of a row among those that its list packs together, and their codes."""
        import faiss

        lists = self._index.invlists
        size = lists.list_size(number)
        ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
        block, place = divmod(int(np.flatnonzero(ids == row)[0]), BLOCK)
        packed = faiss.rev_swig_ptr(lists.get_codes(number), -(-size // BLOCK) * self._packer.block_size)
        return place, packed.reshape(-1, self._packer.block_size)[block : block + 1]


def make_lists(
    base: Base,
    live: NDArray[np.bool_],
    recall: float,
    worth: float = 0.85,
    stop: Callable[[], bool] = never,
) -> Lists | None:
    """Deals the rows of a base out to sqrt(n) / 2 lists: few and large, because each costs as much as a thousand codes
    to come to. Takes one core, for about ten seconds per million rows.

    Args:
        live: bool [n], the rows that count.
        recall: Share of probes, strangers and weak ones each, whose exact best is to be found, in (0, 1).
        worth: Most that reading the lists may cost, as a share of reading all codes in order.
        stop: Asked now and then.

    Returns:
        None where lists gain too little, or where so high a recall cannot be told from few probes.

    Raises:
        BuildStoppedError: `stop` answered True.
        SnapshotRejected: The base's file is damaged.
    """
    rows, rotation = np.flatnonzero(live), base.codec.rotation
    points, absent = draw_probes(rows, base.vectors, _PROBES)
    best, exact = exact_best(points, absent, _until(base.blocks(rows, _STEP), stop), base.vectors)
    nlist = max(1, min(isqrt(len(rows)) // 2, len(rows) // _LEAST_ROWS))
    # Not trained on what they are tried with.
    centroids = _centroids(base, np.setdiff1d(rows, absent), nlist, stop)
    nprobe = _lists_needed(points @ rotation, base.vectors(best[:, 0]) @ rotation, centroids, recall)
    if nprobe is None:
        log.warning(
            "a recall of %g cannot be promised from %d probes; answers stay exact", recall, len(points) // 2
        )
        return None
    cost = reading_cost(len(rows), nlist, nprobe)
    if cost > worth:
        log.warning(
            "a recall of %g takes %d of %d lists: %.2f times as long as an exact search; answers stay exact",
            recall, nprobe, nlist, cost,
        )  # fmt: skip
        return None
    lists = Lists(base, centroids, nprobe)
    lists.fill(_until(base.blocks(rows, _STEP), stop))
    lists.measure(points, absent, exact, stop)
    if lists.approximation.recall_at_1 < recall:  # codes may miss too
        log.warning("lists found %s only, not %g; answers stay exact", lists.approximation, recall)
        return None
    return lists


def reading_cost(count: int, nlist: int, nprobe: int) -> float:
    """What reading `nprobe` of `nlist` lists costs, as a share of reading all `count` codes in order."""
    return (nprobe * (_CODE_COST * count / nlist + _LIST_COST) + nlist * _CENTROID_COST) / count


def promising_rank(count: int, recall: float) -> int | None:
    """How many of `count` probes must find their best so that, with 95 % confidence, a share `recall` of all such probes
    does. None where even all of them would not show that."""
    rank = ceil(count * recall + _DEVIATIONS * sqrt(count * recall * (1 - recall)))
    return rank if rank <= count else None


def _lists_needed(
    points: Float32Array, best: Float32Array, centroids: Float32Array, recall: float
) -> int | None:
    """How many lists to read, so that with 95 % confidence this share of all probes of either kind finds its best: a
    tolerance limit of the lists needed, from their order among these (Wilks, Annals of Mathematical Statistics 12, 1941).

    Args:
        points, best: float32 [2 p, d], probes of two kinds and the best row of each, all rotated.
    """
    rank = promising_rank(len(points) // 2, recall)
    if rank is None:
        return None
    # A best row is found once its list is read: as many lists as are nearer to the probe, and its own.
    own = np.argmax(best @ centroids.T, axis=1)
    products = points @ centroids.T
    needed = (products > products[np.arange(len(points)), own][:, None]).sum(axis=1) + 1
    return int(np.sort(needed.reshape(2, -1), axis=1)[:, rank - 1].max())


def _centroids(base: Base, rows: Int64Array, nlist: int, stop: Callable[[], bool]) -> Float32Array:
    """Unit centroids [nlist, d] of the rotated rows, by spherical k-means on some."""
    import faiss

    random = np.random.default_rng(len(rows))
    most = min(len(rows), _PER_LIST * nlist, _MOST_TRAINED)
    sample = base.vectors(np.sort(random.choice(rows, most, replace=False)))
    sample = sample[sample.any(axis=1)] @ base.codec.rotation
    found: Float32Array = sample[random.choice(len(sample), nlist, replace=False)]
    for _ in range(_ROUNDS):  # one at a time, so that closing waits for one only
        if stop():
            raise BuildStoppedError
        with one_thread():
            means = faiss.Kmeans(base.codec.dim, nlist, niter=1, spherical=True, min_points_per_centroid=1)
            means.train(sample, init_centroids=found)
        found = np.asarray(means.centroids, dtype=np.float32)
    return found


def _until(blocks: Iterator[Block], stop: Callable[[], bool]) -> Iterator[Block]:
    for block in blocks:
        if stop():
            raise BuildStoppedError
        yield block
