"""The tokenizer, against a straightforward tokenizer in pure Python that returns the same ids.

Measures products per second; the goals are at least 5 times the rate, and 2 times in the first pass of a new tokenizer
(`tokenizer_cold`). `tokenizer_large` is the rate for batches of 256, the size of a full request to the model.

The straightforward tokenizer lists unigrams, bigrams and trigrams as strings and looks each up. It splits words with
one compiled regular expression and repeats no work: what one would write first. Descriptions are real ones from
../shared/data if it exists, else those of the generated sample. Our tokenizer caches no texts, so repeating a catalogue
gives no advantage.
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

from benchmarks.harness import Row, Say, compared, cpu_clock, in_turn
from inference.inputs import TEXT_FIELDS
from inference.tokenizer import Tokenizer

BATCH, LARGE_BATCH = 64, 256  # products encoded at once
RUNS = 9
_REAL = Path(__file__).parents[2] / "shared" / "data"
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORDS = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")

Fields = Mapping[str, str]


class PlainTokenizer:
    """Lists unigrams, bigrams and trigrams, then looks them up."""

    def __init__(self, unigrams: Sequence[str], bigrams: Sequence[str], trigrams: Sequence[str]) -> None:
        numbers = iter(range(len(unigrams) + len(bigrams) + len(trigrams)))
        self._unigram, self._bigram, self._trigram = (
            {token: next(numbers) for token in part} for part in (unigrams, bigrams, trigrams)
        )

    def ids(self, text: str) -> list[int]:
        """Return the ids of one string."""
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        words = _WORDS.findall(text.casefold())
        padded = "#" + "#".join(words) + "#" if words else ""
        trigrams = [padded[i : i + 3] for i in range(len(padded) - 2)]
        out = [i for w in words if (i := self._unigram.get(w)) is not None]
        out += [i for b in map("#".join, pairwise(words)) if (i := self._bigram.get(b)) is not None]
        out += [i for t in trigrams if (i := self._trigram.get(t)) is not None]
        return out

    def encode(self, products: Sequence[Fields]) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as `Tokenizer.encode`."""
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


def rows(say: Say) -> list[Row]:
    """Measure `tokenizer_speedup`, `tokenizer_cold` and `tokenizer_large`."""
    products = real_products(say)
    fitted = Tokenizer.fit(products)
    lists = (fitted.vocabulary.unigrams, fitted.vocabulary.bigrams, fitted.vocabulary.trigrams)
    plain = PlainTokenizer(*lists)
    _same_bags(fitted, plain, products)
    say(f"{len(products)} products, {fitted.size} ids, batches of {BATCH} and {LARGE_BATCH}")
    repeats = max(1, 4_000 // len(products))
    fresh = iter([Tokenizer(*lists) for _ in range(RUNS + 1)])

    def pass_over(tokenizer: Tokenizer | PlainTokenizer, size: int = BATCH, times: int = 1) -> None:
        for batch in [products[start : start + size] for start in range(0, len(products), size)] * times:
            tokenizer.encode(batch)

    def row(name: str, ours: Callable[[], None], plain: Callable[[], None], times: int, at_least: float | None) -> Row:
        seconds = in_turn({"ours": ours, "plain": plain}, runs=RUNS, clock=cpu_clock)
        rate = {who: [times * len(products) / s for s in taken] for who, taken in seconds.items()}
        return compared(name, "products/s", rate["ours"], "pure Python", rate["plain"], at_least=at_least)

    return [
        row(
            "tokenizer_speedup",
            lambda: pass_over(fitted, times=repeats),
            lambda: pass_over(plain, times=repeats),
            repeats,
            5.0,
        ),
        row("tokenizer_cold", lambda: pass_over(next(fresh)), lambda: pass_over(plain), 1, 2.0),
        row(
            "tokenizer_large",
            lambda: pass_over(fitted, LARGE_BATCH, repeats),
            lambda: pass_over(plain, LARGE_BATCH, repeats),
            repeats,
            None,
        ),
    ]


def _same_bags(ours: Tokenizer, plain: PlainTokenizer, products: Sequence[Fields]) -> None:
    """Check that the ids are equal, because a fast tokenizer with other ids would be wrong."""
    for fields in products:
        for text in fields.values():
            if Counter(ours.ids(text)) != Counter(plain.ids(text)):
                raise AssertionError(f"the tokenizers disagree on {text!r}")


def real_products(say: Say) -> list[Fields]:
    """Return the text fields of real products if they are present, else of the generated sample."""
    files = [_REAL / name / "products.jsonl" for name in ("zava", "eshop")]
    if all(file.exists() for file in files):
        say("real descriptions: zava and eshop")
        return [_fields(json.loads(line)) for file in files for line in file.open(encoding="utf-8")]
    return _sample(say)


def _fields(row: Mapping[str, object]) -> Fields:
    category = row.get("category") or row.get("product_type") or []
    texts = {name: row[name] for name in TEXT_FIELDS if isinstance(row.get(name), str)}
    return {**texts, "product_type": " > ".join(map(str, category)) if isinstance(category, list) else str(category)}  # type: ignore[dict-item]


def _sample(say: Say) -> list[Fields]:
    from sagelift.demo.samples import write_sample

    say("generated descriptions: ../shared/data does not exist")
    with tempfile.TemporaryDirectory() as folder:
        lines = (write_sample(Path(folder) / "sample", 500) / "products.jsonl").read_text(encoding="utf-8").splitlines()
    return [_fields(json.loads(line)) for line in lines]
