"""The one door to product features and embeddings for the rest of Sagelift.

    store = ProductFeatureStore.open(Path(".sagelift"))
    store.write_features([ProductFeatures(id="a1", version=1, event_time=now, ...)])
    store.read_features(["a1"])

Everything goes through Feast's extension points: views and services are in its registry, the online store is the one
that `feature_store.yaml` names, and what is written here is read by `get_online_features`, `get_historical_features`
and `materialize`. Importing this module imports Feast, which takes seconds: import it inside functions.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from feast import FeatureStore

from feature_repo import definitions, recent, repository, rows, views
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
from feature_repo.history import writer as history
from feature_repo.history.as_of import known_rows
from feature_repo.jobs.shards import ShardJob
from feature_repo.recent import Engagement, UserRecent
from feature_repo.rows import Deletion, EmbeddingState, OfferRow, ProductEmbedding, ProductFeatures
from feature_repo.stores.base import GuardedOnlineStore, OnlineRow, payload_columns
from feature_repo.times import to_microseconds
from feature_repo.values import decode_key, decode_string, encode_key

ALL_VIEWS: Final = ("text", "images", "offer")
_VIEW_OF: Final = {"text": TEXT_VIEW, "images": IMAGES_VIEW, "offer": OFFER_VIEW}
_PAGE: Final = 4096
_PAUSE_S: Final = 0.01
_TRIES: Final = 20  # times that others may change the same shoppers' lists first


class ProductFeatureStore:
    """Features and embeddings of products, newest version first and last. Safe to share between threads."""

    def __init__(self, home: Path, feast_store: Any) -> None:
        """Use `open`."""
        self.home = home
        self.feast = feast_store
        self._config = feast_store.config
        self._views = {name: definitions.view_named(home, name) for name in FIXED_VIEWS}
        self._closed = False

    @classmethod
    def open(cls, state_dir: Path) -> Self:
        """The store below `<state_dir>/feast`, made if it is not there; its definitions are applied if they differ.

        A registry with newer definitions than this program's is used as it is: see `repository.must_apply`.

        Raises:
            StoreStateError: the folder cannot be used or written, holds another kind of store, or a registry of another
                version that cannot be used.
        """
        home = repository.write_repository(state_dir)
        with repository.apply_lock(home):  # Feast itself makes the registry's tables without one
            with repository.readable_registry(home):
                feast_store = FeatureStore(repo_path=str(home), fs_yaml_file=home / "feature_store.yaml")
                feast_store.registry  # noqa: B018  # opened now, where its errors are understood
            store = cls(home, feast_store)
            if store._must_apply():
                store._apply()
        if not set(FIXED_VIEWS) <= set(store._online.tables(store._config, "")):
            store._make_tables()
        return store

    def close(self) -> None:
        """Close all connections; the store cannot be used afterwards."""
        self._closed = True
        self.feast.provider.online_store.disconnect()
        for engine in (self.feast.registry.write_engine, self.feast.registry.read_engine):
            engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Features.

    def read_features(self, ids: Iterable[str]) -> dict[str, ProductFeatures]:
        """Features by id, of one moment. Ids never written are absent; deleted ones are there with `deleted=True`."""
        ids = list(dict.fromkeys(ids))
        keys = [encode_key(product_id) for product_id in ids]
        found = self._online.read(self._config, self._product_columns(), keys)
        products = {
            product_id: views.product_features(product_id, *(rows.get(key) for rows in found))
            for product_id, key in zip(ids, keys, strict=True)
        }
        return {product_id: product for product_id, product in products.items() if product is not None}

    def write_features(self, products: Sequence[ProductFeatures], views: Sequence[str] = ALL_VIEWS) -> set[str]:
        """Write the named views of these products: a part of history each, then online in one transaction.

        A view that is not named keeps its features and follows in version, so that an older update cannot pass it
        later. A product that is new, or back after a deletion, needs all three views. Of rows that share an id the
        newest is written, of equal versions the last.

        Returns:
            ids that were refused, because the store holds a newer version of them.

        Raises:
            InvalidFeatureError: a row breaks a rule; nothing was written.
            StoreBusyError, HistoryError: nothing was written online; writing again is safe.
        """
        if unknown := set(views) - set(ALL_VIEWS):
            raise InvalidFeatureError(f"Unknown views {sorted(unknown)}: choose from {', '.join(ALL_VIEWS)}.")
        rows.check_features(products, views)
        names = [_VIEW_OF[view] for view in dict.fromkeys(views)]
        return self._write(names, _newest(products), [n for n in PRODUCT_VIEWS if n not in names])

    def versions(self, ids: Iterable[str]) -> dict[str, int]:
        """Versions by id, of deleted products too; ids never written are absent."""
        keys = {encode_key(product_id): product_id for product_id in ids}
        (found,) = self._online.read(self._config, [(self._views[OFFER_VIEW], ())], keys)
        return {keys[key]: row.version for key, row in found.items()}

    def read_offers(self, ids: Iterable[str]) -> dict[str, OfferRow]:
        """Price, availability and version by id, many times faster than all features; absent and deleted as there."""
        keys = {encode_key(product_id): product_id for product_id in ids}
        view = self._views[OFFER_VIEW]
        (found,) = self._online.read(self._config, [(view, payload_columns(view))], keys)
        return {keys[key]: views.product_offer(keys[key], row) for key, row in found.items()}

    def write_offers(self, offers: Sequence[OfferRow]) -> set[str]:
        """As `write_features` of the offer view alone."""
        rows.check_offers(offers)
        return self._write([OFFER_VIEW], _newest(offers), [TEXT_VIEW, IMAGES_VIEW])

    def delete(self, deletions: Sequence[Deletion]) -> set[str]:
        """Put tombstones into every view, those of all model versions included; ids that were refused as stale."""
        for deletion in deletions:
            rows.check_identity(deletion)
        names = [*PRODUCT_VIEWS, *self._online.tables(self._config, definitions.EMBEDDING_PREFIX)]
        return self._write(names, _newest(deletions))

    def product_ids(self) -> Iterator[str]:
        """Ids of all live products, page by page; products written meanwhile may or may not be among them."""
        for page in self._live_pages(_PAGE):
            yield from page

    def scan_features(self, batch: int = 512) -> Iterator[list[ProductFeatures]]:
        """All live products in lists of up to `batch`, each list as of one moment."""
        for page in self._live_pages(batch):
            products = [product for product in self.read_features(page).values() if not product.deleted]
            if products:
                yield products

    def rows_as_of(self, view_name: str, at: datetime, columns: Sequence[str]) -> Iterator[Any]:
        """The live rows of a view as known at a moment, from its history: Arrow tables of these columns, in bounded
        memory. `at` is aware. Products that were deleted by then have none. Compaction waits until all are read.

        Raises:
            InvalidFeatureError: `at` has no zone.
            HistoryError: a part cannot be read.
        """
        if at.utcoffset() is None:
            raise InvalidFeatureError(f"The moment {at.isoformat()} has no time zone: add one, such as Z for UTC.")
        past, view = self.history(view_name), self._view(view_name)
        job = ShardJob(self._config, view, past.schema, equal=False, batch_rows=history.GROUP_ROWS, online=self._online)
        with repository.compaction_lock(self.home):
            for shard in known_rows(past.parts(), job.key, to_microseconds(at), history.GROUP_ROWS):
                yield job.read(shard, columns)

    # Embeddings.

    def ensure_model_version(self, model_version: str) -> None:
        """Make and register the view of this model version, if it is not there.

        Raises:
            InvalidFeatureError: the name cannot be that of a view.
        """
        name = definitions.embedding_view_name(model_version)
        if name not in self._online.tables(self._config, name):
            with repository.apply_lock(self.home):
                self._apply_embedding(model_version)

    def model_versions(self) -> list[str]:
        """Model versions that have a view, whoever made it, sorted."""
        names = self._online.tables(self._config, definitions.EMBEDDING_PREFIX)
        return [name.removeprefix(definitions.EMBEDDING_PREFIX) for name in names]

    def read_embeddings(self, model_version: str, ids: Iterable[str]) -> dict[str, ProductEmbedding]:
        """Embeddings by id. Ids never written are absent; deleted ones are there with `deleted=True`.

        Raises:
            UnknownModelVersionError: this model version has no view.
        """
        view = self._embedding_view(model_version)
        keys = {encode_key(product_id): product_id for product_id in ids}
        (found,) = self._online.read(self._config, [(view, payload_columns(view))], keys)
        return {keys[key]: views.product_embedding(keys[key], model_version, row) for key, row in found.items()}

    def embedding_states(self, model_version: str, ids: Iterable[str]) -> dict[str, EmbeddingState]:
        """What the stored embeddings are of, without their vectors; ids never written are absent.

        Raises:
            UnknownModelVersionError: this model version has no view.
        """
        view = self._embedding_view(model_version)
        keys = {encode_key(product_id): product_id for product_id in ids}
        (found,) = self._online.read(self._config, [(view, ("content_hash",))], keys)
        return {
            keys[key]: EmbeddingState(row.version, decode_string(row.values[0]), row.deleted)
            for key, row in found.items()
        }

    def write_embeddings(self, model_version: str, embeddings: Sequence[ProductEmbedding]) -> set[str]:
        """Write embeddings: a part of history, then online; ids that were refused as stale.

        Raises:
            UnknownModelVersionError: this model version has no view: call `ensure_model_version` first.
            InvalidFeatureError: a row breaks a rule; nothing was written.
        """
        view = self._embedding_view(model_version)
        rows.check_embeddings(embeddings, model_version)
        return self._write([view.name], _newest(embeddings))

    def scan_embeddings(self, model_version: str, batch: int = 4096) -> Iterator[list[ProductEmbedding]]:
        """All live embeddings of one model version in lists of up to `batch`: what an index is built from.

        Raises:
            UnknownModelVersionError: this model version has no view.
        """
        view = self._embedding_view(model_version)
        for page in self._pages(view, payload_columns(view), batch):
            yield [views.product_embedding(decode_key(row.key), model_version, row) for row in page]

    # Shoppers.

    def read_recent(self, user_ids: Iterable[str]) -> dict[str, UserRecent]:
        """What these shoppers engaged with lately, by id; unknown ones are absent, forgotten ones have no products."""
        keys = {encode_key(user_id, USER_KEY): user_id for user_id in user_ids}
        view = self._views[USER_VIEW]
        (found,) = self._online.read(self._config, [(view, payload_columns(view))], keys)
        return {keys[key]: views.user_recent(keys[key], row) for key, row in found.items()}

    def add_engagements(self, engagements: Iterable[Engagement]) -> int:
        """Put engagements into their shoppers' lists, in any order and any number of times; how many lists changed.

        Whoever changes a list writes it under the next version, and is refused when another was quicker: then it is
        read and merged again. So no engagement is lost between writers.

        Raises:
            InvalidFeatureError: an engagement breaks a rule; nothing was written.
            StoreBusyError, HistoryError: some lists may not have been written; adding the same again is safe.
        """
        pending = recent.by_user(engagements)
        changed = 0
        for attempt in range(_TRIES):
            if not pending:
                return changed
            if attempt:  # those that met part ways
                time.sleep(_PAUSE_S * random.uniform(0, min(attempt, 10)))
            stored = self.read_recent(pending)
            lists = [recent.merged(stored.get(user_id), new) for user_id, new in pending.items()]
            newer = [row for row in lists if row is not None]
            refused = self._write([USER_VIEW], newer, equal=False)
            changed += len(newer) - len(refused)
            pending = {user_id: new for user_id, new in pending.items() if user_id in refused}
        raise StoreBusyError(
            f"Others changed the lists of {len(pending)} shoppers {_TRIES} times in a row: add the engagements again."
        )

    def forget_users(self, user_ids: Iterable[str], event_time: datetime) -> int:
        """Empty these shoppers' lists for good: no engagement before `event_time` comes back; how many had a list.

        Their past stays in the history's parts until those are removed.

        Raises:
            InvalidFeatureError: `event_time` has no zone.
        """
        stored = {id: row for id, row in self.read_recent(user_ids).items() if not row.deleted}
        gone = [Deletion(id=id, version=row.version + 1, event_time=event_time) for id, row in stored.items()]
        for deletion in gone:
            rows.check_identity(deletion)
        refused = self._write([USER_VIEW], gone)
        return len(gone) + (self.forget_users(refused, event_time) - len(refused) if refused else 0)

    def history(self, view_name: str) -> history.History:
        """The history of one view, by the view's full name."""
        form = views.format_of(view_name)
        return history.History(definitions.history_folder(self.home, view_name), history.schema(form.types, form.key))

    def view_names(self) -> list[str]:
        """Every view with a history or a table."""
        versions = {*self.model_versions(), *definitions.model_versions_in_history(self.home)}
        return [*FIXED_VIEWS, *map(definitions.embedding_view_name, sorted(versions))]

    def compact(self) -> dict[str, int]:
        """Merge the small parts of every view's history; by view, how many were merged. One at a time, others wait.

        Raises:
            HistoryError: a part cannot be read or written; no row is lost.
        """
        names = [*FIXED_VIEWS, *self._online.tables(self._config, definitions.EMBEDDING_PREFIX)]
        with repository.compaction_lock(self.home):
            return {name: self.history(name).compact() for name in names}

    # Inside.

    @property
    def _online(self) -> GuardedOnlineStore:
        if self._closed:
            raise StoreStateError("This feature store is closed: open it again.")
        online: GuardedOnlineStore = self.feast.provider.online_store
        return online

    def _product_columns(self) -> list[tuple[Any, tuple[str, ...]]]:
        return [(self._views[name], payload_columns(self._views[name])) for name in PRODUCT_VIEWS]

    def _write(
        self, names: Sequence[str], newest: Sequence[Any], advance: Sequence[str] = (), *, equal: bool = True
    ) -> set[str]:
        """History first: what is online can always be rebuilt from it, and writing twice changes nothing."""
        if not newest:
            return set()
        online, created, batches = self._online, datetime.now(UTC), []
        forms = {name: views.format_of(name) for name in names}
        for name, form in forms.items():
            batches.append((self._view(name), [views.online_row(form, row) for row in newest]))
        for name, form in forms.items():
            past = self.history(name)
            past.append(views.history_table(form, past.schema, newest, created))
        stale = online.write(self._config, batches, [self._view(name) for name in advance], equal=equal)
        for view, written in batches:
            online.written(view, written)
        return {decode_key(key, form.key) for keys, form in zip(stale, forms.values(), strict=True) for key in keys}

    def _view(self, name: str) -> Any:
        if name not in self._views:
            self._views[name] = definitions.view_named(self.home, name)
        return self._views[name]

    def _embedding_view(self, model_version: str) -> Any:
        name = definitions.embedding_view_name(model_version)
        if name not in self._views and name not in self._online.tables(self._config, name):
            known = ", ".join(self.model_versions()) or "none yet"
            raise UnknownModelVersionError(
                f"Model version {model_version!r} has no embedding view (there are: {known}): make it with "
                "ensure_model_version."
            )
        return self._view(name)

    def _live_pages(self, limit: int) -> Iterator[list[str]]:
        for page in self._pages(self._views[TEXT_VIEW], (), limit):
            yield [decode_key(row.key) for row in page]

    def _pages(self, view: Any, columns: Sequence[str], limit: int) -> Iterator[list[OnlineRow]]:
        after = b""
        while page := self._online.page(self._config, view, columns, after, limit):
            yield page
            after = page[-1].key

    def _must_apply(self) -> bool:
        needed = [self._views[name] for name in FIXED_VIEWS]
        return repository.must_apply(self.feast, self.home, definitions.project_tags(self.home), needed)

    def _apply(self) -> None:
        for name in FIXED_VIEWS:
            self.history(name).create()
        with warnings.catch_warnings():
            # Its online half, which we use, is not what the warning is about.
            warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
            self.feast.apply(definitions.feast_objects(self.home, definitions.model_versions_in_history(self.home)))

    def _make_tables(self) -> None:
        """As `_apply` does, in an online store that is new or was lost; the registry is right."""
        models = map(definitions.embedding_view_name, definitions.model_versions_in_history(self.home))
        self._online.update(self._config, [], [self._view(name) for name in (*FIXED_VIEWS, *models)], [], [], False)

    def _apply_embedding(self, model_version: str) -> None:
        view = definitions.embedding_view(self.home, model_version)
        self.history(view.name).create()
        service = definitions.retrieval_service(self._views[OFFER_VIEW], view)
        self.feast.apply([definitions.product, view, service])


def _newest(products: Sequence[Any]) -> list[Any]:
    """Of rows that share an id the one of the newest version, of equal versions the last."""
    kept: dict[str, Any] = {}
    for row in products:
        if row.id not in kept or row.version >= kept[row.id].version:
            kept[row.id] = row
    return list(kept.values())
