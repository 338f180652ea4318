"""Both servers are downloaded, Kafka first."""

from pathlib import Path

import pytest

from sagelift.stack import components


def test_both_servers_are_fetched_into_the_same_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, Path]] = []
    monkeypatch.setattr(components, "fetch_kafka", lambda cache, say: fetched.append(("kafka", cache)))
    monkeypatch.setattr(components, "fetch_triton", lambda cache, say: fetched.append(("triton", cache)))
    components.fetch_all(tmp_path, print)
    assert fetched == [("kafka", tmp_path), ("triton", tmp_path)]
