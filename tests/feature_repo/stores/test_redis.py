"""Settings and errors of the Redis store that need no server; tests/integration has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from feast import RepoConfig
from pydantic import ValidationError

from feature_repo.errors import StoreStateError
from feature_repo.stores.redis import GuardedRedisOnlineStore, GuardedRedisOnlineStoreConfig

pytest.importorskip("redis", reason="redis-py is not installed")


def test_a_url_with_a_missing_environment_variable_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"online_store\.url names an environment variable that is not set"):
        GuardedRedisOnlineStoreConfig(url="redis://${REDIS_HOST}")


def test_a_server_that_cannot_be_reached_is_an_error_without_the_password(tmp_path: Path) -> None:
    settings = {
        "type": "feature_repo.stores.redis.GuardedRedisOnlineStore",
        "url": f"unix://:hunter2@{tmp_path}/no-server.sock",
    }
    config = RepoConfig(
        project="test",
        registry=str(tmp_path / "registry.pb"),
        online_store=settings,
        entity_key_serialization_version=3,
    )
    store = GuardedRedisOnlineStore()
    with pytest.raises(StoreStateError, match="Redis cannot be used") as caught:
        store.tables(config, "")
    assert "hunter2" not in str(caught.value) + repr(config.online_store)
    store.disconnect()
