"""Decide for each dead letter which message to send, or why to skip it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple, Protocol

from streaming.contracts import ERROR_HEADERS, KEPT_ERROR_HEADERS, TRUNCATED_HEADER
from streaming.dead_letters.letters import Letter, LetterId, source_topic


class SkipReason(StrEnum):
    """Why a letter is not replayed."""

    ALREADY_REPLAYED = "already replayed"
    UNREADABLE = "damaged in the broker's log"
    ORIGINAL_GONE = "too large for a dead letter, and the original is no longer on its topic"
    TOO_LARGE = "too large for its topic"


class Message(NamedTuple):
    """The message to send for a letter: the original, and headers that let its next failure continue the count."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


Planned = tuple[Letter, Message | SkipReason]
"""A letter, and the message to send for it or the reason to skip it."""


class ReplayedLetters(Protocol):
    """The part of `ReplayLog` that a plan needs."""

    def __contains__(self, id: LetterId, /) -> bool:
        """Return whether the letter was replayed."""


def plan(
    letters: Iterable[Letter],
    original: Callable[[Letter], bytes | None],
    replayed: ReplayedLetters,
    *,
    again: bool = False,
    limit: int | None = None,
) -> Iterator[Planned]:
    """Yield each letter with the message to send, or with the reason to skip it.

    Args:
        letters: The letters, in the order to send them.
        original: Returns the whole value of a letter that was cut, such as `DeadLetterReader.original`.
        replayed: The letters that were replayed before.
        again: Whether to replay letters again that were replayed before.
        limit: Largest number of messages; skipped letters do not count.
    """
    remaining = limit
    if remaining == 0:
        return
    for letter in letters:
        skip = not again and letter.id in replayed
        message = SkipReason.ALREADY_REPLAYED if skip else message_of(letter, original)
        yield letter, message
        if remaining is not None and isinstance(message, Message):
            remaining -= 1
            if not remaining:
                return


def message_of(letter: Letter, original: Callable[[Letter], bytes | None]) -> Message | SkipReason:
    """Return the message to send for a letter, or the reason to skip it.

    The topic follows from the letter's own topic, never from a header: anybody may write a header.

    Args:
        letter: The letter.
        original: Returns the whole value of a letter that was cut.
    """
    if letter.stage == "fetch":
        return SkipReason.UNREADABLE
    value = letter.value
    if letter.cut_from is not None and (value := original(letter)) is None:
        return SkipReason.ORIGINAL_GONE
    if value is None and letter.key is None:
        value = b""  # kafka-python cannot send a record without key and value
    kept = {ERROR_HEADERS + name for name in KEPT_ERROR_HEADERS}
    headers = [
        (name, content)
        for name, content in letter.headers
        if name in kept or not (name.startswith(ERROR_HEADERS) or name == TRUNCATED_HEADER)
    ]
    return Message(source_topic(letter.id.topic), letter.key, value, headers)
