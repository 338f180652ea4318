"""A group-sequential design in units: its boundaries are those of `boundaries`, and its error rate is alpha."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.errors import ArgumentError
from analysis.inference import ArmEstimate, Effect, effect_of
from analysis.metrics import Mean
from analysis.report import analyze
from analysis.sequential import (
    Design,
    SpendingDesign,
    analyze_interim,
    inflation,
    planned_looks,
    pocock_spending,
    spending_named,
)
from analysis.sources import UserTable


def effect(z: float, n: int = 2000) -> Effect:
    """An effect z standard errors from 0, over two arms of n units."""
    error = (2 / n) ** 0.5
    control = ArmEstimate(n, 10.0, 10.0, 1 / n, 1 / n, 1 / n)
    result = effect_of(control, replace(control, raw=10 + z * error, adjusted=10 + z * error))
    assert isinstance(result, Effect)
    return result


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock", "power=3", "hsd=-4"])
def test_a_look_has_the_boundary_of_the_spending_design_at_its_share_of_the_units(spending: str) -> None:
    look = Design(10_000, (2500, 4000), spending).look(7000, 0.05)
    reference = SpendingDesign(1.0, 0.05, spending_named(spending)).looks([0.25, 0.4, 0.7])[-1]
    assert (look.share, look.spent, look.critical) == pytest.approx(
        (0.7, reference.spent, reference.critical), rel=1e-9
    )


def test_the_last_look_spends_all_alpha_and_so_does_one_that_overruns() -> None:
    assert Design(10_000, (5000,), last=True).look(8000, 0.05).spent == pytest.approx(0.05)
    assert Design(10_000, (5000,)).look(12_000, 0.05).spent == pytest.approx(0.05)
    assert Design(10_000, (5000,)).look(8000, 0.05).spent < 0.04


@pytest.mark.parametrize("z", [-4.0, -2.5, 0.0, 2.0, 2.5, 4.0])
def test_the_boundary_is_crossed_exactly_when_p_is_at_its_level_and_the_repeated_interval_excludes_zero(
    z: float,
) -> None:
    seen = effect(z)
    interim = analyze_interim(Design(8000, (2000,)), seen, 0.05)
    assert interim.lift is not None
    assert interim.crossed == (seen.difference.p <= interim.look.nominal) == (not interim.lift.contains(0.0))
    assert seen.interval is not None
    assert interim.lift.low < seen.interval.low  # wider than for one look


def test_where_nothing_may_be_spent_yet_nothing_is_crossed() -> None:
    interim = analyze_interim(Design(10**9), effect(40.0), 0.05)
    assert (interim.crossed, interim.critical, interim.lift) == (False, None, None)


def test_four_looks_without_an_effect_cross_as_often_as_alpha_says() -> None:
    """4,000 A/A experiments of 40 units per arm and look, by t tails: plain looks err 12.6 %, the design 5 %."""
    rng = np.random.default_rng(0)
    values = rng.exponential(1.0, (4000, 2, 160))
    plain, ever = np.zeros(4000, bool), np.zeros(4000, bool)
    sizes = (40, 80, 120, 160)
    for number, n in enumerate(sizes):
        design = Design(320, tuple(2 * size for size in sizes[:number]), "pocock")
        for run in range(4000):
            arms = [
                ArmEstimate(n, m, m, v, v, v)
                for m, v in ((float(x[:n].mean()), float(x[:n].var(ddof=1)) / n) for x in values[run])
            ]
            result = effect_of(*arms)
            assert isinstance(result, Effect)
            plain[run] |= result.difference.p < 0.05
            if number and ever[run]:
                continue
            ever[run] |= result.difference.p <= nominal(design, 2 * n)
    assert plain.mean() > 0.10
    assert 0.04 < ever.mean() < 0.06


def nominal(design: Design, units: int, known: dict[int, float] = {}) -> float:  # noqa: B006 (a cache)
    if units not in known:
        known[units] = design.look(units, 0.05).nominal
    return known[units]


def test_planned_looks_cost_what_the_integration_says() -> None:
    result = planned_looks(5, "pocock", 0.05, 0.9)
    looks = SpendingDesign(1.0, 0.05, pocock_spending).looks([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [look.critical for look in result.looks] == pytest.approx([look.critical for look in looks])
    cost = inflation([look.critical for look in looks], [0.2, 0.4, 0.6, 0.8, 1.0], 0.05, 0.9)
    assert result.inflation == pytest.approx(cost)
    assert planned_looks(1, "pocock", 0.05, 0.9).inflation == pytest.approx(1.0, abs=1e-6)
    assert planned_looks(40, "obrien-fleming", 0.05, 0.8).inflation < 1.06  # the first looks can spend nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"planned_units": 0}, "planned_units is 0"),
        ({"planned_units": 100, "spending": "bonferroni"}, "no spending function 'bonferroni'"),
        ({"planned_units": 100, "spending": "power=x"}, "rho is nan"),
        ({"planned_units": 100, "spending": "power=-1"}, "rho is -1.0"),
        ({"planned_units": 100, "earlier": (0,)}, "units of look 1 is 0"),
        (
            {"planned_units": 100, "earlier": (50, 100)},
            "Look 2 had 100 units, and 100 were planned: that look spent all alpha",
        ),
    ],
)
def test_designs_that_make_no_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Design(**arguments)  # type: ignore[arg-type]


def test_looks_out_of_order_are_refused() -> None:
    with pytest.raises(ArgumentError, match="This look has 400 units, and the look before had 500"):
        Design(1000, (500,)).look(400, 0.05)
    with pytest.raises(ArgumentError, match="must grow from look to look"):
        Design(1000, (500, 300)).look(700, 0.05)


def users(lift: float, n: int = 4000) -> UserTable:
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"variant": ["a", "b"] * (n // 2)})
    for name, effect_ in (("gmv", lift), ("clicks", 0.0), ("speed", 0.0)):
        data[name] = rng.gamma(2.0, 1.0, n) * np.where(data.variant == "b", 1 + effect_, 1.0)
    return UserTable(data)


GOALS = [
    Mean(name="gmv", column="gmv", role="goal"),
    Mean(name="clicks", column="clicks", role="goal"),
    Mean(name="speed", column="speed", role="guardrail", margin=0.1),
    Mean(name="other", column="gmv"),
]


def test_a_report_at_a_look_decides_by_the_boundary_and_goals_share_alpha() -> None:
    """p = 0.005 would ship at the plain level, but not at the first of many looks, whose reason names the boundary."""
    source = users(0.055)
    fixed = analyze(source, GOALS, "a", "b")
    assert fixed.verdict.conclusion == "ship"
    early = analyze(source, GOALS, "a", "b", design=Design(20_000))
    assert early.verdict.conclusion == "keep running"
    gmv, speed, other = (early.metric(name) for name in ("gmv", "speed", "other"))
    assert gmv.look is not None
    assert speed.look is not None
    assert (gmv.look.alpha, speed.look.alpha, other.look) == (0.025, 0.05, None)
    assert not gmv.look.crossed
    assert gmv.p is not None
    assert gmv.look.nominal < gmv.p < 0.05
    assert gmv.anytime is None
    assert early.design is not None
    assert (early.design.look, early.design.units, early.design.ended) == (1, 4000, False)


def test_a_crossed_boundary_ships_and_a_guardrails_margin_is_held_at_the_level_of_the_look() -> None:
    source = users(0.25)
    late = analyze(source, GOALS, "a", "b", design=Design(5000, (2000,)))
    gmv, speed = late.metric("gmv").look, late.metric("speed")
    assert gmv is not None
    assert gmv.crossed
    assert gmv.low is not None
    assert gmv.low > 0
    assert late.verdict.conclusion == "ship"
    assert "repeated interval" in late.verdict.reasons[0]
    assert speed.margin is not None
    assert speed.look is not None
    assert speed.margin.holds == (speed.margin.p <= speed.look.nominal / 2)


def test_a_design_and_a_size_for_confidence_sequences_exclude_each_other() -> None:
    with pytest.raises(ArgumentError, match="A design has its own planned units"):
        analyze(users(0.0), GOALS, "a", "b", design=Design(5000), planned_units=5000)
