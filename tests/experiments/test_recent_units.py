"""The memory of recent units is bounded and separate for each group."""

from experiments.recent_units import RecentUnits


def test_memory_against_duplicates_is_bounded_and_keeps_the_recent() -> None:
    recent = RecentUnits(100)
    for number in range(10_000):
        assert recent.put(number % 3, str(number))
        assert len(recent) <= 100
        earlier = max(0, number - 20)
        assert not recent.put(earlier % 3, str(earlier))


def test_a_unit_is_remembered_in_its_own_group_only() -> None:
    recent = RecentUnits(100)
    assert recent.put("a", "u")
    assert recent.put("b", "u")
    assert not recent.put("a", "u")
    recent.forget("a", "u")
    assert recent.put("a", "u")
    assert not recent.put("b", "u")
