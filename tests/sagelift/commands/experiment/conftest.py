"""Each test has a state folder of its own and no settings from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test; its state folder is below."""
    for name in [name for name in os.environ if name.startswith("SAGELIFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SAGELIFT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path
