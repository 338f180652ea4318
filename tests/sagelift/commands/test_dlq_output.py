"""How dead letters are printed: tables, single letters, JSON; a hostile message cannot control the terminal."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from sagelift.commands import dlq_output
from streaming.contracts import ERROR_HEADERS
from streaming.dead_letters.causes import Cause
from streaming.dead_letters.letters import Letter, LetterId
from streaming.dead_letters.replay import ReplayResult, SkipReason
from streaming.dead_letters.replay_log import Replayed

ID = LetterId("catalog.updates.dlq", 0, 17)
TIME = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)
HEADERS = {
    "stage": "image",
    "exception.class.name": "FetchError",
    "exception.message": "no answer\x1b[2J",
    "attempts": "3",
    "partition": "2",
    "offset": "9",
    "consumer.group": "sagelift-catalog",
}


def letter(value: bytes | None = b'{"id": "a"}', **changes: str) -> Letter:
    headers = [(ERROR_HEADERS + name, text.encode()) for name, text in (HEADERS | changes).items()]
    return Letter(ID, TIME, b"a", value, tuple(headers))


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert dlq_output.printable("Größe 7 – ok") == "Größe 7 – ok"
    assert dlq_output.printable("\x1b]0;owned\x07 \r\u202etxt\x9b2J") == r"\x1b]0;owned\x07 \r\u202etxt\x9b2J"


def test_a_table_has_a_line_for_each_letter_and_says_which_were_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    dlq_output.print_letters([letter()], {ID}, as_json=False)
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["ID", "TIME", "(UTC)", "STAGE"]
    assert row.split()[:8] == [str(ID), "2026-05-04", "12:30:00", "image", "FetchError", "a", "3", "yes"]
    assert row.endswith(r"no answer\x1b[2J")


def test_no_letters_are_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    dlq_output.print_letters([], set(), as_json=False)
    dlq_output.print_causes([], as_json=False)
    assert capsys.readouterr() == ("", "no dead letters match these filters\n" * 2)


def test_a_letter_as_json_names_where_it_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    dlq_output.print_letters([letter()], set(), as_json=True)
    row = printed(capsys)
    assert (row["topic"], row["partition"], row["offset"], row["attempts"]) == ("catalog.updates", 2, 9, 3)
    assert (row["stage"], row["error"], row["key"], row["replayed"]) == ("image", "FetchError", "a", False)
    dlq_output.print_letter_json(letter(b"\xff"), b"\xff", cut=False, replayed=Replayed(TIME, "catalog.updates/0:8"))
    row = printed(capsys)
    assert row["value"] == {"base64": "/w=="}
    assert (row["replayed"], row["replayed_to"]) == (True, "catalog.updates/0:8")


@pytest.mark.parametrize(
    ("value", "cut", "text"),
    [
        (b"text", False, "message (4 bytes)\ntext"),
        (b"te", True, "message (the first 2 of None bytes; the rest no longer exists)\nte"),
        (None, False, "the message has no value (null)"),
    ],
)
def test_a_letter_for_people_shows_its_message(
    capsys: pytest.CaptureFixture[str], value: bytes | None, cut: bool, text: str
) -> None:
    dlq_output.print_letter(letter(value), value, cut, None)
    out = capsys.readouterr().out
    assert text in out
    assert "came from  catalog.updates/2:9, read by sagelift-catalog" in out


def test_causes_are_counted_with_the_newest_letter(capsys: pytest.CaptureFixture[str]) -> None:
    cause = Cause("catalog.updates", "image", "FetchError", "no answer", 12, TIME, TIME, ID)
    dlq_output.print_causes([cause], as_json=True)
    assert printed(capsys) | {"first": None, "last": None} == {
        "topic": "catalog.updates", "stage": "image", "error": "FetchError", "message": "no answer", "letters": 12,
        "first": None, "last": None, "newest": str(ID),
    }  # fmt: skip
    dlq_output.print_causes([cause], as_json=False)
    assert capsys.readouterr().out.splitlines()[1].startswith("12       catalog.updates")


def test_a_result_lists_the_reasons_for_skipped_letters(capsys: pytest.CaptureFixture[str]) -> None:
    result = ReplayResult(3, Counter({SkipReason.ALREADY_REPLAYED: 2}))
    dlq_output.print_result(result, dry_run=True, as_json=False)
    assert capsys.readouterr().out == "3 would be replayed, 2 skipped\n  2: already replayed\n"
    dlq_output.print_result(result, dry_run=False, as_json=True)
    assert printed(capsys) == {"replayed": 3, "skipped": {"already replayed": 2}, "dry_run": False}
