"""Feast's DuckDB offline store over a history whose parts have different columns.

Feast reads all parts with the columns of the first one, and fails once a view has a new feature. This store joins
columns by name; a column that a part lacks is null. Everything else is Feast's own.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, TypedDict

import ibis  # type: ignore[import-untyped]
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _read_data_source,
    _write_data_source,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.ibis import (
    get_historical_features_ibis,
    pull_all_from_table_or_query_ibis,
    pull_latest_from_table_or_query_ibis,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from ibis.expr.types import Table  # type: ignore[import-untyped]
from pandas import DataFrame


class HistoryOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings below `offline_store:` in `feature_store.yaml`."""

    type: Literal["feature_repo.history.offline.HistoryOfflineStore"] = (
        "feature_repo.history.offline.HistoryOfflineStore"
    )


class HistoryOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB offline store with another reader of Parquet."""

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Select the latest row of each key in a window: what `feast materialize` writes online."""
        return pull_latest_from_table_or_query_ibis(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
            **_read_and_write(config),
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Select all rows in a window."""
        return pull_all_from_table_or_query_ibis(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            **_read_and_write(config),
        )

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Join labels with the features as of their times."""
        return get_historical_features_ibis(
            config,
            feature_views,
            feature_refs,
            entity_df,
            registry,
            project,
            full_feature_names=full_feature_names,
            filter_by_created_timestamp=filter_by_created_timestamp,
            **_read_and_write(config),
        )


class _ReadAndWrite(TypedDict):
    data_source_reader: Callable[[DataSource, str], Table]
    data_source_writer: Callable[..., None]
    staging_location: str | None
    staging_location_endpoint_override: str | None


def _read_and_write(config: RepoConfig) -> _ReadAndWrite:
    """Return how to read and write: the same for every call."""
    settings = config.offline_store
    return {
        "data_source_reader": _read,
        "data_source_writer": _write_data_source,
        "staging_location": settings.staging_location,
        "staging_location_endpoint_override": settings.staging_location_endpoint_override,
    }


def _read(data_source: DataSource, repo_path: str) -> Table:
    if (
        isinstance(data_source, FileSource)
        and "://" not in data_source.path
        and data_source.file_format is None
        and data_source.path.endswith(".parquet")
    ):
        return ibis.read_parquet(data_source.path, union_by_name=True)
    return _read_data_source(data_source, repo_path)
