"""Which message is sent for a letter, and which letters are skipped."""

from __future__ import annotations

from typing import Any

from streaming.contracts import ERROR_HEADERS
from streaming.dead_letters.letters import Letter, LetterId
from streaming.dead_letters.replay_plan import Message, SkipReason, message_of, plan
from tests.streaming.builders import NOW
from tests.streaming.dead_letters.builders import event_letter


def no_original(letter: Letter) -> bytes | None:
    raise AssertionError("only a letter that was cut needs its original")


def test_a_header_cannot_send_a_letter_elsewhere() -> None:
    message = message_of(event_letter(1, **{ERROR_HEADERS + "topic": b"payments"}), no_original)
    assert isinstance(message, Message)
    assert message.topic == "events"


def test_a_letter_that_was_cut_is_sent_whole_without_the_mark_or_not_at_all() -> None:
    cut = event_letter(1, **{"sagelift-truncated-from": b"9"})
    message = message_of(cut, lambda letter: b"{original")
    assert isinstance(message, Message)
    assert (message.value, message.headers) == (b"{original", [])
    assert message_of(cut, lambda letter: None) == SkipReason.ORIGINAL_GONE


def test_a_damaged_letter_is_not_sent_and_a_deletion_stays_a_deletion() -> None:
    assert message_of(event_letter(1, stage="fetch", value=b""), no_original) == SkipReason.UNREADABLE
    deletion = message_of(event_letter(1, value=None), no_original)
    assert isinstance(deletion, Message)
    assert deletion.value is None
    nothing = message_of(Letter(LetterId("events.dlq", 0, 1), NOW, None, None, ()), no_original)
    assert isinstance(nothing, Message)
    assert nothing.value == b"", "kafka-python cannot send a record without key and value"


def test_a_limit_counts_what_is_sent_and_no_letter_is_read_after_it() -> None:
    def letters() -> Any:
        yield from (event_letter(0), event_letter(1, stage="fetch"), event_letter(2), event_letter(3))
        raise AssertionError("read too far")

    log = {event_letter(0).id}
    planned = [(at.id.offset, isinstance(m, Message)) for at, m in plan(letters(), no_original, log, limit=2)]
    assert planned == [(0, False), (1, False), (2, True), (3, True)]
