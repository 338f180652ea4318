"""What the tests of all readers share."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from streaming.feeds import Row, read_feed

NOW = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Row]]:
    """`read("feed.tsv", text)`: the rows of a feed with this content."""

    def read(name: str, content: str | bytes, **options: Any) -> list[Row]:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_feed(path, now=NOW, **options))

    return read
