"""Split strings into words and words into character trigrams.

A string is NFKC-normalised and casefolded, and split into words at every character that is not a letter, a number or a
combining mark. Each CJK character is a word. `join_words` does this for all texts of a batch at once.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

START = "\x02"  # stands before the first word of each text of a batch; words contain no control characters
_BORDER = f" {START} "
_CJK = (
    range(0x3040, 0x3100),  # hiragana, katakana
    range(0x3400, 0x4DC0),  # ideographs, extension A
    range(0x4E00, 0xA000),  # ideographs
    range(0xAC00, 0xD7B0),  # hangul syllables
    range(0xF900, 0xFB00),  # compatibility ideographs
    range(0x20000, 0x32000),  # ideographs, extensions B to H
)


class _Characters(dict[int, str | None]):
    """A table for `str.translate` that puts spaces between words. It fills itself as it meets characters."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        kind = unicodedata.category(character)
        out: str | None
        if kind[0] in "LN":
            out = f" {character} " if any(code in block for block in _CJK) else character
        elif 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or (kind == "Cf" and code != 0x200B):
            out = None  # variation selectors, soft hyphens, joiners: invisible inside words; not the zero-width space
        else:
            out = character if kind in ("Mn", "Mc") else " "
        self[code] = out
        return out


_CHARACTERS = _Characters({ord(START): START})


def words(text: str) -> list[str]:
    """Return the words of a string after NFKC and casefolding."""
    return _fold(text).translate(_CHARACTERS).replace(START, " ").split()


def _fold(text: str) -> str:
    if text.isascii():
        return text.casefold()
    # Casefolding can produce a string that is no longer normalised.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def join_words(texts: Sequence[str]) -> str:
    """Return the words of all texts in one string: spaces around each word, `START` before each text and at the end.

    Two spaces may stand next to each other.
    """
    # All ASCII texts are translated as one: there `str.translate` looks up each character once per call, but in other
    # strings at each occurrence.
    plain = [text for text in texts if text.isascii()]
    joined = _BORDER.join(plain)
    if joined.count(START) >= max(1, len(plain)):  # a text itself contains START
        joined = _BORDER.join(text.replace(START, " ") for text in plain)
    translated = joined.casefold().translate(_CHARACTERS)
    if len(plain) < len(texts):
        parts = iter(translated.split(START))
        translated = _BORDER.join(next(parts) if text.isascii() else " ".join(words(text)) for text in texts)
    return f"{_BORDER}{translated}{_BORDER}"


def word_trigrams(word: str) -> list[str]:
    """Return the character trigrams of a word between two `#`."""
    padded = f"#{word}#"
    return [padded[i : i + 3] for i in range(len(word))]


def border_trigram(left: str, right: str) -> str:
    """Return the character trigram across the border of two neighbouring words."""
    return f"{left[-1]}#{right[0]}"
