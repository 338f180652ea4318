"""Opening the store's folder: Feast's files, the registry with this program's definitions, histories and tables."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import cast

from feast import FeatureStore

from feature_repo import definitions, profile, registry
from feature_repo.definitions import FIXED_VIEWS, OFFER_VIEW
from feature_repo.history.writer import history_of
from feature_repo.locks import apply_lock
from feature_repo.stores.base import GuardedOnlineStore


def open_feast(state_dir: Path) -> tuple[Path, FeatureStore]:
    """Open the store below `<state_dir>/feast`; make it, or apply this program's definitions, where needed.

    A registry with newer definitions than this program's is used as it is: see `registry.must_apply`.

    Returns:
        The absolute folder of the store, and Feast's store over it.

    Raises:
        StoreStateError: The folder cannot be used or written, holds another kind of store, or holds a registry of
            another version that cannot be used.
    """
    home = profile.write_repository(state_dir)
    with apply_lock(home):  # Feast itself makes the registry's tables without a lock
        with registry.readable_registry(home):
            store = FeatureStore(repo_path=str(home), fs_yaml_file=home / "feature_store.yaml")
            store.registry  # noqa: B018  # opened here, where `readable_registry` handles its errors
        needed = [definitions.view_named(home, name) for name in FIXED_VIEWS]
        if registry.must_apply(store, home, definitions.project_tags(home), needed):
            _apply_definitions(home, store)
    _make_missing_tables(home, store)
    return home, store


def add_model_version(home: Path, store: FeatureStore, model_version: str) -> None:
    """Make and register the view of a model version."""
    with apply_lock(home):
        view = definitions.embedding_view(home, model_version)
        history_of(home, view.name).create()
        service = definitions.retrieval_service(definitions.view_named(home, OFFER_VIEW), view)
        store.apply([definitions.product, view, service])


def _apply_definitions(home: Path, store: FeatureStore) -> None:
    for name in FIXED_VIEWS:
        history_of(home, name).create()
    with warnings.catch_warnings():
        # The warning is about writing to such a view; Sagelift only reads it online.
        warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
        store.apply([*definitions.feast_objects(home, definitions.model_versions_in_history(home))])


def _make_missing_tables(home: Path, store: FeatureStore) -> None:
    """Make the tables in an online store that is new or was lost; the registry has their views."""
    online = cast(GuardedOnlineStore, store.provider.online_store)
    if set(FIXED_VIEWS) <= set(online.tables(store.config, "")):
        return
    models = map(definitions.embedding_view_name, definitions.model_versions_in_history(home))
    needed = [definitions.view_named(home, name) for name in (*FIXED_VIEWS, *models)]
    online.update(store.config, [], needed, [], [], False)
