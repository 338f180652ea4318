"""Words: the specification by example."""

from __future__ import annotations

import pytest

from inference.words import START, border_trigram, join_words, word_trigrams, words
from tests.inference.plain_tokenizer import plain_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red shoe", ["red", "shoe"]),
        ("red-shoe, size:42/43 (new!)", ["red", "shoe", "size", "42", "43", "new"]),
        ("snake_case a\tb\nc", ["snake", "case", "a", "b", "c"]),
        ("ＦＵＬＬ ｗｉｄｔｈ ①", ["full", "width", "1"]),  # NFKC
        ("Straße STRASSE", ["strasse", "strasse"]),  # casefold
        ("caf\u00e9 cafe\u0301", ["caf\u00e9", "caf\u00e9"]),  # composed and decomposed are one
        ("\u0390 \u03aa\u0301", ["\u0390", "\u0390"]),  # ΐ and its capital, which has no single character
        ("赤い靴shoe", ["赤", "い", "靴", "shoe"]),
        ("ラック・棚", ["ラ", "ッ", "ク", "棚"]),  # the middle dot is punctuation
        ("𠮷野", ["𠮷", "野"]),  # beyond the basic plane
        ("신발 두개", ["신", "발", "두", "개"]),
        ("हिन्दी जूते", ["हिन्दी", "जूते"]),  # combining marks stay in their words
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zero", "width"]),
        ("heart ❤\ufe0f 5★", ["heart", "5"]),
        ("㎒ ℡", ["mhz", "tel"]),  # normalisation brings capitals, folded after it
        ("m² ½", ["m2", "1", "2"]),
        ("\x02a\x02b\x00c", ["a", "b", "c"]),
        ("\ud800lone", ["lone"]),
        ("", []),
        (" ,.!# ", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert plain_words(text) == expected


def test_the_words_of_all_texts_stand_in_one_string_in_their_order() -> None:
    texts = ["Red-shoe", "größe", "", "a\x02b", "LAMP"]
    parts = [part.split() for part in join_words(texts).split(START)]
    assert parts == [[], *map(words, texts), []]
    assert join_words(texts).startswith(f" {START} ")


def test_trigrams_cover_a_word_and_the_border_to_the_next() -> None:
    assert word_trigrams("shoe") == ["#sh", "sho", "hoe", "oe#"]
    assert word_trigrams("a") == ["#a#"]
    assert border_trigram("red", "shoe") == "d#s"
