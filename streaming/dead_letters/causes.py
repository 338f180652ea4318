"""Why thousands of letters are there: the few causes behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

import msgspec

from streaming.dead_letters.reader import Letter, LetterId, source_topic

_MOST = 500  # different causes; further ones are counted together
_OTHER = "(other messages)"
# What differs between two messages of one cause: what is quoted, links and paths, numbers.
_VARYING = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|(?<!\S)\S*/\S*|0x[0-9a-fA-F]+|\d[\d.,:+TZ-]*""")


class Cause(msgspec.Struct):
    """Letters of one topic, stage and error whose messages differ only in their values. `newest` is one to look at."""

    topic: str
    stage: str
    error: str
    message: str
    letters: int
    first: datetime
    last: datetime
    newest: LetterId


def causes(letters: Iterable[Letter]) -> list[Cause]:
    """The causes, the most frequent first. Memory does not grow with the letters."""
    found: dict[tuple[str, ...], Cause] = {}
    for letter in letters:
        key = (source_topic(letter.id.topic), letter.stage, letter.error, shape(letter.message))
        if key not in found and len(found) >= _MOST:
            key = (*key[:1], "", "", _OTHER)
        cause = found.get(key)
        if cause is None:
            found[key] = Cause(*key, 1, letter.time, letter.time, letter.id)
            continue
        cause.letters += 1
        cause.first = min(cause.first, letter.time)
        if letter.time >= cause.last:
            cause.last, cause.newest = letter.time, letter.id
    return sorted(found.values(), key=lambda cause: (-cause.letters, cause.topic, cause.stage, cause.message))


def shape(message: str) -> str:
    """A message without its values: `price.amount: -3 must be ...` and the same of -4 are one cause."""
    return _VARYING.sub("…", message).replace("-…", "…")
