"""What Feast calls of a guarded online store, over the few operations that differ from one database to the next.

A store implements `GuardedOnlineStore`'s abstract methods. Whatever the database, they mean the same:

* The order is the view's `version` feature, or the event time in microseconds where a view has none. An older version
  never overwrites a newer one; an equal one is written again, so that the same message delivered twice changes nothing
  and a correction under the same version passes.
* A row whose `deleted` feature is true is a tombstone: it keeps its version, so that an older upsert cannot pass, its
  features are emptied, and Feast's readers see nothing.
* A row may follow the other views of its product in version (`write`'s `advance`) without being rewritten.
* All rows of one `write` are there or, on any error, none.

One conformance suite holds all of them to this (tests/feature_repo/test_stores.py).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from pydantic import SecretStr

from feature_repo.definitions import DELETED, VERSION
from feature_repo.errors import InvalidFeatureError
from feature_repo.values import decode_vector

SCAN_PAGE: Final = 4096
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


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
    ) -> list[set[bytes]]:
        """Write rows of several views in one transaction: all of them or, on any error, none.

        Rows of one batch that share a key are taken in their order. For every accepted key, the version and event
        time of its row in the views `advance` follow, tombstone or not, with their features untouched. With `equal`
        False a row of the version that is there already is refused too.

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
        columns = payload_columns(table)
        names = {feature.name for feature in table.features}
        rows = []
        for entity_key, values, event_time, _ in data:
            if missing := names - values.keys():
                raise InvalidFeatureError(
                    f"A row for view {table.name} lacks {sorted(missing)}: give every feature, null where unknown."
                )
            event_us = microseconds(event_time)
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
        """The `top_k` live products nearest to `embedding`, exactly, by a scan of the view.

        Rows are ordered by product id, not by distance: `FeatureStore` 0.67 zips them with the *sorted* entity keys,
        so that rows in any other order come back under wrong ids. Sort by the `distance` that comes with each.
        """
        if embedding is None or query_string is not None or filters is not None:
            raise InvalidFeatureError("This store searches by vector alone: give `query`, no text and no filters.")
        field = next((f for f in table.features if f.vector_index), None)
        if field is None:
            raise InvalidFeatureError(f"View {table.name} has no vector to search: mark one vector_index=True.")
        query = np.asarray(embedding, dtype=np.float32)
        if query.shape != (field.vector_length,) or not np.isfinite(query).all():
            raise InvalidFeatureError(
                f"The query for view {table.name} must be {field.vector_length} finite numbers, not {query.shape}."
            )
        metric = distance_metric or field.vector_search_metric or "cosine"
        nearest = self._nearest(config, table, field.name, query, top_k, metric)
        names = list(requested_features or ())
        keys = [_feast_key(config, key) for key, _ in nearest]
        rows = self.online_read(config, table, keys, names)
        documents: list[tuple[datetime | None, Any, dict[str, Any] | None]] = []
        for (_, distance), key, (event_time, values) in zip(nearest, keys, rows, strict=True):
            if values is not None:  # else deleted since the scan
                documents.append((event_time, key, {**values, "distance": Value(float_val=distance)}))
        documents.sort(key=lambda document: document[1].entity_values[0].string_val)
        return documents

    async def close(self) -> None:
        self.disconnect()

    def _nearest(
        self, config: Any, view: Any, column: str, query: Any, top_k: int, metric: str
    ) -> list[tuple[bytes, float]]:
        """Keys and distances of the `top_k` nearest live rows, nearest first, in bounded memory."""
        best: list[tuple[float, bytes]] = []
        after = b""
        while page := self.page(config, view, [column], after):
            after = page[-1].key
            vectors = [decode_vector(row.values[0], len(query)) for row in page]
            keys = [row.key for row, vector in zip(page, vectors, strict=True) if len(vector) == len(query)]
            if not keys:
                continue
            distances = _distances(np.stack([v for v in vectors if len(v) == len(query)]), query, metric)
            best += zip(distances.tolist(), keys, strict=True)
            best = sorted(best)[:top_k]
        return [(key, distance) for distance, key in best]


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


def microseconds(moment: datetime) -> int:
    """Microseconds since the Unix epoch; a time without a zone is UTC, as everywhere in Feast."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def from_microseconds(event_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=event_us)


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


def _distances(vectors: Any, query: Any, metric: str) -> Any:
    """Distances [n] of vectors [n, d]; smaller is nearer."""
    if metric.lower() == "cosine":
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        return 1.0 - vectors @ query / np.maximum(lengths, np.finfo(np.float32).tiny)
    if metric.lower() == "l2":
        return np.linalg.norm(vectors - query, axis=1)
    if metric.lower() == "inner_product":
        return -(vectors @ query)
    raise InvalidFeatureError(f"Unknown distance {metric!r}: use cosine, L2 or inner_product.")
