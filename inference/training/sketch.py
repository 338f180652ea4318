"""Count-min sketch (Cormode and Muthukrishnan, 2005): how often each key was seen, in memory of constant size.

Training uses it to estimate how often a product is drawn, for the logQ correction of the losses. Exact counts of these
streams would need too much memory.
"""

from __future__ import annotations

import numpy as np

from inference.arrays import Float64Array, Int64Array
from inference.errors import InputError

_ODD = np.uint64(0x9E3779B97F4A7C15)


class CountMinSketch:
    """Counts int64 keys in `depth` rows of `width` cells.

    An estimate is never below the true count. On average each row adds `total / width` from other keys. By Markov's
    inequality, the estimate exceeds the true count by more than `2 total / width` with a probability of at most
    `2 ** -depth`.

    Args:
        width: Number of cells of each row, a power of two.
        depth: Number of rows.
        seed: Seed of the hash functions.

    Attributes:
        table: `[depth, width]` int64. With `total` and the constructor's arguments it is the whole state.
        total: Number of keys counted so far.

    Raises:
        InputError: If `width` is not a power of two above 1, or `depth` is below 1.
    """

    def __init__(self, width: int, depth: int = 4, seed: int = 0) -> None:
        if width < 2 or width & (width - 1) or depth < 1:
            raise InputError(
                f"width ({width}) of a sketch must be a power of two above 1, and depth ({depth}) at least 1"
            )
        self.table = np.zeros((depth, width), np.int64)
        self.total = 0
        self._seeds = np.random.default_rng(seed).integers(0, 2**63, depth, dtype=np.uint64)
        self._shift = np.uint64(64 - (width.bit_length() - 1))

    @classmethod
    def for_keys(cls, distinct: int, seed: int = 0) -> CountMinSketch:
        """Return a sketch in which so many distinct keys rarely collide (8 cells per key), of at most 128 MiB."""
        return cls(1 << min(22, max(12, (8 * distinct - 1).bit_length())), seed=seed)

    def add(self, keys: Int64Array) -> None:
        """Count the keys `[N]`; a key that occurs several times counts several times."""
        for row, cells in zip(self.table, self._cells(keys), strict=True):
            np.add.at(row, cells, 1)
        self.total += len(keys)

    def count(self, keys: Int64Array) -> Int64Array:
        """Return the estimated counts `[N]` of some keys."""
        cells = self._cells(keys)
        out: Int64Array = np.min([row[at] for row, at in zip(self.table, cells, strict=True)], axis=0)
        return out

    def share(self, keys: Int64Array) -> Float64Array:
        """Return count / total `[N]` of some keys."""
        out: Float64Array = self.count(keys) / max(self.total, 1)
        return out

    def log_share(self, keys: Int64Array) -> Float64Array:
        """Return log(count / total) `[N]` of some keys; a key that was never seen counts as seen once."""
        out: Float64Array = np.log(np.maximum(self.count(keys), 1) / max(self.total, 1))
        return out

    def _cells(self, keys: Int64Array) -> list[Int64Array]:
        """Return each key's cell in each row: the highest bits of splitmix64's finaliser over key and row seed."""
        plain = keys.astype(np.uint64) * _ODD
        cells: list[Int64Array] = []
        for seed in self._seeds:
            mixed = plain + seed
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            cells.append(((mixed ^ (mixed >> np.uint64(31))) >> self._shift).astype(np.int64))
        return cells
