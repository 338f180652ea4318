"""The tokenizer as its specification reads, one token after the other: the judge of the fast one."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from inference.inputs import TEXT_FIELDS

CJK = [(0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0x20000, 0x31FFF)]


def plain_words(text: str) -> list[str]:
    """NFKC, casefold; letters, numbers and combining marks make words; a CJK character is a word."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    results: list[str] = []
    word = ""
    for character in text:
        kind = unicodedata.category(character)
        if kind[0] in "LN" and any(first <= ord(character) <= last for first, last in CJK):
            results += [word, character]
            word = ""
        elif unicodedata.name(character, "").startswith("VARIATION SELECTOR") or (
            kind == "Cf" and character != "\N{ZERO WIDTH SPACE}"
        ):
            continue
        elif kind[0] in "LN" or kind in ("Mn", "Mc"):
            word += character
        else:
            results.append(word)
            word = ""
    return [w for w in [*results, word] if w]


def plain_tokens(text: str) -> tuple[list[str], list[str], list[str]]:
    """Unigrams, bigrams, trigrams of a string."""
    result = plain_words(text)
    padded = "#" + "#".join(result) + "#" if result else ""
    return result, [f"{a}#{b}" for a, b in pairwise(result)], [padded[i : i + 3] for i in range(len(padded) - 2)]


class PlainTokenizer:
    """Vocabularies of the most frequent tokens, ties in alphabetical order, and the bags over them."""

    def __init__(self, texts: list[Mapping[str, str]], sizes: tuple[int, int, int]) -> None:
        counts: list[Counter[str]] = [Counter(), Counter(), Counter()]
        for fields in texts:
            for name in TEXT_FIELDS:
                for counter, tokens in zip(counts, plain_tokens(fields.get(name, "")), strict=True):
                    counter.update(tokens)
        self.vocabularies: list[dict[str, int]] = []
        first = 0
        for counter, size in zip(counts, sizes, strict=True):
            kept = sorted(counter, key=lambda token: (-counter[token], token))[:size]
            self.vocabularies.append({token: first + i for i, token in enumerate(kept)})
            first += len(kept)
        self.size = first

    def ids(self, text: str) -> list[int]:
        """The bag of a string."""
        return [
            ids[token]
            for ids, tokens in zip(self.vocabularies, plain_tokens(text), strict=True)
            for token in tokens
            if token in ids
        ]
