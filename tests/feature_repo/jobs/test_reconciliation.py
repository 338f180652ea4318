from __future__ import annotations

from feature_repo.jobs.reconciliation import reconcile
from feature_repo.jobs.shards import ROW_STATES, ComparedShard, RowState


def shard(number: int, history: int, online: int, **counts: int) -> ComparedShard:
    states: dict[RowState, int] = {state: counts.get(state, 0) for state in ROW_STATES}
    return ComparedShard(number, states, history, online)


def test_equal_shards_agree_and_share_a_checksum_in_any_order() -> None:
    shards = [shard(0, 3, 3, equal=5, fresher=1), shard(1, 5, 5, equal=2)]
    forwards, backwards = reconcile(shards), reconcile(reversed(shards))
    assert forwards == backwards
    assert (forwards.ok, forwards.products, forwards.equal, forwards.fresher) == (True, 8, 7, 1)
    assert (forwards.shards, forwards.checksum, forwards.differing_shards) == (2, "00000006", [])
    assert forwards.difference("v") == ""


def test_shards_that_differ_are_listed_by_number_with_their_rows() -> None:
    result = reconcile([shard(2, 3, 1, equal=1, different=1), shard(0, 9, 9, equal=4), shard(1, 7, 7, missing=2)])
    assert [differing["shard"] for differing in result.differing_shards] == [1, 2]
    assert result.differing_shards[1] == {
        "shard": 2,
        "history": "00000003",
        "online": "00000001",
        "equal": 1,
        "fresher": 0,
        "missing": 0,
        "older": 0,
        "different": 1,
    }
    assert not result.ok
    assert result.difference("v").startswith("v differs from its history online: 2 missing, 1 different. Run it with")


def test_online_rows_beyond_the_history_are_unexplained_unless_the_history_changed() -> None:
    shards = [shard(0, 3, 3, equal=5)]
    assert reconcile(shards, 7).unexplained == 2
    assert not reconcile(shards, 7).ok
    assert reconcile(shards, 7, history_changed=True).unexplained == 0
    assert (reconcile(shards).online_rows, reconcile(shards).unexplained) == (None, None)
