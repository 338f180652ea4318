from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Opens the store below the test's folder at each call, and closes all stores at the end."""
    from feature_repo.store import ProductFeatureStore

    opened: list[Any] = []

    def open_one() -> Any:
        opened.append(ProductFeatureStore.open(tmp_path))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Any]) -> Any:
    return open_store()
