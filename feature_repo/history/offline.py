"""Feast's DuckDB offline store over a history whose parts were written by programs of several versions.

Feast reads all parts as the first of them looks, and fails once a view has got a feature. Here their columns are joined
by name, null where a part has none. All else is Feast's own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import ibis  # type: ignore[import-untyped]
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


class HistoryOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings below `offline_store:` in `feature_store.yaml`."""

    type: Literal["feature_repo.history.offline.HistoryOfflineStore"] = (
        "feature_repo.history.offline.HistoryOfflineStore"
    )


class HistoryOfflineStore(DuckDBOfflineStore):
    """What Feast calls, as its own store has it, with another reader of Parquet."""

    @staticmethod
    def pull_latest_from_table_or_query(
        config: Any,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> Any:
        """The latest row of each key in a window: what `feast materialize` writes online."""
        return pull_latest_from_table_or_query_ibis(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
            **_ways(config),
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: Any,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> Any:
        """All rows in a window."""
        return pull_all_from_table_or_query_ibis(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            **_ways(config),
        )

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> Any:
        """The point-in-time join."""
        return get_historical_features_ibis(
            config,
            feature_views,
            feature_refs,
            entity_df,
            registry,
            project,
            full_feature_names=full_feature_names,
            filter_by_created_timestamp=filter_by_created_timestamp,
            **_ways(config),
        )


def _ways(config: Any) -> dict[str, Any]:
    """How to read and write: the same for every call."""
    settings = config.offline_store
    return {
        "data_source_reader": _read,
        "data_source_writer": _write_data_source,
        "staging_location": settings.staging_location,
        "staging_location_endpoint_override": settings.staging_location_endpoint_override,
    }


def _read(data_source: Any, repo_path: str) -> Any:
    local = isinstance(data_source, FileSource) and "://" not in data_source.path
    if local and data_source.file_format is None and data_source.path.endswith(".parquet"):
        return ibis.read_parquet(data_source.path, union_by_name=True)
    return _read_data_source(data_source, repo_path)
