"""The tokenizer: how many more products a second than a straightforward one in pure Python, with the same ids.

The straightforward one forms unigrams, bigrams and trigrams as lists of strings and looks each up. It splits words with
one compiled regular expression and calls nothing twice; it is what one would write first, not a straw man. Real
descriptions from ../shared/data where it is there, else the generated sample's.

The speed comes from remembering word pairs, so it is that of a process which has seen the catalogue, as a consumer of
its updates has (`tokenizer_speedup`). `tokenizer_cold` is the first pass over a catalogue, without a goal.
"""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, compared, cpu_clock, in_turn
from inference.inputs import TEXT_FIELDS
from inference.tokenizer import Tokenizer

BATCH = 64  # products an update brings at once
_REAL = Path(__file__).parents[2] / "shared" / "data"
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORDS = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")

Fields = Mapping[str, str]


class PlainTokenizer:
    """Unigrams, bigrams, trigrams: listed, then looked up."""

    def __init__(self, unigrams: Sequence[str], bigrams: Sequence[str], trigrams: Sequence[str]) -> None:
        numbers = iter(range(len(unigrams) + len(bigrams) + len(trigrams)))
        self._unigram, self._bigram, self._trigram = (
            {token: next(numbers) for token in part} for part in (unigrams, bigrams, trigrams)
        )

    def ids(self, text: str) -> list[int]:
        """The ids of one string."""
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        found = _WORDS.findall(text.casefold())
        padded = "#" + "#".join(found) + "#" if found else ""
        trigrams = [padded[i : i + 3] for i in range(len(padded) - 2)]
        out = [i for w in found if (i := self._unigram.get(w)) is not None]
        out += [i for b in map("#".join, pairwise(found)) if (i := self._bigram.get(b)) is not None]
        out += [i for t in trigrams if (i := self._trigram.get(t)) is not None]
        return out

    def encode(self, products: Sequence[Fields]) -> tuple[np.ndarray, np.ndarray]:
        """As `Tokenizer.encode`."""
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


def rows(say: Callable[[str], None]) -> list[Row]:
    """`tokenizer_speedup`, `tokenizer_cold`."""
    products = _products(say)
    fitted = Tokenizer.fit(products)
    lists = (fitted._content.unigrams, fitted._content.bigrams, fitted._content.trigrams)
    plain = PlainTokenizer(*lists)
    _same_bags(fitted, plain, products)
    batches = [products[s : s + BATCH] for s in range(0, len(products), BATCH)]
    say(f"{len(products)} products, {fitted.size} ids, batches of {BATCH}")
    repeats = max(1, 4_000 // len(products))

    def once(tokenizer: Tokenizer | PlainTokenizer, times: int = 1) -> None:
        for batch in batches * times:
            tokenizer.encode(batch)

    seconds = in_turn(
        {"ours": lambda: once(fitted, repeats), "plain": lambda: once(plain, repeats)}, runs=7, clock=cpu_clock
    )
    rate = {name: [repeats * len(products) / s for s in taken] for name, taken in seconds.items()}
    fresh = iter([Tokenizer(*lists) for _ in range(8)])
    seconds = in_turn({"ours": lambda: once(next(fresh)), "plain": lambda: once(plain)}, runs=7, clock=cpu_clock)
    cold = {name: [len(products) / s for s in taken] for name, taken in seconds.items()}
    return [
        compared("tokenizer_speedup", "products/s", rate["ours"], "pure Python", rate["plain"], at_least=5.0),
        compared("tokenizer_cold", "products/s", cold["ours"], "pure Python", cold["plain"]),
    ]


def _same_bags(ours: Tokenizer, plain: PlainTokenizer, products: Sequence[Fields]) -> None:
    """A faster tokenizer that gives other ids would be no tokenizer: stop here if it does."""
    for fields in products:
        for text in fields.values():
            if Counter(ours.ids(text)) != Counter(plain.ids(text)):
                raise AssertionError(f"the tokenizers disagree on {text!r}")


def _products(say: Callable[[str], None]) -> list[Fields]:
    files = [_REAL / name / "products.jsonl" for name in ("zava", "eshop")]
    if all(file.exists() for file in files):
        say("real descriptions: zava and eshop")
        return [_fields(json.loads(line)) for file in files for line in file.open(encoding="utf-8")]
    return _sample(say)


def _fields(row: Mapping[str, object]) -> Fields:
    category = row.get("category") or row.get("product_type") or []
    texts = {name: row[name] for name in TEXT_FIELDS if isinstance(row.get(name), str)}
    return {**texts, "product_type": " > ".join(map(str, category)) if isinstance(category, list) else str(category)}  # type: ignore[dict-item]


def _sample(say: Callable[[str], None]) -> list[Fields]:
    from sagelift.samples import write_sample

    say("generated descriptions: ../shared/data is not there")
    with tempfile.TemporaryDirectory() as folder:
        lines = (write_sample(Path(folder) / "sample", 500) / "products.jsonl").read_text(encoding="utf-8").splitlines()
    return [_fields(json.loads(line)) for line in lines]
