"""Text fields -> token ids: unigrams, bigrams and character trigrams (ItemSage §3.2; vocabulary as in its successor).

A string is NFKC-normalised and casefolded, and split into words at everything that is no letter, number or combining
mark; a CJK character is a word of its own. Tokens of "Red shoe" are `red`, `shoe`; `red#shoe`; and the trigrams of
`#red#shoe#`. A token outside the vocabularies is dropped: there are no out-of-vocabulary buckets. The ids of the three
vocabularies follow each other: unigrams, bigrams, trigrams. A field is a bag: the order of its ids carries no meaning,
their counts do.

Every update passes here, so a batch is encoded as a whole, in NumPy over all its characters, without a step of Python
per token: its texts become one string, ` \x02 red shoe \x02 blue lamp \x02 `, and every token is a span of it. Unigrams
and bigrams are looked up by a hash of the span, trigrams by their three characters. Nothing is remembered from text to
text: the first pass over a catalogue is as fast as the tenth.
"""

from __future__ import annotations

import sys
import unicodedata
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from inference.errors import ArtifactError, InputError
from inference.inputs import TEXT_FIELDS

IntArray = np.ndarray[Any, np.dtype[np.int32]]
_Places = np.ndarray[Any, np.dtype[np.int64]]
_Keys = np.ndarray[Any, np.dtype[np.uint64]]
_Codes = np.ndarray[Any, np.dtype[np.uint32]]

_FORMAT = "sagelift-tokenizer-1"
_START = "\x02"  # stands before the first word of each text of a batch; no word holds a control character
_BORDER = f" {_START} "
_SPACE = ord(" ")
_USUAL_BITS = 17  # of the number of characters
_TOKENS_AT_ONCE = 5_000  # of a vocabulary that is read
_PORTION = 1 << 16  # characters encoded at once: more gain nothing, and would need memory
_UNKNOWN, _RARE = 62, 63  # kinds of characters: in no trigram of the vocabulary; in one, but not among the first 62
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits without a pattern (Knuth: 2**64 over the golden ratio)
_NO_KEY = np.uint64(2**64 - 1)
_CJK = (
    range(0x3040, 0x3100),  # hiragana, katakana
    range(0x3400, 0x4DC0),  # ideographs, extension A
    range(0x4E00, 0xA000),  # ideographs
    range(0xAC00, 0xD7B0),  # hangul syllables
    range(0xF900, 0xFB00),  # compatibility ideographs
    range(0x20000, 0x32000),  # ideographs, extensions B to H
)


class _Characters(dict[int, str | None]):
    """The table for `str.translate` that leaves words between spaces; filled as characters are met."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        kind = unicodedata.category(character)
        out: str | None
        if kind[0] in "LN":
            out = f" {character} " if any(code in block for block in _CJK) else character
        elif 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or (kind == "Cf" and code != 0x200B):
            out = None  # variation selectors, soft hyphens, joiners: unseen, inside words; not so the zero-width space
        else:
            out = character if kind in ("Mn", "Mc") else " "
        self[code] = out
        return out


_CHARACTERS = _Characters({ord(_START): _START})


def words(text: str) -> list[str]:
    """The words of a string after NFKC and casefolding."""
    return _fold(text).translate(_CHARACTERS).replace(_START, " ").split()


def _fold(text: str) -> str:
    if text.isascii():
        return text.casefold()
    # Casefolding can leave a string that is not normalised any more.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _characters(texts: Sequence[str]) -> _Codes:
    """The words of all texts as one string, a space around each word and `_START` before each text and at the end."""
    # All ASCII texts are translated as one: `str.translate` looks a character up once per call there, but at every
    # occurrence in a string that is not ASCII.
    plain = [text for text in texts if text.isascii()]
    joined = _BORDER.join(plain)
    if joined.count(_START) >= max(1, len(plain)):  # in a text itself
        joined = _BORDER.join(text.replace(_START, " ") for text in plain)
    done = joined.casefold().translate(_CHARACTERS)
    if len(plain) < len(texts):
        parts = iter(done.split(_START))
        done = _BORDER.join(next(parts) if text.isascii() else " ".join(words(text)) for text in texts)
    codes = _codes(f"{_BORDER}{done}{_BORDER}")
    space = codes == _SPACE
    space[1:] &= space[:-1]  # after another one
    kept: _Codes = codes[~space]
    return kept


def word_trigrams(word: str) -> list[str]:
    """Character trigrams of a word between two `#`."""
    padded = f"#{word}#"
    return [padded[i : i + 3] for i in range(len(word))]


def border_trigram(left: str, right: str) -> str:
    """The character trigram across the border of two neighbouring words."""
    return f"{left[-1]}#{right[0]}"


class _Table:
    """Key -> id, for whole arrays; a slot is named by the highest bits of the key times an odd number.

    Of several keys with the same slot the first (the most frequent token's) stands in it, the others in a next table.
    """

    def __init__(self, keys: _Keys, ids: IntArray) -> None:
        bits = max(3, (8 * len(keys)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._keys, self._ids = np.full(1 << bits, _NO_KEY), np.full(1 << bits, -1, np.int32)
        slots = self._slots(keys)
        self._keys[slots[::-1]], self._ids[slots[::-1]] = keys[::-1], ids[::-1]
        others = self._keys[slots] != keys
        self._next = _Table(keys[others], ids[others]) if others.any() else None

    def find(self, keys: _Keys) -> IntArray:
        """The id of each key, -1 where there is none."""
        slots = self._slots(keys)
        there = self._keys.take(slots)
        other = there != keys
        ids: IntArray = self._ids.take(slots)
        ids[other] = -1
        if self._next is not None and len(places := np.flatnonzero(other & (there != _NO_KEY))):
            ids[places] = self._next.find(keys[places])
        return ids

    def _slots(self, keys: _Keys) -> np.ndarray[Any, np.dtype[np.int64]]:
        return (keys * _BASE >> self._shift).view(np.int64)


class _Spans:
    """Hashes of spans of a string: over the characters c from `start`, the sum of c[start + i] * _BASE**(i + 1), modulo
    2**64, had from sums over the whole string (Karp and Rabin, 1987).

    The tokens of a vocabulary are checked to differ in it; that a word outside it has the hash of one of a million
    inside happens once in 10**13 words.
    """

    def __init__(self, codes: _Codes) -> None:
        powers, self._inverses = _powers(max(_USUAL_BITS, len(codes).bit_length()))
        self._sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(powers[: len(codes)] * codes.astype(np.uint64), out=self._sums[1:])

    def hashes(self, starts: _Places, ends: _Places) -> _Keys:
        """Of the spans from each start up to its end."""
        return (self._sums[ends] - self._sums[starts]) * self._inverses[starts]


@lru_cache(maxsize=2)  # the usual ones, and those of a very long text
def _powers(bits: int) -> tuple[_Keys, _Keys]:
    """`2**bits` powers modulo 2**64: of the base, from the first on, and of its inverse, from the zeroth on."""
    base, inverse = np.full(1 << bits, _BASE), np.full(1 << bits, pow(int(_BASE), -1, 1 << 64), np.uint64)
    inverse[0] = 1
    return np.multiply.accumulate(base), np.multiply.accumulate(inverse)


def _hashes(tokens: Sequence[str]) -> _Keys:
    """Of a vocabulary's tokens, with `#` where a text has a space."""
    parts = [np.zeros(0, np.uint64)]
    for first in range(0, len(tokens), _TOKENS_AT_ONCE):
        some = tokens[first : first + _TOKENS_AT_ONCE]
        ends = np.cumsum(np.fromiter(map(len, some), np.int64, len(some)))
        parts.append(_Spans(_codes("".join(some).replace("#", " "))).hashes(np.append(0, ends[:-1]), ends))
    return np.concatenate(parts)


class _Trigrams:
    """Trigrams by their three characters.

    Three of the most frequent characters of the vocabulary name a place in an array, small enough for the processor's
    cache; trigrams with a rare one are in a table.
    """

    def __init__(self, trigrams: Sequence[str], first: int) -> None:
        text = "".join(trigrams).replace("#", " ")
        self._kinds = np.full(sys.maxunicode + 1, _UNKNOWN, np.uint8)
        for kind, (character, _) in enumerate(Counter(text).most_common()):
            self._kinds[ord(character)] = kind if kind < _UNKNOWN else _RARE
        codes = _codes(text)
        ids = np.arange(first, first + len(trigrams), dtype=np.int32)
        kinds = self._kinds[codes]
        rare = (kinds.reshape(-1, 3) == _RARE).any(1)
        self._ids = np.full(1 << 18, -1, np.int32)
        self._ids[self._places(kinds)[::3][~rare]] = ids[~rare]
        self._rare = _Table(self._keys(codes, 3 * np.flatnonzero(rare)), ids[rare])

    def find(self, codes: _Codes) -> IntArray:
        """The id of the trigram that starts at each character but the last two; -1 where there is none."""
        kinds = self._kinds.take(codes)
        ids: IntArray = self._ids.take(self._places(kinds))
        rare = kinds == _RARE
        if rare.any():
            at = np.flatnonzero(rare[:-2] | rare[1:-1] | rare[2:])
            ids[at] = self._rare.find(self._keys(codes, at))
        return ids

    def _places(self, kinds: np.ndarray[Any, np.dtype[np.uint8]]) -> IntArray:
        wide = kinds.astype(np.int32)
        return (wide[:-2] << 6 | wide[1:-1]) << 6 | wide[2:]

    def _keys(self, codes: _Codes, at: np.ndarray[Any, np.dtype[np.int64]]) -> _Keys:
        wide = codes.astype(np.uint64)
        keys: _Keys = (wide[at] << np.uint64(21) | wide[at + 1]) << np.uint64(21) | wide[at + 2]
        return keys


def _codes(text: str) -> _Codes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class _Content(msgspec.Struct, frozen=True):
    """The file: plain data."""

    format: str
    unigrams: list[str]
    bigrams: list[str]
    trigrams: list[str]


class Tokenizer:
    """Vocabularies and the encoding with them. The same artefact serves training, serving and export.

    Safe to use from several threads: it never changes.

    Raises:
        ArtifactError: a vocabulary names a token twice, or has a trigram of another length.
    """

    def __init__(self, unigrams: Sequence[str], bigrams: Sequence[str], trigrams: Sequence[str]) -> None:
        self._content = _Content(_FORMAT, list(unigrams), list(bigrams), list(trigrams))
        self.size = len(unigrams) + len(bigrams) + len(trigrams)
        """Number of ids over the three vocabularies."""
        if odd := [trigram for trigram in trigrams if len(trigram) != 3]:
            raise ArtifactError(f"the vocabulary has {odd[0]!r} for a trigram; fit the tokenizer anew")
        hashes = _hashes([*unigrams, *bigrams])
        if len(np.unique(hashes)) < len(hashes) or len(set(trigrams)) < len(trigrams):
            raise ArtifactError("a vocabulary names a token twice; fit the tokenizer anew")
        self._words = _Table(hashes, np.arange(len(hashes), dtype=np.int32))  # unigrams and bigrams
        self._trigrams = _Trigrams(trigrams, len(hashes))

    @classmethod
    def fit(
        cls,
        texts: Iterable[Mapping[str, str]],
        *,
        unigrams: int = 200_000,
        bigrams: int = 1_000_000,
        trigrams: int = 64_000,
    ) -> Tokenizer:
        """The most frequent tokens of a corpus (ties broken alphabetically: the order of products is of no matter).

        Raises:
            InputError: the corpus holds no word.
        """
        word_counts: Counter[str] = Counter()
        pair_counts: Counter[tuple[str, str]] = Counter()
        for fields in texts:
            for name in TEXT_FIELDS:
                if text := fields.get(name):
                    found = words(text)
                    word_counts.update(found)
                    pair_counts.update(pairwise(found))
        if not word_counts:
            raise InputError("the corpus holds no word to fit a vocabulary on: check the products' text fields")
        trigram_counts: Counter[str] = Counter()
        for word, count in word_counts.items():
            for trigram in word_trigrams(word):
                trigram_counts[trigram] += count
        for pair, count in pair_counts.items():
            trigram_counts[border_trigram(*pair)] += count
        bigram_counts = {"#".join(pair): count for pair, count in pair_counts.items()}
        return cls(
            _most_frequent(word_counts, unigrams),
            _most_frequent(bigram_counts, bigrams),
            _most_frequent(trigram_counts, trigrams),
        )

    def ids(self, text: str) -> list[int]:
        """The ids of one string; an id occurs as often as its token."""
        ids: list[int] = self.encode_flat([{TEXT_FIELDS[0]: text}])[0].tolist()
        return ids

    def encode_flat(self, products: Iterable[Mapping[str, str]]) -> tuple[IntArray, IntArray]:
        """Text fields of `B` products -> token ids `[N]` int32, field after field and product after product, and how
        many belong to each field `[B, 12]` int32.
        """
        texts = [*chain.from_iterable(map(fields.get, TEXT_FIELDS) for fields in products)]
        lengths = np.zeros(len(texts), np.int32)
        bags = [self._bags(portion) for portion in _portions([*filter(None, texts)])]
        if bags:
            lengths[np.array(texts, np.bool_)] = np.concatenate([sizes for _, sizes in bags])
        flat = np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in bags)])
        return flat, lengths.reshape(-1, len(TEXT_FIELDS))

    def encode(self, products: Sequence[Mapping[str, str]]) -> tuple[IntArray, IntArray]:
        """Text fields of `B` products -> token ids `[B, T]` int32 and how many belong to each field `[B, 12]` int32.

        A product's ids are its fields' bags one after the other, padded with -1 to the longest product of the batch.
        """
        flat, lengths = self.encode_flat(products)
        ends = lengths.sum(1, dtype=np.int64).cumsum()
        totals = np.diff(ends, prepend=0)
        tokens = np.full((len(lengths), max(1, int(totals.max(initial=0)))), -1, np.int32)
        for row, end, total in zip(tokens, ends.tolist(), totals.tolist(), strict=True):
            row[:total] = flat[end - total : end]
        return tokens, lengths

    def _bags(self, texts: Sequence[str]) -> tuple[IntArray, IntArray]:
        """The ids of all texts, one after the other, and how many belong to each."""
        codes = _characters(texts)
        spans = _Spans(codes)
        # `_START` passes for a word here, and for a character of trigrams: no vocabulary knows what holds it.
        spaces = np.flatnonzero(codes == _SPACE)
        starts, ends = spaces[:-1] + 1, spaces[1:]
        ids = np.full((len(codes), 3), -1, np.int32)  # of unigram, bigram and trigram that start at a character
        ids[starts, 0] = self._words.find(spans.hashes(starts, ends))
        ids[starts[:-1], 1] = self._words.find(spans.hashes(starts[:-1], ends[1:]))
        ids[:-2, 2] = self._trigrams.find(codes)
        flat = ids.ravel()
        known = np.flatnonzero(flat >= 0)
        borders = np.flatnonzero(codes == ord(_START))
        return flat[known], np.diff(np.searchsorted(known, 3 * borders)).astype(np.int32)

    def save(self, path: Path) -> None:
        """Write the vocabularies as JSON (plain data), atomically."""
        aside = path.with_suffix(".tmp")
        aside.write_bytes(msgspec.json.encode(self._content))
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            ArtifactError: missing, truncated, or another kind of file.
        """
        try:
            content = msgspec.json.decode(path.read_bytes(), type=_Content)
        except OSError as error:
            raise ArtifactError(f"the tokenizer {path} cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ArtifactError(f"{path} is no tokenizer or was cut off; export the model again") from None
        if content.format != _FORMAT:
            raise ArtifactError(f"{path} has format {content.format!r}, must be {_FORMAT!r}")
        return cls(content.unigrams, content.bigrams, content.trigrams)


def _portions(texts: Sequence[str]) -> list[Sequence[str]]:
    """Cuts the texts into runs of about `_PORTION` characters, at least one text each."""
    if sum(map(len, texts)) <= _PORTION:
        return [texts] if texts else []
    ends = list(accumulate(map(len, texts)))
    cuts = sorted({0, len(texts), *(bisect(ends, size) for size in range(_PORTION, ends[-1], _PORTION))})
    return [texts[start:end] for start, end in pairwise(cuts)]


def _most_frequent(counts: Mapping[str, int], limit: int) -> list[str]:
    return [token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]]
