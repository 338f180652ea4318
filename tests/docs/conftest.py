"""The servers' programs, for the quickstarts that start the stack."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sagelift.stack.components import fetch_all


@pytest.fixture(scope="session")
def cache() -> Path:
    """The folder of the servers' programs, filled."""
    folder = Path(os.environ.get("SAGELIFT_CACHE_DIR", "~/.cache/sagelift")).expanduser()
    fetch_all(folder, print)
    return folder
