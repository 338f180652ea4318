"""Count-min sketch (Cormode and Muthukrishnan, 2005): how often each key was seen, in memory that does not grow.

Training reads from it how often a product is drawn, for the logQ correction of the losses, over streams of which nobody
can or wants to keep exact counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inference.errors import InputError

IntArray = np.ndarray[Any, np.dtype[np.int64]]
FloatArray = np.ndarray[Any, np.dtype[np.float64]]

_ODD = np.uint64(0x9E3779B97F4A7C15)


class CountMinSketch:
    """Counts of int64 keys in `depth` rows of `width` cells.

    An estimate is never below the true count. Each row adds on average `total / width` of other keys' counts, so by
    Markov's inequality all rows, and with them the estimate, exceed the true count by more than `2 total / width` with
    a probability of at most `2 ** -depth`.

    Attributes:
        table: `[depth, width]` int64; with `total` and the constructor's arguments the whole state.
        total: how much was counted.
    """

    def __init__(self, width: int, depth: int = 4, seed: int = 0) -> None:
        if width < 2 or width & (width - 1) or depth < 1:
            raise InputError(f"a sketch needs a power of two as width ({width}) and at least one row ({depth})")
        self.table = np.zeros((depth, width), np.int64)
        self.total = 0
        self._seeds = np.random.default_rng(seed).integers(0, 2**63, depth, dtype=np.uint64)
        self._shift = np.uint64(64 - (width.bit_length() - 1))

    @classmethod
    def for_keys(cls, distinct: int, seed: int = 0) -> CountMinSketch:
        """Wide enough that so many distinct keys hardly meet (8 cells a key), 128 MiB at most."""
        return cls(1 << min(22, max(12, (8 * distinct - 1).bit_length())), seed=seed)

    def add(self, keys: IntArray) -> None:
        """Count each key `[N]` once for every time that it stands there."""
        for row, cells in zip(self.table, self._cells(keys), strict=True):
            np.add.at(row, cells, 1)
        self.total += len(keys)

    def count(self, keys: IntArray) -> IntArray:
        """The estimated counts `[N]` of these keys."""
        cells = self._cells(keys)
        out: IntArray = np.min([row[at] for row, at in zip(self.table, cells, strict=True)], axis=0)
        return out

    def share(self, keys: IntArray) -> FloatArray:
        """count / total `[N]`."""
        out: FloatArray = self.count(keys) / max(self.total, 1)
        return out

    def log_share(self, keys: IntArray) -> FloatArray:
        """log (count / total) `[N]`; a key that was never seen counts as seen once."""
        out: FloatArray = np.log(np.maximum(self.count(keys), 1) / max(self.total, 1))
        return out

    def _cells(self, keys: IntArray) -> list[IntArray]:
        """The finaliser of splitmix64 over key and row seed, its highest bits."""
        plain = keys.astype(np.uint64) * _ODD
        cells: list[IntArray] = []
        for seed in self._seeds:
            mixed = plain + seed
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            cells.append(((mixed ^ (mixed >> np.uint64(31))) >> self._shift).astype(np.int64))
        return cells
