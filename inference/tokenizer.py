"""Text fields -> token ids: unigrams, bigrams and character trigrams (ItemSage §3.2; vocabulary as in its successor).

A string is NFKC-normalised and casefolded, and split into words at white space and punctuation; a CJK character is a
word of its own. Tokens of "Red shoe" are `red`, `shoe`; `red#shoe`; and the trigrams of `#red#shoe#`. A token outside
the vocabularies is dropped: there are no out-of-vocabulary buckets. The ids of the three vocabularies follow each
other: unigrams, bigrams, trigrams. A field is a bag: the order of its ids carries no meaning, their counts do.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from inference.errors import ArtifactError, InputError
from inference.inputs import TEXT_FIELDS

IntArray = np.ndarray[Any, np.dtype[np.int32]]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORDS = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_FORMAT = "sagelift-tokenizer-1"


def words(text: str) -> list[str]:
    """The words of a string after NFKC and casefolding."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORDS.findall(text.casefold())


def char_trigrams(word_list: Sequence[str]) -> list[str]:
    """Character trigrams over the words joined, preceded and followed by `#`."""
    if not word_list:
        return []
    padded = "#" + "#".join(word_list) + "#"
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


class Tokenizer:
    """Vocabularies and the encoding with them. The same artefact serves training, serving and export."""

    def __init__(self, unigrams: Sequence[str], bigrams: Sequence[str], trigrams: Sequence[str]) -> None:
        self._lists = (list(unigrams), list(bigrams), list(trigrams))
        ids = iter(range(self.size))
        self._unigram, self._bigram, self._trigram = ({token: next(ids) for token in part} for part in self._lists)
        if sum(map(len, (self._unigram, self._bigram, self._trigram))) != self.size:
            raise ArtifactError("a vocabulary names a token twice; fit the tokenizer anew")

    @property
    def size(self) -> int:
        """Number of ids over the three vocabularies."""
        return sum(map(len, self._lists))

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
        counts: tuple[Counter[str], Counter[str], Counter[str]] = (Counter(), Counter(), Counter())
        for fields in texts:
            for name in TEXT_FIELDS:
                found = words(fields.get(name, ""))
                counts[0].update(found)
                counts[1].update(map("#".join, pairwise(found)))
                counts[2].update(char_trigrams(found))
        if not counts[0]:
            raise InputError("the corpus holds no word to fit a vocabulary on: check the products' text fields")
        kept = (
            [token for token, _ in sorted(c.items(), key=lambda item: (-item[1], item[0]))[:limit]]
            for c, limit in zip(counts, (unigrams, bigrams, trigrams), strict=True)
        )
        return cls(*kept)

    def ids(self, text: str) -> list[int]:
        """The ids of one string: known unigrams, then bigrams, then trigrams, each in text order."""
        found = words(text)
        out = [i for w in found if (i := self._unigram.get(w)) is not None]
        out += [i for b in map("#".join, pairwise(found)) if (i := self._bigram.get(b)) is not None]
        out += [i for t in char_trigrams(found) if (i := self._trigram.get(t)) is not None]
        return out

    def encode(self, products: Sequence[Mapping[str, str]]) -> tuple[IntArray, IntArray]:
        """Text fields of `B` products -> token ids `[B, T]` int32 and how many belong to each field `[B, 12]` int32.

        A product's ids are its fields' bags one after the other, padded with -1 to the longest product of the batch.
        """
        rows: list[list[int]] = []
        lengths = np.zeros((len(products), len(TEXT_FIELDS)), np.int32)
        for row, fields in enumerate(products):
            flat: list[int] = []
            for column, name in enumerate(TEXT_FIELDS):
                if text := fields.get(name):
                    bag = self.ids(text)
                    lengths[row, column] = len(bag)
                    flat += bag
            rows.append(flat)
        tokens = np.full((len(rows), max(1, max(map(len, rows), default=0))), -1, np.int32)
        for row, flat in enumerate(rows):
            tokens[row, : len(flat)] = flat
        return tokens, lengths

    def save(self, path: Path) -> None:
        """Write the vocabularies as JSON (plain data), atomically."""
        unigrams, bigrams, trigram_list = self._lists
        content = {"format": _FORMAT, "unigrams": unigrams, "bigrams": bigrams, "trigrams": trigram_list}
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            ArtifactError: missing, truncated, or another kind of file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ArtifactError(f"{path} has format {content['format']!r}, must be {_FORMAT!r}")
            return cls(content["unigrams"], content["bigrams"], content["trigrams"])
        except OSError as error:
            raise ArtifactError(f"the tokenizer {path} cannot be read: {error.strerror}") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise ArtifactError(f"{path} is no tokenizer or was cut off; export the model again") from None
