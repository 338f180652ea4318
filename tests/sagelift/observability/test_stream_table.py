"""The status as a table: empty values are dashes, numbers are readable, problems stand at the end."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sagelift.observability.stream_status import StreamStatus, TopicRow, WorkerRow
from sagelift.observability.stream_table import render

ROW = WorkerRow(name="catalog", where="http://h:1", state="running", well=True)


def shown(status: StreamStatus) -> str:
    out = io.StringIO()
    Console(file=out, width=220, color_system=None).print(render(status))
    return out.getvalue()


def test_unknown_values_are_dashes() -> None:
    cells = shown(StreamStatus([], [ROW], [])).splitlines()[1].split()
    assert cells == ["catalog", "-", "running", *["-"] * 9]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"records_per_s": 1234.5}, "1,234"),
        ({"records_per_s": 2.25}, "2.2"),
        ({"freshness_p99_s": 0.0155}, "16 ms"),
        ({"freshness_p99_s": 1200.0}, "1,200 s"),
        ({"partitions": [5, 0, 1, 2]}, "0-2 5"),
        ({"retries": {"embed Unavailable": 2, "store Locked": 3}}, "store Locked 3, embed Unavailable 2"),
    ],
)
def test_numbers_are_readable(fields: dict[str, object], expected: str) -> None:
    row = WorkerRow(name="catalog", where="http://h:1", state="running", well=True, **fields)  # type: ignore[arg-type]
    assert expected in shown(StreamStatus([], [row], []))


def test_without_consumers_there_are_only_topics_and_problems() -> None:
    text = shown(StreamStatus([TopicRow(topic="events", group="g")], [], ["no consumer"]))
    assert text.splitlines() == ["events           group g                  lag -", "! no consumer"]
