"""The trace of a message is passed on unchanged; a header of another form is ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from streaming.tracing import TRACEPARENT, trace_id, traceparent
from tests.streaming.builders import Record, record, update
from tests.streaming.world import World

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADER = f"00-{ID}-00f067aa0ba902b7-01".encode()


def test_the_header_of_the_specification_is_read() -> None:
    traced_record = Record(headers=[("other", b"x"), (TRACEPARENT, HEADER)])
    assert (traceparent(traced_record), trace_id(traced_record)) == (HEADER, ID)


def test_a_later_version_may_have_further_fields() -> None:
    assert trace_id(Record(headers=[(TRACEPARENT, HEADER.replace(b"00-", b"01-", 1) + b"-more")])) == ID


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-abc",
        HEADER.upper(),
        HEADER + b"\n",
        b"ff" + HEADER[2:],
        HEADER.replace(ID.encode(), b"0" * 32),
        HEADER.replace(b"00f067aa0ba902b7", b"0" * 16),
        b"\xff" * 55,
        HEADER + b"-" + b"x" * 10_000,
        None,
    ],
)
def test_a_header_of_another_form_is_ignored(value: bytes | None) -> None:
    assert traceparent(Record(headers=[(TRACEPARENT, value)])) is None  # type: ignore[list-item]


def test_a_record_without_headers_has_none() -> None:
    assert traceparent(Record()) is None


def test_the_pipeline_passes_on_the_trace_of_the_last_update_that_counted() -> None:
    world, seen = World(), []

    def publish(vectors: Sequence[Any], traces: Mapping[str, bytes] | None = None) -> None:
        seen.append(({product_id for _, product_id, *_ in vectors}, traces))
        world.topic(vectors)

    world.restart(publish)
    traced = [(TRACEPARENT, HEADER)]
    world.process(
        record(update("a", 1)),
        record(update("a", 3), 1, headers=traced),
        record(update("a", 2), 2, headers=[(TRACEPARENT, HEADER[:-1] + b"0")]),
        record(update("b", 1), 3),
    )
    assert seen == [({"a", "b"}, {"a": HEADER})]
    world.process(record(update("c", 1), 4))
    assert seen[1:] == [({"c"}, None)], "without a trace there is no argument"
