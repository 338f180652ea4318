from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feature_repo.definitions import FIXED_VIEWS, OFFER_VIEW
from feature_repo.history.writer import history_of
from feature_repo.opening import add_model_version, open_feast
from tests.feature_repo.builders import make_embedding, make_product, same


def test_opening_again_finds_everything_and_applies_nothing(
    open_store: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_store()
    first.ensure_model_version("m1")
    first.write_features([make_product("a")])
    first.close()
    monkeypatch.setattr("feast.FeatureStore.apply", lambda *_: pytest.fail("applied again"))
    second = open_store()
    assert same(second.read_features("a")["a"], make_product("a"))
    assert second.model_versions() == ["m1"]


@pytest.mark.parametrize("lost", ["registry.db", "online.db"])
def test_opening_after_a_loss_makes_tables_and_registry_again(open_store: Callable[[], Any], lost: str) -> None:
    first = open_store()
    first.ensure_model_version("m1")
    first.close()
    for path in first.home.glob(f"{lost}*"):
        path.unlink()
    second = open_store()
    second.write_features([make_product("a")])
    second.write_embeddings("m1", [make_embedding("a")])
    names = {view.name for view in second.feast.list_feature_views()}
    assert names == {*FIXED_VIEWS, "product_embedding_m1"}


def test_a_new_folder_has_a_history_a_table_and_a_registered_view_of_every_kind(tmp_path: Path) -> None:
    home, store = open_feast(tmp_path)
    assert home == tmp_path.resolve() / "feast"
    assert {view.name for view in store.list_feature_views()} == set(FIXED_VIEWS)
    assert set(FIXED_VIEWS) <= set(store.provider.online_store.tables(store.config, ""))
    for name in FIXED_VIEWS:
        assert len(history_of(home, name).parts()) == 1, "an empty part"
    add_model_version(home, store, "m1")
    assert "product_embedding_m1" in {view.name for view in store.list_feature_views()}
    assert history_of(home, "product_embedding_m1").parts()
    assert history_of(home, OFFER_VIEW).key == "product_id"
    store.provider.online_store.disconnect()
    for engine in (store.registry.write_engine, store.registry.read_engine):
        engine.dispose()
