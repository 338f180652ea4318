"""`sagelift experiment key`: a key is shown once and can be revoked."""

from __future__ import annotations

import json
from pathlib import Path

from tests.sagelift.commands.experiment.commands import output, run


def test_a_key_is_shown_once(state: Path) -> None:
    made = run("key", "create", "shop", "--role", "read", "--actor", "ada")
    shown = made.stdout.strip()
    assert shown.startswith("sl_")
    (row,) = output("key", "list")
    assert (row["name"], row["role"], row["revoked_at"]) == ("shop", "read", None)
    assert shown.split("_", 2)[2] not in json.dumps(output("key", "list")) + json.dumps(output("audit"))
    assert run("key", "revoke", row["id"], "--actor", "ada").exit_code == 0
    assert output("key", "list")[0]["revoked_at"] is not None
