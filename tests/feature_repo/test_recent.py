"""A shopper's recent products, for any order and number of events and any number of writers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.definitions import USER_VIEW
from feature_repo.errors import InvalidFeatureError, StoreBusyError
from feature_repo.recent import MAX_RECENT, Engagement, UserRecent, by_user, merged
from feature_repo.store import ProductFeatureStore

T = 1_770_000_000_000_000  # microseconds


def at(event_us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event_us)


def engagements(*pairs: tuple[str, int], user: str = "u") -> list[Engagement]:
    return [Engagement(user, product, T + after) for product, after in pairs]


def fold(batches: Sequence[Sequence[Engagement]], limit: int = MAX_RECENT) -> UserRecent | None:
    row = None
    for batch in batches:
        row = merged(row, batch, limit) or row
    return row


def test_each_product_appears_once_at_its_last_time_sorted_by_time() -> None:
    row = merged(None, engagements(("a", 5), ("b", 3), ("a", 1), ("c", 4)))
    assert row == UserRecent(
        id="u", version=1, event_time=at(T + 5), product_ids=("b", "c", "a"), event_times=(T + 3, T + 4, T + 5)
    )


def test_an_engagement_that_changes_nothing_makes_no_new_version() -> None:
    row = merged(None, engagements(("a", 5), ("b", 3)))
    assert merged(row, engagements(("b", 3), ("a", 1))) is None
    assert merged(None, []) is None


def test_a_late_engagement_finds_its_place_and_leaves_the_time_of_the_newest() -> None:
    row = fold([engagements(("a", 1), ("c", 9)), engagements(("b", 5))])
    assert row is not None
    assert (row.product_ids, row.version, row.event_time) == (("a", "b", "c"), 2, at(T + 9))


EVENTS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 30)), min_size=1, max_size=25)


@given(EVENTS, st.randoms(), st.integers(1, 25), st.integers(1, 9))
def test_order_repetition_and_batches_do_not_matter(
    pairs: list[tuple[str, int]], random: Any, cut: int, limit: int
) -> None:
    """The list has the newest of all events, including those that it dropped before."""
    events = engagements(*pairs)
    again = [*events, *events[:cut]]
    random.shuffle(again)
    left, right = fold([events], limit), fold([again[:cut], *([event] for event in again[cut:])], limit)
    assert left is not None
    assert right is not None
    assert (left.product_ids, left.event_times) == (right.product_ids, right.event_times)


@given(EVENTS, st.integers(1, 4))
def test_the_list_is_bounded_and_holds_the_newest(pairs: list[tuple[str, int]], limit: int) -> None:
    row = fold([[event] for event in engagements(*pairs)], limit)
    assert row is not None
    last = {product: max(t for p, t in pairs if p == product) for product, _ in pairs}
    newest = sorted((t, product) for product, t in last.items())[-limit:]
    assert list(row.product_ids) == [product for _, product in newest]
    assert row.event_times == tuple(T + t for t, _ in newest)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (Engagement("", "a", T), "user_id must be a text"),
        (Engagement("u", "", T), "product_id must be a text"),
        (Engagement("u", "\ud800", T), "not valid Unicode"),
        (Engagement("u", "a", -1), "whole microseconds"),
        (Engagement("u", "a", 10**18), "whole microseconds"),
        (Engagement("u", "a", 1.5), "whole microseconds"),  # type: ignore[arg-type]
    ],
)
def test_bad_engagements_are_named_before_anything_is_written(
    bad: Engagement, told: str, store: ProductFeatureStore
) -> None:
    with pytest.raises(InvalidFeatureError, match=told):
        store.add_engagements([*engagements(("a", 1)), bad])
    assert store.read_recent(["u"]) == {}
    assert by_user(engagements(("a", 1))) == {"u": engagements(("a", 1))}


# On the real SQLite store.


def test_lists_are_read_as_they_were_written_and_by_another_store_too(open_store: Callable[[], Any]) -> None:
    store = open_store()
    assert store.add_engagements([*engagements(("a", 1), ("b", 2)), *engagements(("b", 7), user="ü")]) == 2
    result = open_store().read_recent(["u", "ü", "nobody"])
    assert {id: row.product_ids for id, row in result.items()} == {"u": ("a", "b"), "ü": ("b",)}
    assert result["ü"].event_time == at(T + 7)


def test_the_same_batch_again_writes_nothing(store: ProductFeatureStore) -> None:
    batch = engagements(("a", 1), ("b", 2))
    assert store.add_engagements(batch) == 1
    parts = len(store.history(USER_VIEW).parts())
    assert store.add_engagements(batch) == 0
    assert len(store.history(USER_VIEW).parts()) == parts


def test_no_engagement_is_lost_between_writers_of_one_shopper(open_store: Callable[[], Any]) -> None:
    """Two stores, as two consumers while a partition moves: each has half of the engagements, one at a time."""
    events = engagements(*((f"p{i}", i) for i in range(40)))
    start = threading.Barrier(2)
    errors = []

    def write(store: Any, some: list[Engagement]) -> None:
        start.wait(30)
        try:
            for event in some:
                store.add_engagements([event])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(open_store(), events[i::2])) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    (row,) = open_store().read_recent(["u"]).values()
    assert row.product_ids == tuple(f"p{i}" for i in range(40))
    assert row.version == 40


def test_a_writer_that_is_always_overtaken_gives_up_and_says_so(
    store: ProductFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_all = lambda config, batches, *_, **__: [{row.key for row in rows} for _, rows in batches]  # noqa: E731
    monkeypatch.setattr(store.online, "write", refuse_all)
    with pytest.raises(StoreBusyError, match="20 times in a row"):
        store.add_engagements(engagements(("a", 1)))


def test_only_later_engagements_of_a_forgotten_shopper_are_kept(store: ProductFeatureStore) -> None:
    store.add_engagements(engagements(("a", 1), ("b", 2)))
    assert store.forget_users(["u", "nobody"], at(T + 10)) == 1
    assert store.add_engagements(engagements(("a", 1), ("c", 9))) == 0
    row = store.read_recent(["u"])["u"]
    assert (row.deleted, row.product_ids) == (True, ())
    assert store.forget_users(["u"], at(T + 10)) == 0
    store.add_engagements(engagements(("d", 11), ("a", 1)))
    assert store.read_recent(["u"])["u"].product_ids == ("d",)
    with pytest.raises(InvalidFeatureError, match="time zone"):
        store.forget_users(["u"], datetime(2026, 1, 1))


def test_the_history_keeps_every_list_with_its_time(store: ProductFeatureStore) -> None:
    for pair in (("a", 1), ("b", 2)):
        store.add_engagements(engagements(pair))
    table = store.history(USER_VIEW).read(["user_id", "version", "product_ids", "event_times"]).to_pylist()
    assert table == [
        {"user_id": "u", "version": 1, "product_ids": ["a"], "event_times": [T + 1]},
        {"user_id": "u", "version": 2, "product_ids": ["a", "b"], "event_times": [T + 1, T + 2]},
    ]
