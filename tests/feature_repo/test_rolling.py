"""A rollout of other definitions or another model: programs of two versions read and write at once."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Field
from feast.types import String

from feature_repo import definitions, values, views
from feature_repo.definitions import OFFER_VIEW
from feature_repo.errors import StoreStateError
from feature_repo.history.compaction import compact
from feature_repo.jobs.materialize import materialize
from tests.feature_repo.builders import NOON, make_embedding, make_product, same

# Feast reads Parquet through ibis, which calls what DuckDB 2.0 deprecates.
_IBIS = pytest.mark.filterwarnings("ignore:fetch_:DeprecationWarning")

PRODUCT_VIEWS = definitions.product_views


@contextmanager
def next_release() -> Iterator[None]:
    """The next version of the program, in this process: offers have a `condition`, which is 'new' for every product."""
    form = views.PRODUCT_FORMATS[OFFER_VIEW]
    wider = form._replace(
        types={**form.types, "condition": pa.string()},
        encode=lambda row: [*form.encode(row), values.encode_string("new")],
        columns=lambda rows: [*form.columns(rows), pa.array([row and "new" for row in rows], pa.string())],
    )

    def product_views(home: Path) -> Any:
        text, images, offer = PRODUCT_VIEWS(home)
        features = [feature for feature in offer.features if feature.name not in ("version", "deleted")]
        condition = Field(name="condition", dtype=String)
        return [text, images, definitions.view(home, OFFER_VIEW, offer.description, [*features, condition])]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "DEFINITIONS_VERSION", definitions.DEFINITIONS_VERSION + 1)
        patch.setattr(definitions, "product_views", product_views)
        patch.setitem(views.PRODUCT_FORMATS, OFFER_VIEW, wider)
        patch.setitem(views.FIXED_FORMATS, OFFER_VIEW, wider)
        yield


def tags(store: Any) -> Any:
    return store.feast.registry.get_project(definitions.PROJECT, allow_cache=False).tags


def online(store: Any, feature: str, ids: str) -> list[Any]:
    store.feast.refresh_registry()
    rows = [{"product_id": id} for id in ids]
    return list(store.feast.get_online_features(features=[feature], entity_rows=rows).to_dict()[feature.split(":")[1]])


class Reader:
    """Reads in its own thread until it is closed, like a program that was started before the rollout."""

    def __init__(self, read: Callable[[], object]) -> None:
        self.count, self.errors, self._stop = 0, list[BaseException](), threading.Event()
        self._read = read
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._read()
                self.count += 1
        except BaseException as error:
            self.errors.append(error)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self.errors, self.errors
        assert self.count > 5, "it did read"


@_IBIS
def test_a_new_feature_is_rolled_out_while_the_old_program_reads_and_writes(open_store: Callable[[], Any]) -> None:
    old = open_store()
    old.write_features([make_product(id, 1) for id in "abc"])

    def read() -> None:
        products = old.read_features("abc")
        assert {id: product.currency for id, product in products.items()} == dict.fromkeys("abc", "EUR")
        assert set(online(old, "product_offer:amount_minor", "ab")) <= {100, 200, 300}

    reader = Reader(read)
    try:
        with next_release():
            new = open_store()
            assert tags(new)["definitions_version"] == str(definitions.DEFINITIONS_VERSION)
            assert online(new, "product_offer:condition", "abc") == [None, None, None], "not written yet"
            new.write_features([make_product("a", 2)])
            assert online(new, "product_offer:condition", "abc") == ["new", None, None]
        # The old program continues, and is even started again; it does not replace the newer definitions.
        again = open_store()
        assert tags(again)["definitions_version"] == str(definitions.DEFINITIONS_VERSION + 1)
        assert again.write_features([make_product("c", 2)]) == set()
        assert same(again.read_features("a")["a"], make_product("a", 2))
        assert online(again, "product_offer:condition", "ac") == ["new", None]
        with next_release():
            new.write_features([make_product(id, 3) for id in "bc"])
            assert online(new, "product_offer:condition", "abc") == ["new"] * 3
    finally:
        reader.close()
    with next_release():
        # Either program reads, joins, merges and materializes the history of both.
        rows = new.history(OFFER_VIEW).read(["product_id", "version", "condition"]).to_pylist()
        assert {(row["product_id"], row["version"]): row["condition"] for row in rows} == {
            **{(id, 1): None for id in "abc"},
            ("a", 2): "new",
            ("c", 2): None,
            **{(id, 3): "new" for id in "bc"},
        }
        labels = pd.DataFrame(
            {"product_id": ["a", "b"], "event_timestamp": [pd.Timestamp(NOON + timedelta(days=1))] * 2}
        )
        joined = new.feast.get_historical_features(labels, ["product_offer:condition", "product_offer:version"]).to_df()
        products = {row.product_id: (row.condition, row.version) for row in joined.itertuples()}
        assert products == {"a": ("new", 2), "b": ("new", 3)}
    assert len(old.history(OFFER_VIEW).read()) == 7
    assert materialize(old, full=True).exit_code == 0
    assert online(old, "product_offer:condition", "abc") == ["new"] * 3


def test_an_old_program_does_not_merge_parts_whose_features_it_would_lose(open_store: Callable[[], Any]) -> None:
    old = open_store()
    old.write_features([make_product("a", 1)])
    old.write_features([make_product("a", 2)])
    with next_release():
        new = open_store()
        new.write_features([make_product("a", 3)])
        new.write_features([make_product("a", 4)])
    assert compact(old.history(OFFER_VIEW), grace_s=-1) == 3, "the first, empty part and its own two"
    with next_release():
        assert new.history(OFFER_VIEW).read(["condition"])["condition"].to_pylist() == [None, None, "new", "new"]
        assert compact(new.history(OFFER_VIEW), grace_s=-1) == 4
        assert new.history(OFFER_VIEW).read(["condition"])["condition"].to_pylist() == [None, None, "new", "new"]


def test_a_new_model_is_filled_while_the_old_one_is_read(open_store: Callable[[], Any]) -> None:
    store, other = open_store(), open_store()
    store.ensure_model_version("m1")
    before = {id: make_embedding(id, 1, "m1") for id in "abc"}
    store.write_embeddings("m1", list(before.values()))

    def read() -> None:
        embeddings = store.read_embeddings("m1", "abc")
        assert all(same(embeddings[id], before[id]) for id in "abc")
        assert online(store, "product_embedding_m1:content_hash", "a") == [before["a"].content_hash]

    reader = Reader(read)
    try:
        other.ensure_model_version("m2")
        for id in "abc":
            other.write_embeddings("m2", [make_embedding(id, 7, "m2")])
        service = store.feast.get_feature_service("retrieval_m2", allow_cache=False)
        embeddings = store.feast.get_online_features(service, [{"product_id": id} for id in "abc"]).to_dict()
        assert embeddings["model_version"] == ["m2"] * 3
        assert store.model_versions() == ["m1", "m2"]
    finally:
        reader.close()


# Registries of other versions.


def test_definitions_of_an_older_program_are_replaced(open_store: Callable[[], Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "DEFINITIONS_VERSION", definitions.DEFINITIONS_VERSION - 1)
        patch.setattr(definitions, "OWNER", "somebody else")
        old = open_store()
    assert tags(old)["definitions_version"] == str(definitions.DEFINITIONS_VERSION - 1)
    assert tags(open_store()) == definitions.project_tags(old.home)


def test_newer_definitions_that_lack_a_needed_feature_are_an_error_that_names_it(
    open_store: Callable[[], Any],
) -> None:
    def narrower(home: Path) -> Any:
        text, images, offer = PRODUCT_VIEWS(home)
        kept = [f for f in offer.features if f.name in ("amount_minor", "availability")]
        return [text, images, definitions.view(home, OFFER_VIEW, offer.description, kept)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "DEFINITIONS_VERSION", 9)
        patch.setattr(definitions, "product_views", narrower)
        open_store()
    with pytest.raises(StoreStateError, match=r"version 9 .*product_offer has no currency .*update this program"):
        open_store()


def test_the_error_for_a_registry_of_another_feast_has_a_remedy_that_works(
    open_store: Callable[[], Any],
) -> None:
    """The table lacks a column that this version of Feast reads."""
    store = open_store()
    store.write_features([make_product("a")])
    store.close()
    path = store.home / "registry.db"
    with sqlite3.connect(path) as connection:
        connection.execute("alter table projects rename column project_proto to proto")
    connection.close()
    with pytest.raises(StoreStateError, match="another version wrote it") as caught:
        open_store()
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    path.unlink()
    assert same(open_store().read_features("a")["a"], make_product("a"))


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_registry_is_named(open_store: Callable[[], Any], content: bytes) -> None:
    store = open_store()
    store.close()
    for path in store.home.glob("registry.db*"):
        path.unlink()
    (store.home / "registry.db").write_bytes(content)
    with pytest.raises(StoreStateError, match=re.escape(str(store.home / "registry.db"))):
        open_store()
    assert (store.home / "registry.db").read_bytes() == content
