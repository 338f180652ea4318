"""Find the ids of all tokens of a text in NumPy, without a Python step per token.

Unigrams and bigrams are looked up by a hash of their span in the text, trigrams by their three characters.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int32]]
CodeArray = np.ndarray[Any, np.dtype[np.uint32]]
PositionArray = np.ndarray[Any, np.dtype[np.int64]]
KeyArray = np.ndarray[Any, np.dtype[np.uint64]]

FREQUENT_CHARACTERS = 62  # of a vocabulary's trigrams: a character's number needs 6 bits, and two numbers are reserved
_UNKNOWN, _RARE = 62, 63  # numbers of characters: in no trigram of the vocabulary; in one, but not frequent
_USUAL_BITS = 17  # of the number of characters
_TOKENS_AT_ONCE = 5_000  # of a vocabulary whose hashes are computed
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, without a pattern in its bits (Knuth: 2**64 over the golden ratio)
_NO_KEY = np.uint64(2**64 - 1)


def code_points(text: str) -> CodeArray:
    """Return the code points of a string."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class HashTable:
    """Maps keys to ids, for whole arrays. A key's slot is the highest bits of the key times an odd number.

    If several keys share a slot, the first one (the most frequent token's) gets it and the others go to a next table.

    Args:
        keys: `[N]`, distinct keys.
        ids: `[N]`, the id of each key.
    """

    def __init__(self, keys: KeyArray, ids: IntArray) -> None:
        bits = max(3, (8 * len(keys)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._keys, self._ids = np.full(1 << bits, _NO_KEY), np.full(1 << bits, -1, np.int32)
        slots = self._slots(keys)
        self._keys[slots[::-1]], self._ids[slots[::-1]] = keys[::-1], ids[::-1]
        others = self._keys[slots] != keys
        self._next = HashTable(keys[others], ids[others]) if others.any() else None

    def find(self, keys: KeyArray) -> IntArray:
        """Return the id of each key, -1 for an unknown key."""
        slots = self._slots(keys)
        stored = self._keys.take(slots)
        other = stored != keys
        ids: IntArray = self._ids.take(slots)
        ids[other] = -1
        if self._next is not None and len(positions := np.flatnonzero(other & (stored != _NO_KEY))):
            ids[positions] = self._next.find(keys[positions])
        return ids

    def _slots(self, keys: KeyArray) -> PositionArray:
        return (keys * _BASE >> self._shift).view(np.int64)


class SpanHashes:
    """Hashes of spans of a string (Karp and Rabin, 1987).

    The hash of the characters c from `start` is the sum of c[start + i] * _BASE**(i + 1) modulo 2**64. It comes from
    cumulative sums over the whole string. The tokens of a vocabulary are checked to have distinct hashes. A word
    outside a vocabulary of a million tokens has the hash of one of them once in 10**13 words.

    Args:
        codes: The string's code points.
    """

    def __init__(self, codes: CodeArray) -> None:
        powers, self._inverses = _powers(max(_USUAL_BITS, len(codes).bit_length()))
        self._sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(powers[: len(codes)] * codes.astype(np.uint64), out=self._sums[1:])

    def of(self, starts: PositionArray, ends: PositionArray) -> KeyArray:
        """Return the hashes of the spans from each start up to its end."""
        return (self._sums[ends] - self._sums[starts]) * self._inverses[starts]


@lru_cache(maxsize=2)  # the usual ones, and those of a very long text
def _powers(bits: int) -> tuple[KeyArray, KeyArray]:
    """Return `2**bits` powers modulo 2**64: of the base from the first, and of its inverse from the zeroth."""
    base, inverse = np.full(1 << bits, _BASE), np.full(1 << bits, pow(int(_BASE), -1, 1 << 64), np.uint64)
    inverse[0] = 1
    return np.multiply.accumulate(base), np.multiply.accumulate(inverse)


def token_hashes(tokens: Sequence[str]) -> KeyArray:
    """Return the hashes of a vocabulary's tokens; a `#` in a token stands for a space in the text."""
    parts = [np.zeros(0, np.uint64)]
    for first in range(0, len(tokens), _TOKENS_AT_ONCE):
        some = tokens[first : first + _TOKENS_AT_ONCE]
        ends = np.cumsum(np.fromiter(map(len, some), np.int64, len(some)))
        hashes = SpanHashes(code_points("".join(some).replace("#", " ")))
        parts.append(hashes.of(np.append(0, ends[:-1]), ends))
    return np.concatenate(parts)


class TrigramIndex:
    """Finds trigrams by their three characters.

    The numbers of three frequent characters make an index into an array, which fits into the processor's cache.
    Trigrams with a rare character are in a hash table.

    Args:
        trigrams: The vocabulary.
        first: The id of the first trigram.
    """

    def __init__(self, trigrams: Sequence[str], first: int) -> None:
        text = "".join(trigrams).replace("#", " ")
        self._numbers = np.full(sys.maxunicode + 1, _UNKNOWN, np.uint8)  # of each character
        for number, (character, _) in enumerate(Counter(text).most_common()):
            self._numbers[ord(character)] = number if number < FREQUENT_CHARACTERS else _RARE
        codes = code_points(text)
        ids = np.arange(first, first + len(trigrams), dtype=np.int32)
        numbers = self._numbers[codes]
        rare = (numbers.reshape(-1, 3) == _RARE).any(1)
        self._ids = np.full(1 << 18, -1, np.int32)
        self._ids[self._places(numbers)[::3][~rare]] = ids[~rare]
        self._rare = HashTable(self._keys(codes, 3 * np.flatnonzero(rare)), ids[rare])

    def find(self, codes: CodeArray) -> IntArray:
        """Return the id of the trigram at each character but the last two, -1 for an unknown one."""
        numbers = self._numbers.take(codes)
        ids: IntArray = self._ids.take(self._places(numbers))
        rare = numbers == _RARE
        if rare.any():
            positions = np.flatnonzero(rare[:-2] | rare[1:-1] | rare[2:])
            ids[positions] = self._rare.find(self._keys(codes, positions))
        return ids

    def _places(self, numbers: np.ndarray[Any, np.dtype[np.uint8]]) -> IntArray:
        wide = numbers.astype(np.int32)
        return (wide[:-2] << 6 | wide[1:-1]) << 6 | wide[2:]

    def _keys(self, codes: CodeArray, positions: PositionArray) -> KeyArray:
        wide = codes.astype(np.uint64)
        keys: KeyArray = (wide[positions] << np.uint64(21) | wide[positions + 1]) << np.uint64(21) | wide[positions + 2]
        return keys
