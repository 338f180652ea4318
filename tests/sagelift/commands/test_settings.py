"""`sagelift settings` lists every setting as text, JSON or Markdown."""

from __future__ import annotations

import json

from sagelift.settings_reference import rows, to_markdown
from tests.sagelift.commands.analysis_commands import run


def test_every_setting_is_listed_with_its_default_and_meaning() -> None:
    shown = run("settings").stdout
    assert all(f"{row.variable}={row.default}\n    {row.description}" in shown for row in rows())


def test_json_and_markdown_are_those_of_the_reference() -> None:
    assert json.loads(run("settings", "--json").stdout) == [row.model_dump() for row in rows()]
    assert run("settings", "--markdown").stdout == to_markdown()
