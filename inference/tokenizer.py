"""Text fields -> token ids: unigrams, bigrams and character trigrams (ItemSage §3.2; vocabulary as in its successor).

A string is NFKC-normalised and casefolded, and split into words at everything that is no letter, number or combining
mark; a CJK character is a word of its own. Tokens of "Red shoe" are `red`, `shoe`; `red#shoe`; and the trigrams of
`#red#shoe#`. A token outside the vocabularies is dropped: there are no out-of-vocabulary buckets. The ids of the three
vocabularies follow each other: unigrams, bigrams, trigrams. A field is a bag: the order of its ids carries no meaning,
their counts do.

Every update passes here, so the work is cut along words. The trigrams of `#red#shoe#` are those of `#red#`, those of
`#shoe#` and the one across the border, `d#s`. All that a word brings after another one (its unigram, its trigrams, the
bigram and the trigram across the border) is looked up once and kept, as bytes; encoding is then one join of kept bytes
over all texts of a batch, without a step of Python per token.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from inference.errors import ArtifactError, InputError
from inference.inputs import TEXT_FIELDS

IntArray = np.ndarray[Any, np.dtype[np.int32]]

_FORMAT = "sagelift-tokenizer-1"
_START = "\x02"  # stands before the first word of each text of a batch; no word holds a control character
_BORDER = f" {_START} "
_KEPT = 300_000  # pairs remembered at most, some 300 bytes each
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


def _words_of_all(texts: Sequence[str]) -> list[str]:
    """The words of all texts, each text's led by `_START`, and a last `_START`."""
    if not texts:
        return [_START]
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
    return f"{_START} {done} {_START}".split()


def word_trigrams(word: str) -> list[str]:
    """Character trigrams of a word between two `#`."""
    padded = f"#{word}#"
    return [padded[i : i + 3] for i in range(len(word))]


def border_trigram(left: str, right: str) -> str:
    """The character trigram across the border of two neighbouring words."""
    return f"{left[-1]}#{right[0]}"


class _WordIds(dict[str, bytes]):
    """Word -> the known ids of its unigram and trigrams, int32 in bytes."""

    def __init__(self, unigrams: Mapping[str, int], trigrams: Mapping[str, int]) -> None:
        super().__init__()
        self._unigrams, self._trigrams = unigrams, trigrams

    def __missing__(self, word: str) -> bytes:
        if len(self) >= _KEPT:
            self.clear()
        out = self[word] = _to_bytes(self._unigrams.get(word), *map(self._trigrams.get, word_trigrams(word)))
        return out


class _KnownIds(dict[tuple[str, str], bytes]):
    """(A word or `_START`, the next word) -> all known ids that the next word brings, int32 in bytes.

    `_START` as the next word brings `_END`: a bag is over.
    """

    def __init__(self, unigrams: Mapping[str, int], bigrams: Mapping[str, int], trigrams: Mapping[str, int]) -> None:
        super().__init__()
        self._words = _WordIds(unigrams, trigrams)
        self._bigrams, self._trigrams = bigrams, trigrams

    def __missing__(self, pair: tuple[str, str]) -> bytes:
        before, word = pair
        out = _END if word == _START else self._words[word]
        if _START not in pair:
            out += _to_bytes(self._bigrams.get("#".join(pair)), self._trigrams.get(border_trigram(before, word)))
        if len(self) >= _KEPT:
            self.clear()
        self[pair] = out
        return out


def _to_bytes(*ids: int | None) -> bytes:
    return array("i", [i for i in ids if i is not None]).tobytes()


_END = _to_bytes(-1)


class _Content(msgspec.Struct, frozen=True):
    """The file: plain data."""

    format: str
    unigrams: list[str]
    bigrams: list[str]
    trigrams: list[str]


class Tokenizer:
    """Vocabularies and the encoding with them. The same artefact serves training, serving and export.

    Safe to use from several threads: what is kept is only ever added to or forgotten.

    Raises:
        ArtifactError: a vocabulary names a token twice.
    """

    def __init__(self, unigrams: Sequence[str], bigrams: Sequence[str], trigrams: Sequence[str]) -> None:
        self._content = _Content(_FORMAT, list(unigrams), list(bigrams), list(trigrams))
        lists = (self._content.unigrams, self._content.bigrams, self._content.trigrams)
        self.size = sum(map(len, lists))
        """Number of ids over the three vocabularies."""
        numbers = iter(range(self.size))
        unigram, bigram, trigram = ({token: next(numbers) for token in part} for part in lists)
        if len(unigram) + len(bigram) + len(trigram) != self.size:
            raise ArtifactError("a vocabulary names a token twice; fit the tokenizer anew")
        self._known = _KnownIds(unigram, bigram, trigram)

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
        ids: list[int] = self._flat([text])[:-1].tolist()
        return ids

    def encode_flat(self, products: Iterable[Mapping[str, str]]) -> tuple[IntArray, IntArray]:
        """Text fields of `B` products -> token ids `[N]` int32, field after field and product after product, and how
        many belong to each field `[B, 12]` int32.
        """
        texts = [fields.get(name) for fields in products for name in TEXT_FIELDS]
        filled = np.fromiter(map(bool, texts), np.bool_, len(texts))
        flat = self._flat([*filter(None, texts)])
        ends = np.flatnonzero(flat < 0)
        lengths = np.zeros(len(texts), np.int32)
        lengths[filled] = np.diff(ends, prepend=-1) - 1
        return flat[flat >= 0], lengths.reshape(-1, len(TEXT_FIELDS))

    def encode(self, products: Sequence[Mapping[str, str]]) -> tuple[IntArray, IntArray]:
        """Text fields of `B` products -> token ids `[B, T]` int32 and how many belong to each field `[B, 12]` int32.

        A product's ids are its fields' bags one after the other, padded with -1 to the longest product of the batch.
        """
        flat, lengths = self.encode_flat(products)
        totals = lengths.sum(1)
        tokens = np.full((len(lengths), max(1, int(totals.max(initial=0)))), -1, np.int32)
        tokens[np.arange(tokens.shape[1]) < totals[:, None]] = flat
        return tokens, lengths

    def _flat(self, texts: Sequence[str]) -> IntArray:
        """The bags of all texts, each ended by -1."""
        found = _words_of_all(texts)
        return np.frombuffer(b"".join([*map(self._known.__getitem__, pairwise(found))]), np.int32)

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


def _most_frequent(counts: Mapping[str, int], limit: int) -> list[str]:
    return [token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]]
