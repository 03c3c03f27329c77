"""4-bit product codes trained on a gallery, and the scan over them (FAISS' fast-scan).

A voiceprint is rotated, cut into M parts of `d / M` dimensions, and each part is replaced by the nearest of 16
centroids (Jegou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, TPAMI 2011). The rotation evens out
what the four bits of each part have to carry (Ge, He, Ke and Sun, Optimized Product Quantization, TPAMI 2014, section
3.2.2): the larger half of the gallery's principal axes is mixed by a random rotation, so that no part alone carries the
few axes in which real voices differ most, and each part gets one of those and one of the small axes. Against pairs of
unmixed axes that takes an eighth of the candidates on a gallery like real embeddings, and as many on a Gaussian one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicevault.index.products import one_thread
from voicevault.types import Float32Array, Int64Array

UInt8Array = NDArray[np.uint8]

CENTROIDS = 16
BLOCK = 32
"""Rows that fast-scan packs together."""
MIN_TRAINING = 1000
"""Rows below which codes are not worth having, and k-means is ill-founded."""
TRAINING_ROWS = 16_384
_MAX_PARTS = 256
"""Fast-scan sums one byte per part in 16 bits."""


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

    Args:
        codec: What the codes mean.
        packed: The array that `Codec.pack` made of these `count` rows; it is copied.
    """

    def __init__(self, codec: Codec, packed: UInt8Array, count: int) -> None:
        self._codec, self._index = codec, codec.empty_index()
        self._packer = self._index.get_CodePacker()
        self._index.codes.resize(packed.size)
        if packed.size:
            _codes_of(self._index)[:] = packed
        self._index.ntotal = count
        self._index.ntotal2 = packed_rows(count)

    def scan(self, point: Float32Array, depth: int) -> tuple[Float32Array, Int64Array]:
        """Approximate scores and rows of the `depth` best, 1 <= depth <= n, for one probe [d]; the best comes
        first."""
        with one_thread():
            scores, rows = self._index.search((point @ self._codec.rotation)[None], depth)
        if rows[0, -1] >= 0:
            return scores[0], rows[0]
        found = rows[0] >= 0
        return scores[0][found], rows[0][found]

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
        return int(self._index.codes.size())

    def _block(self, row: int) -> UInt8Array:
        """The packed codes [1, bytes] of a row and its neighbours."""
        block = row // BLOCK
        return _codes_of(self._index).reshape(-1, self._packer.block_size)[block : block + 1]


def packed_rows(count: int) -> int:
    return -(-count // BLOCK) * BLOCK


def packed_bytes(count: int, parts: int) -> int:
    """Size of the array that `Codec.pack` makes of `count` rows."""
    return packed_rows(count) * (parts + parts % 2) // 2


def _codes_of(index: Any) -> UInt8Array:
    import faiss

    size = index.codes.size()
    view: UInt8Array = faiss.rev_swig_ptr(index.codes.get(), size) if size else np.empty(0, dtype=np.uint8)
    return view
