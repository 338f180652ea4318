"""The interface of a guarded online store: Feast's methods, and the few operations that differ between databases.

A store implements the abstract methods of `GuardedOnlineStore`. They mean the same in every database:

* Rows are ordered by the view's `version` feature, or by the event time in microseconds if the view has none. An older
  version never overwrites a newer one. An equal version is written again: a message that is delivered twice changes
  nothing, and a correction under the same version passes.
* A row whose `deleted` feature is true is a tombstone. It keeps its version, so that an older upsert cannot pass. Its
  features are empty, and Feast's readers do not see it.
* A row can *follow* the other views of its product: its version increases, but its features are not rewritten (the
  argument `advance` of `write`). The tag `follows` of a view names the view that it always follows; a store may use it.
* A `write` is atomic: all of its rows are stored or, on any error, none.

A new store in `feature_repo/stores/` also needs:

* Feast's method `update`, which creates and drops the tables of views.
* A class of settings in the same module, named like the store plus `Config`; Feast finds it by this name.
* A branch in the fixture `settings` of tests/integration/test_feature_stores.py, the conformance suite of all stores.

Users choose a store by its dotted path, `type` in `online_store.yaml`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Final

import numpy as np
from feast import Entity, FeatureView, RepoConfig
from feast.infra.infra_object import InfraObject
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from pydantic import SecretStr

from feature_repo.definitions import DELETED, VERSION
from feature_repo.errors import InvalidFeatureError
from feature_repo.online_row import OnlineRow, payload_columns
from feature_repo.stores.vector_search import VectorSearch
from feature_repo.times import from_microseconds, to_microseconds

PAGE_ROWS: Final = 4096

ViewRows = tuple[FeatureView, Sequence[OnlineRow]]
"""A view and rows to write to it."""
ViewColumns = tuple[FeatureView, Sequence[str]]
"""A view and the payload columns to read from it."""
Document = tuple[datetime | None, EntityKeyProto | None, dict[str, ValueProto] | None]
"""A result of a search, as Feast expects it: event time, entity key, features."""


class GuardedOnlineStore(OnlineStore):
    """Feast online store that orders rows by version; see the module's docstring. Threads may share one."""

    @abstractmethod
    def write(
        self,
        config: RepoConfig,
        batches: Sequence[ViewRows],
        advance: Sequence[FeatureView] = (),
        *,
        equal: bool = True,
        repair: bool = False,
    ) -> list[set[bytes]]:
        """Write rows of several views in one transaction.

        Args:
            config: Feast's configuration.
            batches: Rows by view. Rows of one batch that share a key apply in their order.
            advance: Views whose rows follow: for every accepted key, their row takes its version and event time,
                tombstone or not, and keeps its features.
            equal: Whether a row of an equal version passes.
            repair: Whether to compare only with the version that the stored row was written under, and not with the
                version that it has followed.

        Returns:
            For each batch, the keys of the rows that were refused because the store holds a newer version.
        """

    @abstractmethod
    def read(
        self,
        config: RepoConfig,
        columns: Sequence[ViewColumns],
        keys: Collection[bytes],
        *,
        own_versions: bool = False,
    ) -> list[dict[bytes, OnlineRow]]:
        """Read rows of several views as of one time, tombstones included.

        Args:
            config: Feast's configuration.
            columns: The views, each with the payload columns to read.
            keys: Entity keys; a key without a row is absent from the result.
            own_versions: Whether a row reports the version that it was written under instead of the version that it
                has followed.

        Returns:
            For each view, its rows by key.
        """

    @abstractmethod
    def page(
        self, config: RepoConfig, view: FeatureView, columns: Sequence[str], after: bytes = b"", limit: int = PAGE_ROWS
    ) -> list[OnlineRow]:
        """Read the next `limit` live rows after the key `after`, in key order."""

    @abstractmethod
    def tables(self, config: RepoConfig, prefix: str) -> list[str]:
        """Return the sorted names of the views that have a table and begin with `prefix`, including other programs'."""

    @abstractmethod
    def count(self, config: RepoConfig, view: FeatureView) -> int:
        """Count the rows of a view, tombstones included."""

    @abstractmethod
    def identity(self, config: RepoConfig, view: FeatureView) -> str:
        """Return the random name of a view's table; a table that was lost and made again has another name."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close every connection of this process; the next call opens a new one."""

    # What Feast calls.

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Drop these views with their rows (`feast teardown`)."""
        self.update(config, tables, [], [], [], partial=False)
        self.disconnect()

    def plan(self, config: RepoConfig, desired_registry_proto: RegistryProto) -> list[InfraObject]:
        """Return no objects: `update` makes the tables, and Feast's own objects would make tables of another shape."""
        return []

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[tuple[EntityKeyProto, Mapping[str, ValueProto], datetime, datetime | None]],
        progress: Callable[[int], object] | None,
    ) -> None:
        """Write the rows of `push`, `write_to_online_store` and `feast materialize`.

        Raises:
            InvalidFeatureError: A feature or the version is missing, or a vector cannot be searched. Nothing was
                written.
        """
        rows = [_online_row(config, table, key, values, event_time) for key, values, event_time, _ in data]
        self.write(config, [(table, rows)])
        self.written(table, rows)
        if progress:
            progress(len(rows))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: Sequence[EntityKeyProto],
        requested_features: Sequence[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """Read features for `get_online_features`; (None, None) for a product that is unknown or deleted."""
        names = list(requested_features or (feature.name for feature in table.features))
        columns = [name for name in payload_columns(table) if name in names]
        keys = [key_of(config, entity_key) for entity_key in entity_keys]
        (rows,) = self.read(config, [(table, columns)], keys)
        return [_as_feast_row(rows.get(key), names, columns) for key in keys]

    def retrieve_online_documents_v2(
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: Sequence[str] | None,
        embedding: Sequence[float] | None,
        top_k: int,
        distance_metric: str | None = None,
        query_string: str | None = None,
        filters: object = None,
        include_feature_view_version_metadata: bool = False,
    ) -> list[Document]:
        """Return the `top_k` live rows nearest to `embedding`, with exact distances.

        The rows are sorted by id, not by distance: `FeatureStore` 0.67 zips them with the *sorted* entity keys, and
        rows in any other order get wrong ids. Sort the result by `distance`.
        """
        if embedding is None or query_string is not None or filters is not None:
            raise InvalidFeatureError("This store searches by vector alone: give `query`, no text and no filters.")
        names = list(requested_features or ())
        columns = [name for name in payload_columns(table) if name in names]
        ids: list[str] = []
        documents: list[Document] = []
        for distance, row in self.vector_search.nearest(config, table, embedding, top_k, distance_metric, columns):
            event_time, values = _as_feast_row(row, names, columns)
            features = {**(values or {}), "distance": ValueProto(float_val=distance)}
            key = deserialize_entity_key(row.key, config.entity_key_serialization_version)
            ids.append(key.entity_values[0].string_val)
            documents.append((event_time, key, features))
        return [document for _, document in sorted(zip(ids, documents, strict=True), key=lambda pair: pair[0])]

    @cached_property
    def vector_search(self) -> VectorSearch:
        """The vector searches of this process."""
        return VectorSearch(self)

    def written(self, view: FeatureView, rows: Sequence[OnlineRow]) -> None:
        """Record that this process wrote these rows: its next vector search sees them."""
        if "vector_search" in self.__dict__:
            self.vector_search.written(view, {row.key for row in rows})

    async def close(self) -> None:
        """Close every connection of this process."""
        self.disconnect()


def key_of(config: RepoConfig, entity_key: EntityKeyProto) -> bytes:
    """Serialize an entity key in the format version of this repository."""
    return bytes(serialize_entity_key(entity_key, config.entity_key_serialization_version))


def check_filled_in(name: str, value: SecretStr) -> SecretStr:
    """Return a setting of `online_store.yaml` after checking that its environment variables were filled in.

    Raises:
        ValueError: An environment variable that the setting names is not set.
    """
    if "${" in value.get_secret_value():
        raise ValueError(f"online_store.{name} names an environment variable that is not set.")
    return value


def _online_row(
    config: RepoConfig,
    view: FeatureView,
    entity_key: EntityKeyProto,
    values: Mapping[str, ValueProto],
    event_time: datetime,
) -> OnlineRow:
    _check_values(view, values)
    names = {feature.name for feature in view.features}
    event_us = to_microseconds(event_time)
    deleted = DELETED in names and values[DELETED].bool_val
    return OnlineRow(
        key=key_of(config, entity_key),
        version=values[VERSION].int64_val if VERSION in names else event_us,
        deleted=deleted,
        event_us=event_us,
        values=[None if deleted else values[name].SerializeToString() for name in payload_columns(view)],
    )


def _check_values(view: FeatureView, values: Mapping[str, ValueProto]) -> None:
    """Refuse values that Feast accepts: a missing version that became 0, a vector of NaN that became zeros."""
    if missing := {feature.name for feature in view.features} - values.keys():
        raise InvalidFeatureError(
            f"A row for view {view.name} lacks {sorted(missing)}: give every feature, null where unknown."
        )
    version = values.get(VERSION)
    if version is not None and (version.WhichOneof("val") != "int64_val" or version.int64_val < 0):
        raise InvalidFeatureError(f"A row for view {view.name} has no {VERSION}: give an int of at least 0.")
    if DELETED in values and values[DELETED].bool_val:
        return
    for feature in view.features:
        kind = values[feature.name].WhichOneof("val") if feature.vector_index else None
        if kind is None:
            continue
        vector = np.array(getattr(values[feature.name], kind).val, dtype=np.float32)
        zeros = not vector.any() and (feature.vector_search_metric or "cosine").lower() == "cosine"
        if len(vector) != feature.vector_length or zeros or not np.isfinite(vector).all():
            raise InvalidFeatureError(
                f"A row for view {view.name} has a {feature.name} that cannot be searched: give "
                f"{feature.vector_length} finite numbers, not all 0 (Feast turns NaN into 0)."
            )


def _as_feast_row(
    row: OnlineRow | None, names: Sequence[str], columns: Sequence[str]
) -> tuple[datetime | None, dict[str, ValueProto] | None]:
    if row is None or row.deleted:
        return None, None
    values = {name: ValueProto.FromString(blob or b"") for name, blob in zip(columns, row.values, strict=True)}
    if VERSION in names:
        values[VERSION] = ValueProto(int64_val=row.version)
    if DELETED in names:
        values[DELETED] = ValueProto(bool_val=False)
    return from_microseconds(row.event_us), values
