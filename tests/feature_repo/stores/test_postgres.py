"""Settings and errors of the PostgreSQL store that need no server; tests/integration has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import String
from pydantic import ValidationError

pytest.importorskip("psycopg", reason="psycopg is not installed")

from feature_repo.errors import InvalidFeatureError, StoreStateError
from feature_repo.stores.postgres import GuardedPostgresOnlineStore, GuardedPostgresOnlineStoreConfig


@pytest.fixture
def config(tmp_path: Path) -> RepoConfig:
    settings = {
        "type": "feature_repo.stores.postgres.GuardedPostgresOnlineStore",
        "conninfo": f"host={tmp_path} password=hunter2 user=pg",  # a folder without a server's socket
    }
    return RepoConfig(
        project="test",
        registry=str(tmp_path / "registry.pb"),
        online_store=settings,
        entity_key_serialization_version=3,
    )


def view(name: str) -> FeatureView:
    product = Entity(name="product", join_keys=["product_id"], value_type=ValueType.STRING)
    source = FileSource(name=name, path="/nowhere/*.parquet", timestamp_field="event_timestamp")
    schema = [Field(name="product_id", dtype=String), Field(name="title", dtype=String)]
    return FeatureView(name=name, entities=[product], schema=schema, source=source)


def test_a_conninfo_with_a_missing_environment_variable_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"online_store\.conninfo names an environment variable that is not set"):
        GuardedPostgresOnlineStoreConfig(conninfo="postgresql://${PGHOST}/features")


def test_a_server_that_cannot_be_reached_is_an_error_without_the_password(config: RepoConfig) -> None:
    with pytest.raises(StoreStateError, match="PostgreSQL cannot be used") as caught:
        GuardedPostgresOnlineStore().tables(config, "")
    assert "hunter2" not in str(caught.value) + repr(config.online_store)


def test_a_name_that_postgresql_would_cut_off_is_refused_before_a_connection(config: RepoConfig) -> None:
    with pytest.raises(InvalidFeatureError, match="longer than the 63 bytes"):
        GuardedPostgresOnlineStore().count(config, view("product_embedding_" + "x" * 60))
