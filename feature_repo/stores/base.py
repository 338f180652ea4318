"""What Feast calls of a guarded online store, over the few operations that differ from one database to the next.

A store implements `GuardedOnlineStore`'s abstract methods. Whatever the database, they mean the same:

* The order is the view's `version` feature, or the event time in microseconds where a view has none. An older version
  never overwrites a newer one; an equal one is written again, so that the same message delivered twice changes nothing
  and a correction under the same version passes.
* A row whose `deleted` feature is true is a tombstone: it keeps its version, so that an older upsert cannot pass, its
  features are emptied, and Feast's readers see nothing.
* A row may follow the other views of its product in version (`write`'s `advance`) without being rewritten. The tag
  `follows` names the view that a view always follows, for stores that make use of it.
* All rows of one `write` are there or, on any error, none.

One conformance suite holds all of them to this (tests/integration/test_feature_stores.py).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from pydantic import SecretStr

from feature_repo.definitions import DELETED, VERSION
from feature_repo.errors import InvalidFeatureError
from feature_repo.stores.vector_search import VectorSearch
from feature_repo.times import from_microseconds, to_microseconds

SCAN_PAGE: Final = 4096


class OnlineRow(NamedTuple):
    """One product in one view. `values` are serialised `Value`s in the order of the view's `payload_columns`."""

    key: bytes
    version: int
    deleted: bool
    event_us: int  # microseconds since the Unix epoch, UTC
    values: Sequence[bytes | None]


class GuardedOnlineStore(OnlineStore):
    """Feast online store ordered by version; see the module's text. Safe to share between threads."""

    @abstractmethod
    def write(
        self,
        config: Any,
        batches: Sequence[tuple[Any, Sequence[OnlineRow]]],
        advance: Sequence[Any] = (),
        *,
        equal: bool = True,
        repair: bool = False,
    ) -> list[set[bytes]]:
        """Write rows of several views in one transaction: all of them or, on any error, none.

        Rows of one batch that share a key are taken in their order. For every accepted key, the version and event
        time of its row in the views `advance` follow, tombstone or not, with their features untouched. With `equal`
        False a row of the version that is there already is refused too. With `repair` a row is refused only for one
        that was written under a newer version, not for one that has followed to it.

        Returns:
            for each batch the keys whose rows were refused, because the store holds a newer version.
        """

    @abstractmethod
    def read(
        self,
        config: Any,
        wanted: Sequence[tuple[Any, Sequence[str]]],
        keys: Collection[bytes],
        *,
        own_versions: bool = False,
    ) -> list[dict[bytes, OnlineRow]]:
        """Rows of `keys`, tombstones included, in several views as of one moment; of each view the given columns.

        A row has the version that it has followed to or, with `own_versions`, that under which it was written.
        """

    @abstractmethod
    def page(
        self, config: Any, view: Any, columns: Sequence[str], after: bytes = b"", limit: int = SCAN_PAGE
    ) -> list[OnlineRow]:
        """The next `limit` live rows in key order, after the key `after`."""

    @abstractmethod
    def tables(self, config: Any, prefix: str) -> list[str]:
        """Names of the views that have a table here and begin with `prefix`, whoever made them."""

    @abstractmethod
    def count(self, config: Any, view: Any) -> int:
        """Rows of a view, tombstones included."""

    @abstractmethod
    def identity(self, config: Any, view: Any) -> str:
        """A random name that a view's table gets once: another one after its rows were lost or dropped."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close every connection of this process; the next call opens a new one."""

    # What Feast calls.

    def teardown(self, config: Any, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Drop these views with their rows (`feast teardown`)."""
        self.update(config, tables, [], [], [], partial=False)
        self.disconnect()

    def plan(self, config: Any, desired_registry_proto: Any) -> list[Any]:
        """Nothing: `update` makes the tables; Feast's own infra objects would make tables of another shape."""
        return []

    def online_write_batch(
        self,
        config: Any,
        table: Any,
        data: Sequence[tuple[Any, Mapping[str, Any], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """What `push`, `write_to_online_store` and `feast materialize` write.

        Raises:
            InvalidFeatureError: a feature or the version is missing, or a vector cannot be searched; nothing was
                written.
        """
        columns = payload_columns(table)
        names = {feature.name for feature in table.features}
        rows = []
        for entity_key, values, event_time, _ in data:
            _check(table, values)
            event_us = to_microseconds(event_time)
            deleted = DELETED in names and values[DELETED].bool_val
            rows.append(
                OnlineRow(
                    key=key_of(config, entity_key),
                    version=values[VERSION].int64_val if VERSION in names else event_us,
                    deleted=deleted,
                    event_us=event_us,
                    values=[None if deleted else values[name].SerializeToString() for name in columns],
                )
            )
        self.write(config, [(table, rows)])
        self.written(table, rows)
        if progress:
            progress(len(rows))

    def online_read(
        self,
        config: Any,
        table: Any,
        entity_keys: Sequence[Any],
        requested_features: Sequence[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Any] | None]]:
        names = list(requested_features or (feature.name for feature in table.features))
        columns = [name for name in payload_columns(table) if name in names]
        keys = [key_of(config, entity_key) for entity_key in entity_keys]
        (found,) = self.read(config, [(table, columns)], keys)
        return [_as_feast_row(found.get(key), names, columns) for key in keys]

    def retrieve_online_documents_v2(
        self,
        config: Any,
        table: Any,
        requested_features: Sequence[str] | None,
        embedding: Sequence[float] | None,
        top_k: int,
        distance_metric: str | None = None,
        query_string: str | None = None,
        filters: Any = None,
        include_feature_view_version_metadata: bool = False,
    ) -> list[tuple[datetime | None, Any, dict[str, Any] | None]]:
        """The `top_k` live rows nearest to `embedding`, with exact distances; see `feature_repo.stores.vector_search`.

        Rows are ordered by their id, not by distance: `FeatureStore` 0.67 zips them with the *sorted* entity keys,
        so that rows in any other order come back under wrong ids. Sort by the `distance` that comes with each.
        """
        if embedding is None or query_string is not None or filters is not None:
            raise InvalidFeatureError("This store searches by vector alone: give `query`, no text and no filters.")
        names = list(requested_features or ())
        columns = [name for name in payload_columns(table) if name in names]
        documents: list[tuple[datetime | None, Any, dict[str, Any] | None]] = []
        for distance, row in self.vector_search.nearest(config, table, embedding, top_k, distance_metric, columns):
            event_time, values = _as_feast_row(row, names, columns)
            documents.append(
                (event_time, _feast_key(config, row.key), {**(values or {}), "distance": Value(float_val=distance)})
            )
        documents.sort(key=lambda document: document[1].entity_values[0].string_val)
        return documents

    @cached_property
    def vector_search(self) -> VectorSearch:
        """Searches of this process; what others write is followed, what this process writes it should be told of."""
        return VectorSearch(self)

    def written(self, view: Any, rows: Sequence[OnlineRow]) -> None:
        """This process wrote these rows: its next vector search is to see them."""
        if "vector_search" in self.__dict__:
            self.vector_search.written(view, {row.key for row in rows})

    async def close(self) -> None:
        self.disconnect()


def _check(view: Any, values: Mapping[str, Any]) -> None:
    """What Feast lets pass: a version that it made 0 of nothing, a vector that it made zeros of NaN."""
    if missing := {feature.name for feature in view.features} - values.keys():
        raise InvalidFeatureError(
            f"A row for view {view.name} lacks {sorted(missing)}: give every feature, null where unknown."
        )
    version = values.get(VERSION)
    if version is not None and (version.WhichOneof("val") != "int64_val" or version.int64_val < 0):
        raise InvalidFeatureError(f"A row for view {view.name} has no {VERSION}: give an int from 0 on.")
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
                f"{feature.vector_length} finite numbers, not all 0 (which Feast makes of NaN)."
            )


def filled_in(name: str, value: SecretStr) -> SecretStr:
    """A setting of `online_store.yaml`, if the environment variables that it names were set.

    Raises:
        ValueError: one was not.
    """
    if "${" in value.get_secret_value():
        raise ValueError(f"online_store.{name} names an environment variable that is not set.")
    return value


def payload_columns(view: Any) -> tuple[str, ...]:
    """The features that a table keeps as serialised values: all but those that order and hide its rows."""
    return tuple(feature.name for feature in view.features if feature.name not in (VERSION, DELETED))


def newest_of_each_key(rows: Sequence[OnlineRow]) -> list[OnlineRow]:
    """Of rows that share a key the newest version, of equal ones the last: as if they came one after the other."""
    kept: dict[bytes, OnlineRow] = {}
    for row in rows:
        if row.key not in kept or row.version >= kept[row.key].version:
            kept[row.key] = row
    return list(kept.values())


def key_of(config: Any, entity_key: Any) -> bytes:
    return bytes(serialize_entity_key(entity_key, config.entity_key_serialization_version))


def _feast_key(config: Any, key: bytes) -> Any:
    return deserialize_entity_key(key, config.entity_key_serialization_version)


def _as_feast_row(
    row: OnlineRow | None, names: Sequence[str], columns: Sequence[str]
) -> tuple[datetime | None, dict[str, Any] | None]:
    """What `online_read` answers for one product: nothing for one that is unknown or deleted."""
    if row is None or row.deleted:
        return None, None
    values = {name: Value.FromString(blob or b"") for name, blob in zip(columns, row.values, strict=True)}
    if VERSION in names:
        values[VERSION] = Value(int64_val=row.version)
    if DELETED in names:
        values[DELETED] = Value(bool_val=False)
    return from_microseconds(row.event_us), values
