"""4-bit product codes trained on a gallery, and the scan over them (FAISS' fast-scan).

A voiceprint is rotated, cut into M parts of `d / M` dimensions, and each part is replaced by the nearest of 16
centroids (Jegou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, TPAMI 2011). The rotation evens out
what the four bits of each part have to carry (Ge, He, Ke and Sun, Optimized Product Quantization, TPAMI 2014, section
3.2.2): the larger half of the gallery's principal axes is mixed by a random rotation, so that no part alone carries the
few axes in which real voices differ most, and each part gets one of those and one of the small axes. Against pairs of
unmixed axes that takes an eighth of the candidates on a gallery like real embeddings, and as many on a Gaussian one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isqrt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from voicevault.index.crew import Crew
from voicevault.index.products import ask_for_huge_pages, one_thread
from voicevault.types import Float32Array, Int64Array

UInt8Array = NDArray[np.uint8]
T = TypeVar("T")

CENTROIDS = 16
BLOCK = 32
"""Rows that fast-scan packs together."""
MIN_TRAINING = 1000
"""Rows below which codes are not worth having, and k-means is ill-founded."""
TRAINING_ROWS = 16_384
_MAX_PARTS = 256
"""Fast-scan sums one byte per part in 16 bits."""
_SHARD_BYTES = 8 << 20
"""Codes below which another shard is not worth waking a thread for."""
_MOST_SHARDS = 8


def parts_of(dim: int) -> int | None:
    """M, the parts that a vector of `dim` dimensions is cut into; None where it cannot be cut evenly."""
    for size in range(2, dim + 1):
        if dim % size == 0 and dim // size <= _MAX_PARTS and size <= 16:
            return dim // size
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Codec:
    """What codes mean: `rotation` float32 [d, d] (orthogonal, applied as x @ rotation) and `centroids` float32
    [M, 16, d / M]."""

    rotation: Float32Array
    centroids: Float32Array

    @classmethod
    def train(cls, sample: Float32Array) -> Codec:
        """The codec of a gallery, from unit vectors [n, d] drawn from it, n >= MIN_TRAINING. Takes one core for a
        second or two."""
        import faiss

        dim = sample.shape[1]
        parts = parts_of(dim)
        assert parts is not None and len(sample) >= MIN_TRAINING
        # Not centred: the products are of the vectors as they are.
        moments = sample.T.astype(np.float64) @ sample.astype(np.float64)
        axes = np.linalg.eigh(moments)[1][:, ::-1]
        half = dim // 2
        mix = np.linalg.qr(np.random.default_rng(dim).standard_normal((half, half)))[0]
        axes = np.hstack([axes[:, :half] @ mix, axes[:, half:]])
        order = np.arange(dim).reshape(dim // parts, parts)
        order[1::2] = order[1::2, ::-1]
        rotation = np.ascontiguousarray(axes[:, order.T.ravel()], dtype=np.float32)
        quantizer = faiss.ProductQuantizer(dim, parts, 4)
        with one_thread():
            quantizer.train(sample @ rotation)
        centroids = faiss.vector_to_array(quantizer.centroids).reshape(parts, CENTROIDS, dim // parts)
        return cls(rotation, centroids)

    @property
    def dim(self) -> int:
        return len(self.rotation)

    @property
    def parts(self) -> int:
        return len(self.centroids)

    def pack(self, blocks: Iterable[Float32Array]) -> UInt8Array:
        """The codes of unit vectors [n, d], in the order and layout that `Scanner` reads."""
        index = self.empty_index()
        with one_thread():
            for rows in blocks:
                index.add(rows @ self.rotation)
        return _codes_of(index).copy()

    def encode(self, rows: Float32Array) -> UInt8Array:
        """The codes of unit vectors [n, d] as `Scanner.code` has them: uint8 [n, ceil(M / 2)]."""
        index = self.empty_index()  # `pq` is a part of it, and goes with it
        codes: UInt8Array = index.pq.compute_codes(rows @ self.rotation)
        return codes

    def empty_index(self) -> Any:
        """A trained `faiss.IndexPQFastScan` without rows."""
        import faiss

        index = faiss.IndexPQFastScan(self.dim, self.parts, 4, faiss.METRIC_INNER_PRODUCT, BLOCK)
        faiss.copy_array_to_vector(np.ascontiguousarray(self.centroids).ravel(), index.pq.centroids)
        index.is_trained = True
        return index


class Scanner:
    """Packed codes in memory, ready to be scanned. Many threads may scan at a time.

    Many codes are dealt out, block by block, to as many shards as there are cores, so that a scan is one of all shards
    side by side: one core alone cannot read faster than its own share of the memory's bandwidth. Whatever the order in
    which voices came, each shard is then a fair sample of the gallery.

    Args:
        codec: What the codes mean.
        packed: The array that `Codec.pack` made of these `count` rows; it is copied.
        crew: Who scans.
    """

    def __init__(self, codec: Codec, packed: UInt8Array, count: int, crew: Crew | None = None) -> None:
        self._codec, self._crew = codec, crew or Crew()
        size = packed_bytes(BLOCK, codec.parts)
        blocks = packed.reshape(-1, size)
        self._step = max(1, min(self._crew.cores, _MOST_SHARDS, packed.size // _SHARD_BYTES))
        self._shards = [_loaded(codec, blocks[first :: self._step]) for first in range(self._step)]
        last = self._shards[(len(blocks) - 1) % self._step]
        last.ntotal -= packed_rows(count) - count
        self._counts = [int(shard.ntotal) for shard in self._shards]
        self._packer = last.get_CodePacker()

    def scan(
        self, point: Float32Array, depth: int, then: Callable[[Float32Array, Int64Array, float], T]
    ) -> list[T]:
        """Finds the best rows for one probe [d], by their codes, and gives those of each shard to `then`, on the thread
        that found them.

        Args:
            depth: How many, 1 <= depth <= n; some more where there are several shards.
            then: Takes approximate scores and rows, the best first, and what no other row's score in the shard is
                above.
        """
        step = self._step
        # A shard's share of the best is binomial; four standard deviations more.
        share = depth if step == 1 else depth // step + 2 * isqrt(depth)

        def part(shard: int) -> Callable[[], T]:
            return lambda: then(*self._scan(shard, point, share))

        return self._crew.run([part(shard) for shard in range(step)])

    def _scan(self, shard: int, point: Float32Array, depth: int) -> tuple[Float32Array, Int64Array, float]:
        from faiss import swig_ptr

        count, step = self._counts[shard], self._step
        depth = min(depth, count)
        turned = point @ self._codec.rotation
        scores, rows = np.empty(depth, dtype=np.float32), np.empty(depth, dtype=np.int64)
        with one_thread():
            # What `search` does, without its checks, whose code a lone search would find cold.
            self._shards[shard].search_c(1, swig_ptr(turned), depth, swig_ptr(scores), swig_ptr(rows))
        if rows[-1] < 0:
            scores, rows = scores[rows >= 0], rows[rows >= 0]
        least = float(scores[-1]) if len(rows) < count else -np.inf
        if step > 1:
            rows += rows // BLOCK * (BLOCK * (step - 1)) + BLOCK * shard
        return scores, rows, least

    def code(self, row: int) -> UInt8Array:
        """The code of a row: uint8, two parts a byte."""
        code: UInt8Array = self._packer.unpack_1(self._block(row), row % BLOCK)
        return code

    def erase(self, row: int) -> tuple[int, bytes]:
        """Makes the code of a row all zeros; the changed piece of the packed array, as offset and bytes."""
        block = self._block(row)
        self._packer.pack_1(np.zeros(self._packer.code_size, dtype=np.uint8), row % BLOCK, block)
        return row // BLOCK * block.size, block.tobytes()

    @property
    def nbytes(self) -> int:
        return sum(int(shard.codes.size()) for shard in self._shards)

    def _block(self, row: int) -> UInt8Array:
        """The packed codes [1, bytes] of a row and its neighbours."""
        block, shard = divmod(row // BLOCK, self._step)
        return _codes_of(self._shards[shard]).reshape(-1, self._packer.block_size)[block : block + 1]


def packed_rows(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


def packed_bytes(count: int, parts: int) -> int:
    """Size of the array that `Codec.pack` makes of `count` rows."""
    return packed_rows(count) * (parts + parts % 2) // 2


def _loaded(codec: Codec, blocks: UInt8Array) -> Any:
    """A `faiss.IndexPQFastScan` with a copy of these packed codes [b, bytes], whose blocks are all full."""
    index = codec.empty_index()
    if len(blocks):
        index.codes.resize(blocks.size)
        codes = _codes_of(index)
        ask_for_huge_pages(codes)
        codes.reshape(blocks.shape)[:] = blocks
    index.ntotal = index.ntotal2 = len(blocks) * BLOCK
    return index


def _codes_of(index: Any) -> UInt8Array:
    import faiss

    size = index.codes.size()
    view: UInt8Array = faiss.rev_swig_ptr(index.codes.get(), size) if size else np.empty(0, dtype=np.uint8)
    return view
