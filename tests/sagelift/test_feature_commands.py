"""Wrong options of `sagelift features` are refused before anything is opened."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sagelift.feature_commands import app


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("materialize", "--since", "yesterday"), "'yesterday' is no time: write it as 2026-03-01T12:00:00Z"),
        (("materialize", "--until", "2026-03-01"), "'2026-03-01' has no time zone: add one, such as Z for UTC"),
        (("status", "--max-age", "1 week"), "'1 week' is no duration"),
        (("status", "--max-age", "h"), "'h' is no duration"),
        (("status", "--max-empty", "title"), "'title' is no limit: write a feature and a share"),
        (("status", "--max-empty", "title=2"), "'title=2' is no limit"),
    ],
)
def test_wrong_options_are_named(
    options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("SAGELIFT_STATE_DIR", f"{tmp_path}/state")
    monkeypatch.setenv("COLUMNS", "300")
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
