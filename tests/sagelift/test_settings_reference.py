"""The settings reference lists every setting and no secret."""

from __future__ import annotations

import os
import subprocess
import sys

from sagelift.settings import load_settings
from sagelift.settings_reference import rows, to_markdown


def test_every_setting_says_what_it_means_in_a_sentence() -> None:
    for row in rows():
        assert row.description[:1].isupper(), row.name
        assert row.description.endswith("."), row.name


def test_every_setting_of_a_child_process_is_in_the_reference() -> None:
    assert [row.variable for row in rows()] == list(load_settings().environment())


def test_the_page_has_a_row_for_each_setting() -> None:
    table = [line for line in to_markdown().splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in table] == [row.name for row in rows()]


def test_the_command_prints_the_page() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sagelift", "settings", "--markdown"], capture_output=True, text=True, env=os.environ
    )
    assert done.stdout == to_markdown()
