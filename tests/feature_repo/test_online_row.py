from __future__ import annotations

from pathlib import Path

from feature_repo.definitions import embedding_view
from feature_repo.online_row import OnlineRow, newest_of_each_key, payload_columns


def row(key: bytes, version: int, value: bytes = b"") -> OnlineRow:
    return OnlineRow(key, version, False, 0, (value,))


def test_of_each_key_the_newest_version_counts_and_of_equal_versions_the_last() -> None:
    rows = [row(b"a", 2, b"first"), row(b"b", 1), row(b"a", 1), row(b"a", 2, b"second"), row(b"b", 0)]
    assert newest_of_each_key(rows) == [row(b"a", 2, b"second"), row(b"b", 1)]


def test_version_and_tombstone_are_no_payload() -> None:
    assert payload_columns(embedding_view(Path("/home"), "m1")) == ("vector", "content_hash", "model_version")
