"""Group dead letters by cause: a few causes explain thousands of letters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

import msgspec

from streaming.dead_letters.letters import Letter, LetterId, source_topic

MAX_CAUSES = 500
"""Maximum number of separate causes, all topics together; letters of further causes are counted together."""

_OTHER = "(other messages)"
# The parts that differ between two messages of one cause: quoted text, links and paths, numbers.
_VARYING = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|(?<!\S)\S*/\S*|0x[0-9a-fA-F]+|\d[\d.,:+TZ-]*""")


class Cause(msgspec.Struct):
    """Letters of one topic, stage and error whose messages differ only in their values.

    Attributes:
        topic: Source topic of the letters.
        stage: Stage that failed.
        error: Class name of the error.
        message: The messages' common shape, from `message_shape`.
        letters: Number of letters.
        first: Time of the oldest letter.
        last: Time of the newest letter.
        newest: Id of the newest letter, as an example.
    """

    topic: str
    stage: str
    error: str
    message: str
    letters: int
    first: datetime
    last: datetime
    newest: LetterId


def group_by_cause(letters: Iterable[Letter], max_causes: int = MAX_CAUSES) -> list[Cause]:
    """Return the causes of the letters, most frequent first. Memory does not grow with the number of letters."""
    causes: dict[tuple[str, ...], Cause] = {}
    for letter in letters:
        key = (source_topic(letter.id.topic), letter.stage, letter.error, message_shape(letter.message))
        if key not in causes and len(causes) >= max_causes:
            key = (*key[:1], "", "", _OTHER)
        cause = causes.get(key)
        if cause is None:
            causes[key] = Cause(*key, 1, letter.time, letter.time, letter.id)
            continue
        cause.letters += 1
        cause.first = min(cause.first, letter.time)
        if letter.time >= cause.last:
            cause.last, cause.newest = letter.time, letter.id
    return sorted(causes.values(), key=lambda cause: (-cause.letters, cause.topic, cause.stage, cause.message))


def message_shape(message: str) -> str:
    """Return a message without its values, so that `price.amount: -3 must be ...` and the same with -4 are equal."""
    return _VARYING.sub("…", message).replace("-…", "…")
