"""The lock on a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.errors import ArtifactError
from inference.locks import exclusive_lock


def test_a_second_lock_is_refused_until_the_first_is_released(tmp_path: Path) -> None:
    first = exclusive_lock(tmp_path, unusable="unusable", busy="in use")
    with first, pytest.raises(ArtifactError, match="in use"), exclusive_lock(tmp_path, unusable="", busy="in use"):
        pass
    with exclusive_lock(tmp_path, unusable="unusable", busy="in use"):
        pass


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    missing = exclusive_lock(tmp_path / "missing", unusable="no run", busy="")
    with pytest.raises(ArtifactError, match="no run: No such file"), missing:
        pass
