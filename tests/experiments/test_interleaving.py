"""Team draft interleaving is fair to both rankers, repeatable, and credits the right ranker."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.interleaving import preference, unit_wins
from experiments.interleaving import Interleaved, team_draft

rankings = st.lists(st.integers(0, 12), unique=True, max_size=10)


def draft(a: list[int], b: list[int], length: int = 10, unit: str = "u", list_id: str = "q") -> Interleaved[int]:
    return team_draft(a, b, length, salt="s", unit=unit, list_id=list_id)


@given(rankings, rankings, st.integers(0, 12), st.text(max_size=5))
def test_a_blend_is_a_list_of_both_and_keeps_each_ranking(a: list[int], b: list[int], length: int, unit: str) -> None:
    blend = draft(a, b, length, unit)
    assert len(blend.items) == len(set(blend.items)) == min(length, len({*a, *b}))
    assert set(blend.items) <= {*a, *b}
    for team, ranking in (("a", a), ("b", b)):
        own = [item for item, drafted_by in zip(blend.items, blend.teams, strict=True) if drafted_by == team]
        assert own == [item for item in ranking if item in own], "a ranker drafts in its own order"
        for position, item in enumerate(blend.items):
            if blend.teams[position] == team:
                better = ranking[: ranking.index(item)]
                assert set(better) <= set(blend.items[:position]), "and always its best that is left"
    sizes = [blend.teams[:n].count("a") - blend.teams[:n].count("b") for n in range(0, len(blend.teams) + 1, 2)]
    if len(a) == len(b) == 10 and not set(a) & set(b):
        assert not any(sizes), "after each round both have drafted as many"


def test_the_same_request_gets_the_same_list_and_others_get_their_own_coins() -> None:
    a, b = list(range(10)), list(range(9, -1, -1))
    assert draft(a, b) == draft(a, b)
    lists = {draft(a, b, unit=f"u{i}", list_id=f"q{j}").items for i in range(5) for j in range(5)}
    assert len(lists) > 10
    assert draft(a, b, unit="1", list_id="11") != draft(a, b, unit="11", list_id="1")


def test_the_coins_are_those_of_the_specification() -> None:
    """I2, with the expected value from `printf 's\\0370\\037q\\037u' | sha256sum`: it begins with 0x03 = 0000 0011."""
    blend = draft(list(range(0, 20)), list(range(100, 120)), 16)
    assert blend.teams[::2] == tuple("a" if bit == "1" else "b" for bit in "00000011")


def test_equal_rankers_draft_every_position_equally_often() -> None:
    ranking = list(range(10))
    teams = np.array([draft(ranking, ranking, unit=f"user-{i}").teams for i in range(4_000)]) == "a"
    for position in teams.T:
        assert stats.binomtest(int(position.sum()), len(position)).pvalue > 1e-5
    assert stats.binomtest(int(teams[:, 0].sum()), 4_000).pvalue > 1e-5


@pytest.mark.parametrize("overlap", ["same", "shifted", "apart"])
def test_equal_rankers_win_equally_often_for_any_clicks(overlap: str) -> None:
    """Unbiased: units that click by position alone (which says nothing of the rankers) prefer neither."""
    ranking = list(range(10))
    other = {"same": ranking, "shifted": [*range(1, 10), 0], "apart": list(range(50, 60))}[overlap]
    rng = np.random.default_rng(7)
    p_values = []
    for trial in range(60):
        lists = []
        for i in range(150):
            blend = draft(ranking, other, unit=f"user-{trial}-{i}")
            clicked = [item for position, item in enumerate(blend.items) if rng.random() < 0.6 / (position + 1)]
            lists.append((f"user-{i}", *blend.clicks(clicked)))
        p_values.append(preference(unit_wins(lists)).p)
    assert sum(p < 0.001 for p in p_values) < 4
    assert sum(p < 0.01 for p in p_values) < 7
    assert sum(p < 0.05 for p in p_values) < 13


def test_a_better_ranker_is_preferred() -> None:
    """`b` ranks the products that are clicked first."""
    a, b = list(range(10)), list(range(9, -1, -1))
    rng = np.random.default_rng(3)
    lists = []
    for i in range(300):
        blend = draft(a, b, 5, unit=f"user-{i}")
        lists.append((f"user-{i}", *blend.clicks(item for item in blend.items if rng.random() < item / 20)))
    result = preference(unit_wins(lists))
    assert result.score > 0.2
    assert result.low > 0
    assert result.p < 1e-4


def test_a_click_is_credited_to_the_ranker_that_drafted_the_product() -> None:
    blend = Interleaved(("p", "q", "r"), ("a", "b", "a"))
    assert blend.clicks(["p", "p", "r", "elsewhere"]) == (2, 0)
    assert blend.clicks(["q"]) == (0, 1)
    assert [blend.team_of(item) for item in ("p", "q", "elsewhere")] == ["a", "b", None]


def test_a_ranking_that_repeats_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="ranking 'b' has an item twice"):
        draft([1, 2], [3, 3])
