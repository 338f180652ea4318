"""The facade of the feature store: the rest of Sagelift reads and writes features only by `ProductFeatureStore`.

    store = ProductFeatureStore.open(Path(".sagelift"))
    store.write_features([ProductFeatures(id="a1", version=1, event_time=now, ...)])
    store.read_features(["a1"])

It uses Feast's extension points only: views and services are in Feast's registry, `feature_store.yaml` names the online
store, and `get_online_features`, `get_historical_features` and `materialize` read the data of this store. This module
imports Feast, which takes seconds: import it inside functions.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self, TypeVar, cast

import pyarrow as pa
from feast import FeatureStore, FeatureView, RepoConfig
from feast.infra.registry.sql import SqlRegistry

from feature_repo import definitions, opening, recent, rows
from feature_repo.definitions import (
    FIXED_VIEWS,
    IMAGES_VIEW,
    OFFER_VIEW,
    PRODUCT_VIEWS,
    TEXT_VIEW,
    USER_KEY,
    USER_VIEW,
)
from feature_repo.errors import InvalidFeatureError, StoreBusyError, StoreStateError, UnknownModelVersionError
from feature_repo.history.as_of import find_rows
from feature_repo.history.compaction import compact
from feature_repo.history.parts import GROUP_ROWS, PartsReader
from feature_repo.history.writer import History, history_of
from feature_repo.locks import compaction_lock
from feature_repo.online_row import OnlineRow, payload_columns
from feature_repo.recent import Engagement, UserRecent
from feature_repo.rows import ALL_VIEWS, Deletion, EmbeddingState, OfferRow, ProductEmbedding, ProductFeatures
from feature_repo.stores.base import GuardedOnlineStore, ViewColumns, ViewRows
from feature_repo.times import to_microseconds
from feature_repo.values import decode_key, decode_string, encode_key
from feature_repo.views import Row, encode, product_embedding, product_features, product_offer, user_recent

_VIEW_NAMES: Final = {"text": TEXT_VIEW, "images": IMAGES_VIEW, "offer": OFFER_VIEW}
_PAGE_ROWS: Final = 4096
_PAUSE_S: Final = 0.01
_TRIES: Final = 20  # attempts to write lists of shoppers that other writers change at the same time

_Row = TypeVar("_Row", bound=Row)


class ProductFeatureStore:
    """Features and embeddings of products; the newest version always wins. Threads may share one.

    Attributes:
        home: The absolute folder of the store.
        feast: Feast's store over the same folder.
    """

    def __init__(self, home: Path, feast_store: FeatureStore) -> None:
        """Use `open` instead; see `feature_repo.opening`."""
        self.home = home
        self.feast = feast_store
        self._views = {name: definitions.view_named(home, name) for name in FIXED_VIEWS}
        self._closed = False

    @classmethod
    def open(cls, state_dir: Path) -> Self:
        """Open the store below `<state_dir>/feast`; make it, or apply this program's definitions, where needed.

        A registry with newer definitions than this program's is used as it is: see `registry.must_apply`.

        Raises:
            StoreStateError: The folder cannot be used or written, holds another kind of store, or holds a registry of
                another version that cannot be used.
        """
        return cls(*opening.open_feast(state_dir))

    @property
    def config(self) -> RepoConfig:
        """Feast's configuration."""
        return self.feast.config

    @property
    def online(self) -> GuardedOnlineStore:
        """The online store.

        Raises:
            StoreStateError: This store is closed.
        """
        if self._closed:
            raise StoreStateError("This feature store is closed: open it again.")
        return cast(GuardedOnlineStore, self.feast.provider.online_store)

    def view(self, name: str) -> FeatureView:
        """Return a view by its full name, as this program defines it."""
        if name not in self._views:
            self._views[name] = definitions.view_named(self.home, name)
        return self._views[name]

    def close(self) -> None:
        """Close all connections; the store cannot be used afterwards."""
        self._closed = True  # first, so that no other thread opens a connection again
        cast(GuardedOnlineStore, self.feast.provider.online_store).disconnect()
        sql_registry = cast(SqlRegistry, self.feast.registry)  # as feature_store.yaml says
        for engine in (sql_registry.write_engine, sql_registry.read_engine):
            engine.dispose()

    def __enter__(self) -> Self:
        """Return this store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        self.close()

    # Features.

    def read_features(self, ids: Iterable[str]) -> dict[str, ProductFeatures]:
        """Read features by id, as of one time. Unknown ids are absent; deleted products have `deleted=True`."""
        ids = list(dict.fromkeys(ids))
        keys = [encode_key(product_id) for product_id in ids]
        by_view = self.online.read(self.config, self._product_columns(), keys)
        products = {
            product_id: product_features(product_id, *(stored.get(key) for stored in by_view))
            for product_id, key in zip(ids, keys, strict=True)
        }
        return {product_id: product for product_id, product in products.items() if product is not None}

    def write_features(self, products: Sequence[ProductFeatures], views: Sequence[str] = ALL_VIEWS) -> set[str]:
        """Write some views of products: a part of the history each, then online in one transaction.

        A view not in `views` keeps its features but gets the new version, so that an older update cannot pass later.
        A product that is new, or back after a deletion, needs all three views. Of rows that share an id, the newest
        version is written, and the last one of equal versions.

        Args:
            products: The products.
            views: Some of text, images, offer.

        Returns:
            The ids that were refused because the store holds a newer version.

        Raises:
            InvalidFeatureError: A row breaks a rule. Nothing was written.
            StoreBusyError: Another process held the store's lock. Nothing was written online; writing again is safe.
            HistoryError: The history cannot be written. Nothing was written online; writing again is safe.
        """
        if unknown := set(views) - set(ALL_VIEWS):
            raise InvalidFeatureError(f"Unknown views {sorted(unknown)}: choose from {', '.join(ALL_VIEWS)}.")
        rows.check_features(products, views)
        names = [_VIEW_NAMES[view] for view in dict.fromkeys(views)]
        return self._write(names, _newest(products), [n for n in PRODUCT_VIEWS if n not in names])

    def versions(self, ids: Iterable[str]) -> dict[str, int]:
        """Read versions by id, of deleted products too; unknown ids are absent."""
        keys = {encode_key(product_id): product_id for product_id in ids}
        (stored,) = self.online.read(self.config, [(self._views[OFFER_VIEW], ())], keys)
        return {keys[key]: row.version for key, row in stored.items()}

    def read_offers(self, ids: Iterable[str]) -> dict[str, OfferRow]:
        """Read price, availability and version by id; many times faster than `read_features`."""
        keys = {encode_key(product_id): product_id for product_id in ids}
        view = self._views[OFFER_VIEW]
        (stored,) = self.online.read(self.config, [(view, payload_columns(view))], keys)
        return {keys[key]: product_offer(keys[key], row) for key, row in stored.items()}

    def write_offers(self, offers: Sequence[OfferRow]) -> set[str]:
        """Write the offer view alone; otherwise like `write_features`."""
        rows.check_offers(offers)
        return self._write([OFFER_VIEW], _newest(offers), [TEXT_VIEW, IMAGES_VIEW])

    def delete(self, deletions: Sequence[Deletion]) -> set[str]:
        """Write tombstones to every view, those of all model versions included.

        Returns:
            The ids that were refused because the store holds a newer version.
        """
        for deletion in deletions:
            rows.check_identity(deletion)
        names = [*PRODUCT_VIEWS, *self.online.tables(self.config, definitions.EMBEDDING_PREFIX)]
        return self._write(names, _newest(deletions))

    def product_ids(self) -> Iterator[str]:
        """Yield the ids of all live products; products that are written during the scan may be missing."""
        for page in self._live_pages(_PAGE_ROWS):
            yield from page

    def scan_features(self, batch: int = 512) -> Iterator[list[ProductFeatures]]:
        """Yield all live products in lists of up to `batch`, each list as of one time."""
        for page in self._live_pages(batch):
            products = [product for product in self.read_features(page).values() if not product.deleted]
            if products:
                yield products

    def rows_as_of(
        self, view_name: str, at: datetime, columns: Sequence[str], batch: int = GROUP_ROWS
    ) -> Iterator[pa.Table]:
        """Yield the live rows of a view as of a time, from its history, in bounded memory; see `history.as_of`.

        Compaction waits until all rows are read.

        Args:
            view_name: The full name of the view.
            at: The time, with its zone.
            columns: The columns of the tables.
            batch: The number of rows of a table, at most.

        Raises:
            InvalidFeatureError: `at` has no zone.
            HistoryError: A part cannot be read.
        """
        if at.utcoffset() is None:
            raise InvalidFeatureError(f"The time {at.isoformat()} has no time zone: add one, such as Z for UTC.")
        history, reader = self.history(view_name), PartsReader(batch)
        schema = pa.schema([history.schema.field(name) for name in columns])
        with compaction_lock(self.home):
            for pieces in find_rows(history.parts(), history.key, to_microseconds(at), batch):
                yield reader.read(pieces, schema)

    # Embeddings.

    def ensure_model_version(self, model_version: str) -> None:
        """Make and register the view of a model version unless it exists.

        Raises:
            InvalidFeatureError: The model version cannot be part of a view's name.
        """
        name = definitions.embedding_view_name(model_version)
        if name not in self.online.tables(self.config, name):
            opening.add_model_version(self.home, self.feast, model_version)

    def model_versions(self) -> list[str]:
        """Return the sorted model versions that have a view."""
        names = self.online.tables(self.config, definitions.EMBEDDING_PREFIX)
        return [name.removeprefix(definitions.EMBEDDING_PREFIX) for name in names]

    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> dict[str, ProductEmbedding]:
        """Read embeddings by id. Unknown ids are absent; deleted ones have `deleted=True`.

        Raises:
            UnknownModelVersionError: This model version has no view.
        """
        view = self._embedding_view(model_version)
        keys = {encode_key(product_id): product_id for product_id in ids}
        (stored,) = self.online.read(self.config, [(view, payload_columns(view))], keys)
        return {keys[key]: product_embedding(keys[key], model_version, row) for key, row in stored.items()}

    def embedding_states(self, model_version: str, ids: Iterable[str]) -> dict[str, EmbeddingState]:
        """Read versions and content hashes of embeddings by id, without vectors; unknown ids are absent.

        Raises:
            UnknownModelVersionError: This model version has no view.
        """
        view = self._embedding_view(model_version)
        keys = {encode_key(product_id): product_id for product_id in ids}
        (stored,) = self.online.read(self.config, [(view, ("content_hash",))], keys)
        return {
            keys[key]: EmbeddingState(row.version, decode_string(row.values[0]), row.deleted)
            for key, row in stored.items()
        }

    def write_embeddings(self, model_version: str, embeddings: Sequence[ProductEmbedding]) -> set[str]:
        """Write embeddings: a part of the history, then online.

        Returns:
            The ids that were refused because the store holds a newer version.

        Raises:
            UnknownModelVersionError: This model version has no view: call `ensure_model_version` first.
            InvalidFeatureError: A row breaks a rule. Nothing was written.
        """
        view = self._embedding_view(model_version)
        rows.check_embeddings(embeddings, model_version)
        return self._write([view.name], _newest(embeddings))

    def scan_embeddings(self, model_version: str, batch: int = 4096) -> Iterator[list[ProductEmbedding]]:
        """Yield all live embeddings of a model version in lists of up to `batch`.

        Raises:
            UnknownModelVersionError: This model version has no view.
        """
        view = self._embedding_view(model_version)
        for page in self._pages(view, payload_columns(view), batch):
            yield [product_embedding(decode_key(row.key), model_version, row) for row in page]

    # Shoppers.

    def read_recent(self, user_ids: Iterable[str]) -> dict[str, UserRecent]:
        """Read the recent products of shoppers by id; unknown shoppers are absent, forgotten shoppers have none."""
        keys = {encode_key(user_id, USER_KEY): user_id for user_id in user_ids}
        view = self._views[USER_VIEW]
        (stored,) = self.online.read(self.config, [(view, payload_columns(view))], keys)
        return {keys[key]: user_recent(keys[key], row) for key, row in stored.items()}

    def add_engagements(self, engagements: Iterable[Engagement]) -> int:
        """Add engagements to their shoppers' lists, in any order and any number of times.

        A writer writes a changed list under the next version. If another writer was quicker, the store refuses the
        list, and this method reads and merges it again. So no writer loses an engagement of another writer.

        Returns:
            The number of lists that changed.

        Raises:
            InvalidFeatureError: An engagement breaks a rule. Nothing was written.
            StoreBusyError: Some lists may not have been written; adding the same engagements again is safe.
            HistoryError: Some lists may not have been written; adding the same engagements again is safe.
        """
        pending = recent.by_user(engagements)
        changed = 0
        for attempt in range(_TRIES):
            if not pending:
                return changed
            if attempt:  # a random pause, so that the same writers do not collide again
                time.sleep(_PAUSE_S * random.uniform(0, min(attempt, 10)))
            stored = self.read_recent(pending)
            lists = [recent.merged(stored.get(user_id), new) for user_id, new in pending.items()]
            newer = [row for row in lists if row is not None]
            refused = self._write([USER_VIEW], newer, equal=False)
            changed += len(newer) - len(refused)
            pending = {user_id: new for user_id, new in pending.items() if user_id in refused}
        raise StoreBusyError(
            f"Other writers changed the lists of {len(pending)} shoppers {_TRIES} times in a row: add the engagements "
            "again."
        )

    def forget_users(self, user_ids: Iterable[str], event_time: datetime) -> int:
        """Empty these shoppers' lists: engagements before `event_time` are not added again.

        The parts of the history keep the old lists until they are removed.

        Returns:
            The number of shoppers who had a list.

        Raises:
            InvalidFeatureError: `event_time` has no zone.
        """
        stored = {id: row for id, row in self.read_recent(user_ids).items() if not row.deleted}
        deletions = [Deletion(id=id, version=row.version + 1, event_time=event_time) for id, row in stored.items()]
        for deletion in deletions:
            rows.check_identity(deletion)
        refused = self._write([USER_VIEW], deletions)
        return len(deletions) + (self.forget_users(refused, event_time) - len(refused) if refused else 0)

    # Views and their history.

    def history(self, view_name: str) -> History:
        """Return the history of a view by its full name."""
        return history_of(self.home, view_name)

    def view_names(self) -> list[str]:
        """Return the names of all views that have a history or a table."""
        versions = {*self.model_versions(), *definitions.model_versions_in_history(self.home)}
        return [*FIXED_VIEWS, *map(definitions.embedding_view_name, sorted(versions))]

    def compact(self) -> dict[str, int]:
        """Merge the small parts of every view's history; wait while another process does so.

        Returns:
            The number of merged parts by view.

        Raises:
            HistoryError: A part cannot be read or written; no row is lost.
        """
        names = [*FIXED_VIEWS, *self.online.tables(self.config, definitions.EMBEDDING_PREFIX)]
        with compaction_lock(self.home):
            return {name: compact(self.history(name)) for name in names}

    # Inside.

    def _product_columns(self) -> list[ViewColumns]:
        return [(self._views[name], payload_columns(self._views[name])) for name in PRODUCT_VIEWS]

    def _write(
        self, names: Sequence[str], newest: Sequence[Row], advance: Sequence[str] = (), *, equal: bool = True
    ) -> set[str]:
        """Write rows of different ids to these views, and return the ids that were refused.

        The history is written first: the online store can always be rebuilt from it, and writing twice changes nothing.
        """
        if not newest:
            return set()
        online, created = self.online, datetime.now(UTC)
        histories = {name: self.history(name) for name in names}
        encoded = {name: encode(name, newest, history.schema, created) for name, history in histories.items()}
        for name, history in histories.items():
            history.append(encoded[name].history)
        batches: list[ViewRows] = [(self.view(name), form.online) for name, form in encoded.items()]
        refused = online.write(self.config, batches, [self.view(name) for name in advance], equal=equal)
        for view, written in batches:
            online.written(view, written)
        return {
            decode_key(key, history.key)
            for keys, history in zip(refused, histories.values(), strict=True)
            for key in keys
        }

    def _embedding_view(self, model_version: str) -> FeatureView:
        name = definitions.embedding_view_name(model_version)
        if name not in self._views and name not in self.online.tables(self.config, name):
            existing = ", ".join(self.model_versions()) or "none"
            raise UnknownModelVersionError(
                f"Model version {model_version!r} has no embedding view (existing model versions: {existing}): make it "
                "with ensure_model_version."
            )
        return self.view(name)

    def _live_pages(self, limit: int) -> Iterator[list[str]]:
        for page in self._pages(self._views[TEXT_VIEW], (), limit):
            yield [decode_key(row.key) for row in page]

    def _pages(self, view: FeatureView, columns: Sequence[str], limit: int) -> Iterator[list[OnlineRow]]:
        after = b""
        while page := self.online.page(self.config, view, columns, after, limit):
            yield page
            after = page[-1].key


def _newest(products: Sequence[_Row]) -> list[_Row]:
    """Return one row per id: the newest version, and the last row of equal versions."""
    newest: dict[str, _Row] = {}
    for row in products:
        if row.id not in newest or row.version >= newest[row.id].version:
            newest[row.id] = row
    return list(newest.values())
