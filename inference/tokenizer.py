r"""Text fields -> token ids: unigrams, bigrams and character trigrams.

The tokens are those of ItemSage, section 3.2; the vocabulary is that of its successor. Tokens of "Red shoe" are `red`,
`shoe`; `red#shoe`; and the trigrams of `#red#shoe#`. A token outside the vocabularies is dropped: there are no
out-of-vocabulary buckets. The ids of the three vocabularies follow each other: unigrams, bigrams, trigrams. A field is
a bag: the order of its ids has no meaning, their counts do.

Every catalogue update passes through here. A whole batch is therefore encoded at once, in NumPy over all its
characters: its texts become one string, ` \x02 red shoe \x02 blue lamp \x02 `, and every token is a span of it (see
`words` and `vocabulary_index`). Nothing is cached: the first pass over a catalogue is as fast as the tenth.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path

import msgspec
import numpy as np

from feature_repo.files import write_atomically
from inference.arrays import Int32Array, UInt32Array
from inference.errors import ArtifactError, InputError
from inference.inputs import TEXT_FIELDS
from inference.vocabulary_index import HashTable, SpanHashes, TrigramIndex, code_points, token_hashes
from inference.words import START, border_trigram, join_words, word_trigrams, words

FORMAT = "sagelift-tokenizer-1"
PORTION = 1 << 16  # characters encoded at once: more are not faster, and need memory
_SPACE = ord(" ")


class Vocabulary(msgspec.Struct, frozen=True):
    """The content of a tokenizer's file: plain data."""

    format: str
    unigrams: list[str]
    bigrams: list[str]
    trigrams: list[str]


class Tokenizer:
    """Three vocabularies and the encoding with them. Training, serving and export use the same file.

    Threads may share a tokenizer: it never changes.

    Args:
        unigrams: Words.
        bigrams: Pairs of words, joined by `#`.
        trigrams: Character trigrams; `#` stands for a word border.
        portion: Number of characters that are encoded at once.

    Attributes:
        vocabulary: The three vocabularies.
        size: Number of ids of the three vocabularies.

    Raises:
        ArtifactError: If a vocabulary has a token twice, or a trigram of another length.
    """

    def __init__(
        self, unigrams: Sequence[str], bigrams: Sequence[str], trigrams: Sequence[str], *, portion: int = PORTION
    ) -> None:
        self.vocabulary = Vocabulary(FORMAT, list(unigrams), list(bigrams), list(trigrams))
        self.size = len(unigrams) + len(bigrams) + len(trigrams)
        self._portion = portion
        if odd := [trigram for trigram in trigrams if len(trigram) != 3]:
            raise ArtifactError(f"the vocabulary has {odd[0]!r} as a trigram; fit the tokenizer again")
        hashes = token_hashes([*unigrams, *bigrams])
        if len(np.unique(hashes)) < len(hashes) or len(set(trigrams)) < len(trigrams):
            raise ArtifactError("a vocabulary has a token twice; fit the tokenizer again")
        self._words = HashTable(hashes, np.arange(len(hashes), dtype=np.int32))  # unigrams and bigrams
        self._trigrams = TrigramIndex(trigrams, len(hashes))

    @classmethod
    def fit(
        cls,
        texts: Iterable[Mapping[str, str]],
        *,
        unigrams: int = 200_000,
        bigrams: int = 1_000_000,
        trigrams: int = 64_000,
    ) -> Tokenizer:
        """Return a tokenizer with the most frequent tokens of a corpus.

        Ties are broken alphabetically, so that the order of the products does not matter.

        Args:
            texts: Text fields of each product, by field name.
            unigrams: Largest number of unigrams.
            bigrams: Largest number of bigrams.
            trigrams: Largest number of trigrams.

        Raises:
            InputError: If the corpus has no word.
        """
        word_counts: Counter[str] = Counter()
        pair_counts: Counter[tuple[str, str]] = Counter()
        for fields in texts:
            for name in TEXT_FIELDS:
                if text := fields.get(name):
                    field_words = words(text)
                    word_counts.update(field_words)
                    pair_counts.update(pairwise(field_words))
        if not word_counts:
            raise InputError("the corpus has no word to fit a vocabulary to: check the products' text fields")
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
        """Return the ids of one string; an id occurs as often as its token."""
        ids: list[int] = self.encode_flat([{TEXT_FIELDS[0]: text}])[0].tolist()
        return ids

    def encode_flat(self, products: Iterable[Mapping[str, str]]) -> tuple[Int32Array, Int32Array]:
        """Encode the text fields of `B` products without padding.

        Returns:
            All token ids `[N]` int32, product after product and field after field; and the number of ids of each field
            `[B, 12]` int32.
        """
        texts = [*chain.from_iterable(map(fields.get, TEXT_FIELDS) for fields in products)]
        lengths = np.zeros(len(texts), np.int32)
        bags = [self._bags(portion) for portion in _portions([*filter(None, texts)], self._portion)]
        if bags:
            lengths[np.array(texts, np.bool_)] = np.concatenate([sizes for _, sizes in bags])
        flat = np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in bags)])
        return flat, lengths.reshape(-1, len(TEXT_FIELDS))

    def encode(self, products: Sequence[Mapping[str, str]]) -> tuple[Int32Array, Int32Array]:
        """Encode the text fields of `B` products.

        Returns:
            Token ids `[B, T]` int32: the bags of each product's fields one after the other, padded with -1 to the
            longest product of the batch; and the number of ids of each field `[B, 12]` int32.
        """
        flat, lengths = self.encode_flat(products)
        ends = lengths.sum(1, dtype=np.int64).cumsum()
        totals = np.diff(ends, prepend=0)
        tokens = np.full((len(lengths), max(1, int(totals.max(initial=0)))), -1, np.int32)
        for row, end, total in zip(tokens, ends.tolist(), totals.tolist(), strict=True):
            row[:total] = flat[end - total : end]
        return tokens, lengths

    def _bags(self, texts: Sequence[str]) -> tuple[Int32Array, Int32Array]:
        """Return the ids of all texts, one after the other, and the number of ids of each text."""
        codes = _characters(texts)
        hashes = SpanHashes(codes)
        # `START` counts as a word and as a character of trigrams here: no vocabulary has a token with it.
        spaces = np.flatnonzero(codes == _SPACE)
        starts, ends = spaces[:-1] + 1, spaces[1:]
        ids = np.full((len(codes), 3), -1, np.int32)  # of the unigram, bigram and trigram that start at each character
        ids[starts, 0] = self._words.find(hashes.of(starts, ends))
        ids[starts[:-1], 1] = self._words.find(hashes.of(starts[:-1], ends[1:]))
        ids[:-2, 2] = self._trigrams.find(codes)
        flat = ids.ravel()
        hits = np.flatnonzero(flat >= 0)
        borders = np.flatnonzero(codes == ord(START))
        return flat[hits], np.diff(np.searchsorted(hits, 3 * borders)).astype(np.int32)

    def save(self, path: Path) -> None:
        """Write the vocabularies atomically as JSON (plain data)."""
        write_atomically(path, msgspec.json.encode(self.vocabulary))

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            ArtifactError: If the file is missing, truncated or of another kind.
        """
        try:
            content = msgspec.json.decode(path.read_bytes(), type=Vocabulary)
        except OSError as error:
            raise ArtifactError(f"the tokenizer {path} cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ArtifactError(f"{path} is not a tokenizer or is truncated; export the model again") from None
        if content.format != FORMAT:
            raise ArtifactError(f"{path} has format {content.format!r}, must be {FORMAT!r}")
        return cls(content.unigrams, content.bigrams, content.trigrams)


def _characters(texts: Sequence[str]) -> UInt32Array:
    """Return the code points of `join_words` with single spaces."""
    codes = code_points(join_words(texts))
    space = codes == _SPACE
    space[1:] &= space[:-1]  # a space after another one
    kept: UInt32Array = codes[~space]
    return kept


def _portions(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    """Cut the texts into runs of about `size` characters, at least one text each."""
    if sum(map(len, texts)) <= size:
        return [texts] if texts else []
    ends = list(accumulate(map(len, texts)))
    cuts = sorted({0, len(texts), *(bisect(ends, end) for end in range(size, ends[-1], size))})
    return [texts[start:end] for start, end in pairwise(cuts)]


def _most_frequent(counts: Mapping[str, int], limit: int) -> list[str]:
    return [token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]]
