from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.history.writer import History
from tests.feature_repo.history.builders import SCHEMA


@pytest.fixture
def history(tmp_path: Path) -> History:
    """An empty history."""
    return History(tmp_path / "view", SCHEMA)
