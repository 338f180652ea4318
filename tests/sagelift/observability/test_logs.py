"""Logs are text on a terminal and JSON elsewhere."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from sagelift.observability.logs import configure


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, kafka = logging.getLogger(), logging.getLogger("kafka")
    handlers, level, kafka_level = root.handlers[:], root.level, kafka.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    kafka.setLevel(kafka_level)


def logged(stream: io.StringIO, *arguments: Any, chosen: Any = "auto", **keywords: Any) -> str:
    root = logging.getLogger()
    root.handlers.clear()  # basicConfig would close pytest's own
    configure(chosen, stream)
    logging.getLogger("streaming.x").warning(*arguments, **keywords)
    return stream.getvalue()


def test_a_file_gets_json_with_the_extra_fields() -> None:
    line = json.loads(logged(io.StringIO(), "refused at %s", "decode", extra={"product_id": "p1", "offset": 7}))
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "WARNING",
        "logger": "streaming.x",
        "message": "refused at decode",
        "product_id": "p1",
        "offset": 7,
    }


def test_a_terminal_gets_text() -> None:
    assert logged(Terminal(), "refused", extra={"product_id": "p1"}).endswith("WARNING streaming.x refused\n")


def test_a_chosen_format_takes_precedence_over_the_terminal() -> None:
    assert json.loads(logged(Terminal(), "a", chosen="json"))["message"] == "a"
    assert logged(io.StringIO(), "a", chosen="text").endswith("a\n")


def test_every_record_is_one_line() -> None:
    text = logged(io.StringIO(), "a\nb \udcff \x00", extra={"product_id": "\udc80\n", "what": object()})
    assert text.count("\n") == 1
    assert json.loads(text)["message"].startswith("a\nb ")


def test_an_exception_keeps_its_traceback() -> None:
    try:
        raise KeyError("lamp")
    except KeyError:
        line = json.loads(logged(io.StringIO(), "failed", exc_info=True))
    assert line["exception"].startswith("Traceback")
    assert "KeyError: 'lamp'" in line["exception"]
