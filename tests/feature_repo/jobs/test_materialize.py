"""From any state of the online store, a run leaves the newest rows of both sides there and reports the difference."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.errors import InvalidFeatureError
from feature_repo.history.compaction import compact
from feature_repo.jobs.materialize import Progress, materialize
from feature_repo.locks import run_lock
from feature_repo.recent import Engagement
from feature_repo.rows import Deletion, OfferRow
from feature_repo.store import ProductFeatureStore
from feature_repo.times import to_microseconds
from feature_repo.views import PRODUCT_FORMATS, online_row
from tests.feature_repo.builders import NOON, event_time, make_embedding, make_product, same
from tests.feature_repo.jobs.builders import OFFERS, offers, online_versions, only, run

Open = Callable[[], ProductFeatureStore]


def lose_online(store: ProductFeatureStore) -> None:
    store.feast.provider.online_store.disconnect()
    for path in store.home.glob("online.db*"):
        path.unlink()


def test_a_lost_online_store_is_rebuilt_as_it_was(open_store: Open) -> None:
    """All views, with several versions, deletions, and a model version."""
    store = open_store()
    store.ensure_model_version("m1")
    for version in (1, 2):
        store.write_features([make_product(f"p{i}", version, images=i % 3) for i in range(40)])
    store.write_embeddings("m1", [make_embedding(f"p{i}", 2) for i in range(40)])
    store.delete([Deletion(id="p3", version=5, event_time=NOON)])
    store.add_engagements(Engagement(f"u{i}", f"p{i}", to_microseconds(NOON)) for i in range(40))
    ids, users = [f"p{i}" for i in range(40)], [f"u{i}" for i in range(40)]
    features, embeddings, recent = store.read_features(ids), store.read_embeddings("m1", ids), store.read_recent(users)
    lose_online(store)
    rebuilt = open_store()
    assert rebuilt.read_features(ids) == {}
    summary = materialize(rebuilt, shard_rows=16)
    assert summary.exit_code == 0
    assert [view.view for view in summary.views] == [
        "product_text",
        "product_images",
        "product_offer",
        "user_recent",
        "product_embedding_m1",
    ]
    for view in summary.views:
        assert (view.products, view.written, view.kept) == (40, 40, 0)
        assert view.reconciliation is not None
        assert (view.reconciliation.equal, view.reconciliation.online_rows, view.reconciliation.shards) == (40, 40, 3)
    after = rebuilt.read_features(ids)
    assert all(same(after[id], features[id]) for id in ids)
    assert all(same(row, embeddings[id]) for id, row in rebuilt.read_embeddings("m1", ids).items())
    assert rebuilt.read_recent(users) == recent


def test_the_newest_version_of_each_product_counts_in_any_part_and_at_any_time(store: ProductFeatureStore) -> None:
    offers(store, {"a": 3, "b": 1}, event_time=NOON)
    offers(store, {"a": 2, "b": 5, "c": 1}, event_time=NOON - timedelta(days=1))
    offers(store, {"b": 4}, event_time=NOON + timedelta(days=9))
    summary = run(store)
    assert (summary.history_rows, summary.products, summary.written) == (6, 3, 3)
    assert online_versions(store, "abc") == {"a": 3, "b": 5, "c": 1}


def test_the_last_row_of_equal_versions_counts(store: ProductFeatureStore) -> None:
    for currency in ("EUR", "USD", "SEK"):
        offers(store, {"a": 1}, currency=currency)
    run(store)
    assert store.read_offers("a")["a"].currency == "SEK"


def test_fresher_values_stay_and_are_counted(store: ProductFeatureStore) -> None:
    store.write_features([make_product("fresh", 9), make_product("same", 1), make_product("stale", 1)])
    for part in store.history(OFFERS).parts():
        part.unlink()
    offers(store, {"fresh": 5, "same": 1, "stale": 2})
    summary = run(store)
    assert (summary.outcome, summary.written, summary.kept) == ("done", 1, 2)
    assert summary.reconciliation is not None
    assert (summary.reconciliation.equal, summary.reconciliation.fresher) == (2, 1)
    assert online_versions(store, ["fresh", "same", "stale"]) == {"fresh": 9, "same": 1, "stale": 2}


def test_a_view_that_has_followed_another_is_equal_not_fresher(store: ProductFeatureStore) -> None:
    store.write_features([make_product("a", 1)])
    store.write_offers([OfferRow(id="a", version=7, event_time=NOON)])
    summary = only(materialize(store, views=["product_text"]))
    assert (summary.outcome, summary.kept) == ("done", 1)
    assert summary.reconciliation is not None
    assert summary.reconciliation.equal == 1


def test_lost_rows_are_restored_although_the_offer_is_newer(store: ProductFeatureStore) -> None:
    store.write_features([make_product("a", 1)])
    store.write_features([make_product("a", 5)], ["text"])
    for part in store.history("product_text").parts():
        part.rename(part.with_name(part.name + ".away"))
    with sqlite3.connect(store.home / "online.db") as connection:
        connection.execute("update sagelift_product_text set version = 1, title = x''")
    connection.close()
    store.write_offers([OfferRow(id="a", version=10, event_time=NOON)])
    for part in store.history("product_text").folder.glob("*.away"):
        part.rename(part.with_name(part.name.removesuffix(".away")))
    summary = only(materialize(store, views=["product_text"], full=True))
    assert (summary.outcome, summary.written, summary.kept) == ("done", 1, 0)
    product = store.read_features("a")["a"]
    assert (product.text["title"], product.version) == ("title of a at 5", 10)


@pytest.mark.parametrize("shard_rows", [1, 7, 50, 1000])
def test_shards_do_not_depend_on_the_size_of_parts_and_row_groups(store: ProductFeatureStore, shard_rows: int) -> None:
    """Parts of 1, 99 and 33 products, the second in row groups of 10; one row of each product is overtaken."""
    for start, rows in ((0, 1), (1, 99), (100, 33)):
        offers(store, {f"p{i}": 1 for i in range(start, start + rows)})
    large = max(store.history(OFFERS).parts(), key=lambda part: part.stat().st_size)
    pq.write_table(pq.read_table(large, partitioning=None), large, row_group_size=10)
    offers(store, {f"p{i}": 2 for i in range(0, 133, 4)})
    seen: list[Progress] = []
    summary = run(store, shard_rows=shard_rows, progress=seen.append)
    assert (summary.products, summary.written) == (133, 133)
    assert summary.reconciliation is not None
    assert (summary.reconciliation.equal, summary.reconciliation.shards) == (133, -(-133 // shard_rows))
    assert [p.done for p in seen] == [*range(shard_rows, 133, shard_rows), 133]
    assert all(p.total == 133 and p.rows_per_s > 0 for p in seen)
    assert seen[-1].seconds_left == 0
    expected = {f"p{i}": 2 if i % 4 == 0 else 1 for i in range(133)}
    assert online_versions(store, expected) == expected


def test_the_next_run_reads_only_new_parts(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    run(store)
    summary = run(store)
    assert (summary.parts, summary.products, summary.outcome) == (0, 0, "done")
    offers(store, {"b": 1}, event_time=NOON - timedelta(days=99))  # late: by event time it would be missed
    summary = run(store)
    assert (summary.parts, summary.written) == (1, 1)
    assert online_versions(store, "ab") == {"a": 1, "b": 1}


def test_compacted_parts_are_new_but_change_nothing(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    offers(store, {"b": 1})
    run(store)
    compact(store.history(OFFERS), grace_s=-1)
    summary = run(store)
    assert (summary.parts, summary.written, summary.kept) == (1, 0, 2)


def test_after_the_loss_of_the_online_store_all_parts_are_new(open_store: Open) -> None:
    store = open_store()
    offers(store, {"a": 1})
    run(store)
    lose_online(store)
    summary = run(open_store())
    assert (summary.written, summary.outcome) == (1, "done")


def test_a_window_includes_both_event_times_and_marks_no_part_as_seen(
    store: ProductFeatureStore,
) -> None:
    for version in (1, 2, 3, 4):
        offers(store, {f"p{version}": version})
    summary = run(store, since=event_time(2), until=event_time(3))
    assert (summary.history_rows, summary.written) == (2, 2)
    assert online_versions(store, ["p1", "p2", "p3", "p4"]) == {"p2": 2, "p3": 3}
    assert run(store, until=event_time(1)).written == 1
    assert (run(store).written, online_versions(store, ["p4"])) == (1, {"p4": 4})


def damage(store: ProductFeatureStore, statement: str) -> None:
    with sqlite3.connect(store.home / "online.db") as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()


def test_a_full_run_repairs_a_value_that_was_damaged_under_its_version(store: ProductFeatureStore) -> None:
    store.write_features([make_product("a", 1), make_product("b", 1)])
    damage(store, "update sagelift_product_offer set currency = x'' where hex(entity_key) like '%61'")
    assert store.read_offers("a")["a"].currency is None
    summary = run(store)
    assert (summary.outcome, only(materialize(store, views=[OFFERS])).outcome) == ("differs", "differs")
    assert summary.reconciliation is not None
    assert summary.reconciliation.different == 1
    assert "1 different" in summary.message
    assert "--full" in summary.message
    (shard,) = summary.reconciliation.differing_shards
    assert shard["history"] != shard["online"]
    assert run(store, full=True).outcome == "done"
    assert store.read_offers("a")["a"].currency == "EUR"


def test_an_online_row_that_the_history_does_not_have_is_a_finding(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    online = store.feast.provider.online_store
    row = online_row(PRODUCT_FORMATS[OFFERS], make_product("ghost"))
    online.write(store.feast.config, [(store.view(OFFERS), [row])])
    summary = materialize(store, views=[OFFERS], full=True)
    assert summary.exit_code == 1
    result = only(summary).reconciliation
    assert result is not None
    assert (result.equal, result.online_rows, result.unexplained) == (1, 2, 1)


def test_rows_that_do_not_arrive_are_reported_as_missing(
    store: ProductFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reconciliation reads the rows back and does not trust the writer."""
    online = store.feast.provider.online_store
    write = online.write
    monkeypatch.setattr(
        online, "write", lambda config, batches, **more: write(config, [(v, r[1:]) for v, r in batches], **more)
    )
    offers(store, {f"p{i}": 1 for i in range(5)})
    summary = materialize(store, views=[OFFERS], shard_rows=2)
    result = only(summary).reconciliation
    assert summary.exit_code == 1
    assert result is not None
    assert (result.missing, result.equal) == (3, 2)
    assert [shard["shard"] for shard in result.differing_shards] == [0, 1, 2]


class StopHere(Exception):
    """Stands for the death of the process at this point."""


def die_after(shards: int) -> Callable[[Progress], None]:
    seen: list[Progress] = []

    def count(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == shards:
            raise StopHere

    return count


def test_a_run_that_ended_early_is_resumed(store: ProductFeatureStore) -> None:
    offers(store, {f"p{i:02}": 1 for i in range(50)})
    with pytest.raises(StopHere):
        run(store, shard_rows=10, progress=die_after(2))
    offers(store, {"p00": 2, "new": 1})
    summary = run(store, shard_rows=10)
    assert (summary.resumed, summary.products, summary.written) == (20, 51, 32)
    assert summary.reconciliation is not None
    assert (summary.reconciliation.products, summary.reconciliation.equal) == (51, 51)
    assert online_versions(store, ["p00", "new", "p49"]) == {"p00": 2, "new": 1, "p49": 1}
    assert run(store).parts == 0


def test_an_unfinished_run_is_discarded_by_another_request_or_the_loss_of_the_store(open_store: Open) -> None:
    store = open_store()
    offers(store, {f"p{i:02}": 1 for i in range(50)})
    with pytest.raises(StopHere):
        run(store, shard_rows=10, progress=die_after(2))
    with pytest.raises(StopHere):
        run(store, shard_rows=10, full=True, progress=die_after(1))
    lose_online(store)
    summary = run(open_store(), full=True)
    assert (summary.resumed, summary.written, summary.outcome) == (0, 50, "done")


def test_a_damaged_journal_restarts_the_run_from_the_beginning(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    folder = store.home / "materialize" / OFFERS
    folder.mkdir(parents=True)
    (folder / "journal.duckdb").write_bytes(b"torn" * 5000)
    (folder / "state.json").write_text('{"online_')
    assert run(store).outcome == "done"


def test_parts_may_be_compacted_while_they_are_read(store: ProductFeatureStore) -> None:
    for part in range(6):
        offers(store, {f"p{part}{i}": 1 for i in range(5)})

    def compact_once(progress: Progress) -> None:
        if progress.done == 5:
            assert compact(store.history(OFFERS), grace_s=-1) == 7

    summary = run(store, shard_rows=5, progress=compact_once)
    assert (summary.outcome, summary.written, summary.products) == ("done", 30, 30)


def test_a_second_run_of_the_view_is_refused_and_the_other_views_go_on(store: ProductFeatureStore) -> None:
    store.write_features([make_product("a")])
    with run_lock(store.home / "materialize" / OFFERS / "lock", "materializing product_offer"):
        summary = materialize(store)
    assert summary.exit_code == 4
    assert {view.view: view.outcome for view in summary.views} == {
        "product_text": "done",
        "product_images": "done",
        OFFERS: "locked",
        "user_recent": "done",
    }
    assert f"pid {os.getpid()}" in summary.views[2].message
    assert materialize(store).exit_code == 0


def test_a_half_written_part_is_named_and_fails_its_view_only(store: ProductFeatureStore) -> None:
    store.write_features([make_product("a")])
    whole = store.history(OFFERS).parts()[-1]
    torn = whole.with_name("part-zzz.parquet")
    torn.write_bytes(whole.read_bytes()[:-100])
    whole.with_name("part-zzz.parquet.partial").write_bytes(b"PAR1 is being written")
    summary = materialize(store)
    assert summary.exit_code == 3
    assert [view.outcome for view in summary.views] == ["done", "done", "failed", "done"]
    assert str(torn) in summary.views[2].message
    assert "Move it away" in summary.views[2].message
    torn.unlink()
    assert run(store).outcome == "done"


def test_a_part_with_damaged_pages_fails_by_name(store: ProductFeatureStore) -> None:
    """Its footer is intact, and DuckDB's error names no file."""
    for id in "ab":
        offers(store, {id: 1})
    part = store.history(OFFERS).parts()[-1]
    torn = bytearray(part.read_bytes())
    torn[4:200] = bytes(196)
    part.write_bytes(torn)
    summary = run(store)
    assert summary.outcome == "failed"
    assert f"{part} cannot be read" in summary.message
    assert online_versions(store, "ab") == {}


def test_a_part_of_something_else_fails_by_name(store: ProductFeatureStore) -> None:
    pq.write_table(pa.table({"sku": ["a"]}), store.history(OFFERS).folder / "part-x.parquet")
    summary = run(store)
    assert summary.outcome == "failed"
    assert "part-x.parquet lacks the columns" in summary.message


def test_a_vector_of_another_length_fails_and_nothing_of_its_shard_is_online(store: ProductFeatureStore) -> None:
    store.ensure_model_version("m1")
    past = store.history("product_embedding_m1")
    columns = {
        "product_id": pa.array(["a", "b"]),
        "event_timestamp": pa.array([NOON] * 2, pa.timestamp("us", tz="UTC")),
        "created_timestamp": pa.array([NOON] * 2, pa.timestamp("us", tz="UTC")),
        "vector": pa.array([np.ones(256).tolist(), [1.0]], pa.list_(pa.float32())),
        "content_hash": pa.array(["h"] * 2),
        "model_version": pa.array(["m1"] * 2),
        "version": pa.array([1, 1]),
        "deleted": pa.array([False] * 2),
    }
    past.append(pa.table(columns, schema=past.schema))
    summary = materialize(store, views=["product_embedding_m1"])
    assert (summary.exit_code, only(summary).outcome) == (3, "failed")
    assert "'b' has a vector of 1 numbers" in only(summary).message
    assert store.read_embeddings("m1", "ab") == {}


def test_a_database_that_stays_locked_fails_the_view_and_the_next_run_succeeds(open_store: Open) -> None:
    store = open_store()
    offers(store, {"a": 1})
    store.feast.provider.online_store.disconnect()
    store.feast.config.online_store.busy_timeout_s = 0.1
    other = sqlite3.connect(store.home / "online.db", isolation_level=None)
    other.execute("begin immediate")
    summary = materialize(store, views=[OFFERS])
    other.execute("rollback")
    other.close()
    assert summary.exit_code == 3
    assert "locked by another process" in only(summary).message
    assert run(store).outcome == "done"


def test_a_feature_that_old_parts_do_not_have_is_null(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    (part,) = [part for part in store.history(OFFERS).parts() if pq.read_metadata(part).num_rows]
    pq.write_table(pq.read_table(part, partitioning=None).drop_columns(["availability"]), part)
    assert run(store).outcome == "done"
    offer = store.read_offers("a")["a"]
    assert (offer.amount_minor, offer.availability) == (100, None)


def test_a_dry_run_counts_what_would_be_written_and_writes_nothing(store: ProductFeatureStore) -> None:
    store.write_features([make_product("there", 1), make_product("older", 1)])
    offers(store, {"older": 2, "new": 1})
    before = online_versions(store, ["there", "older", "new"])
    summary = run(store, dry_run=True)
    assert (summary.outcome, summary.products, summary.written, summary.kept) == ("dry_run", 3, 2, 1)
    assert run(store, dry_run=True, full=True).written == 3
    assert online_versions(store, ["there", "older", "new"]) == before
    assert run(store).written == 2


def test_feasts_registry_has_the_interval(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    offers(store, {"b": 7})
    run(store)
    view = store.feast.registry.get_feature_view(OFFERS, "sagelift", allow_cache=False)
    assert view.materialization_intervals == [(event_time(1), event_time(7))]
    run(store)
    view = store.feast.registry.get_feature_view(OFFERS, "sagelift", allow_cache=False)
    assert len(view.materialization_intervals) == 1, "a run that wrote nothing leaves none"


def test_a_registry_that_has_lost_the_view_fails_the_run_and_the_values_are_online(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    store.feast.registry.delete_feature_view(OFFERS, "sagelift")
    summary = run(store)
    assert summary.outcome == "failed"
    assert "registry could not record it" in summary.message
    assert online_versions(store, "a") == {"a": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ["nope"]}, r"Unknown views \['nope'\]: the views are product_text"),
        ({"since": datetime(2026, 1, 1)}, "since 2026-01-01T00:00:00 has no time zone"),
        ({"until": datetime(2026, 1, 1)}, "until .* has no time zone"),
        ({"since": NOON, "until": NOON - timedelta(seconds=1)}, "lies after until"),
        ({"since": NOON, "full": True}, "full reads the whole history"),
    ],
)
def test_wrong_requests_are_refused(store: ProductFeatureStore, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFeatureError, match=message):
        materialize(store, **options)


def test_the_summary_has_its_times_and_its_mode(store: ProductFeatureStore) -> None:
    before = time.time()
    summary = materialize(store, since=NOON)
    assert before <= summary.started.timestamp() <= summary.finished.timestamp() <= time.time()
    assert (summary.mode, summary.since, summary.until, summary.exit_code) == ("window", NOON, None, 0)
    assert materialize(store).mode == "new"
    assert materialize(store, full=True).mode == "full"


def test_lock_and_journal_lie_beside_the_history(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    run(store)
    folder: Path = store.home / "materialize" / OFFERS
    assert {path.name for path in folder.iterdir()} == {"lock", "state.json"}, "a finished run leaves no journal"
