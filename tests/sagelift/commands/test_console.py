"""The console: numbers with the right plural, JSON on stdout."""

from __future__ import annotations

import json

import pytest

from sagelift.commands.console import counted, print_json, print_json_line, say


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 products"), (1, "1 product"), (2, "2 products"), (1_000, "1,000 products")]
)
def test_a_count_has_the_right_plural(number: int, text: str) -> None:
    assert counted(number, "product") == text


def test_data_goes_to_stdout_and_messages_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1]})
    print_json_line({"b": 2})
    say("done")
    out, err = capsys.readouterr()
    assert json.loads(out.rpartition("\n{")[0]) == {"a": [1]}
    assert out.endswith('}\n{"b":2}\n')
    assert err == "done\n"
