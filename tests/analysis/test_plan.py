"""A plan equals the formulas applied to the history, for any arms."""

import io
from datetime import date, timedelta

import msgspec
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.errors import ArgumentError, MetricError
from analysis.metrics import Mean, Proportion, Quantile, Ratio
from analysis.plan import Plan, plan
from analysis.power import Baseline, power, sample_size
from analysis.render.plan import to_json, to_markdown, to_terminal
from analysis.sample_moments import sample_moments
from analysis.sequential import planned_looks
from analysis.sources import UserTable

METRICS = [
    Mean(name="gmv", column="gmv", covariate="pre"),
    Proportion(name="buyers", column="gmv"),
    Ratio(name="ctr", numerator="clicks", denominator="views"),
]


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    taste, views = rng.normal(0, 1, 5000), rng.integers(1, 30, 5000)
    gmv = np.exp(3 + taste) * (rng.random(5000) < 0.3)
    return pd.DataFrame({"gmv": gmv, "pre": np.exp(3 + taste), "views": views, "clicks": rng.binomial(views, 0.2)})


@pytest.fixture(scope="module")
def result(data: pd.DataFrame) -> Plan:
    return plan(UserTable(data, variant=None), METRICS, [0.05, 0.1], units=20_000, share=0.4)


def test_sizes_are_those_of_the_formulas(result: Plan, data: pd.DataFrame) -> None:
    for metric, planned in zip(METRICS, result.metrics, strict=True):
        baseline = Baseline.of(metric, sample_moments(metric.needs, {name: data[name] for name in data}))
        assert planned.value == pytest.approx(baseline.value)
        for needed in planned.needed:
            size = sample_size(baseline, needed.lift, treatment_share=0.4)
            assert (needed.control, needed.treatment) == pytest.approx((size.control, size.treatment), abs=1)
        assert planned.smallest is not None
        assert power(baseline, planned.smallest, 12_000, 8_000) == pytest.approx(0.8, abs=1e-6)
    assert result.metrics[0].variance_reduction == pytest.approx(np.corrcoef(data.gmv, data.pre)[0, 1] ** 2, rel=1e-6)
    assert result.metrics[1].variance_reduction is None
    assert (result.history, result.units) == (5000, 20_000)


def test_arms_of_the_history_change_nothing_and_its_size_is_the_default(result: Plan, data: pd.DataFrame) -> None:
    with_arms = UserTable(data.assign(variant=np.arange(5000) % 3))
    again = plan(with_arms, METRICS, [0.05, 0.1], units=20_000, share=0.4)
    for one, other in zip(again.metrics, result.metrics, strict=True):
        assert one.needed == other.needed
        assert one.smallest == pytest.approx(other.smallest, rel=1e-9)
    assert plan(with_arms, METRICS, [0.05]).units == 5000


def test_every_face_shows_every_metric(result: Plan) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(to_terminal(result))
    for face in (console.file.getvalue(), to_markdown(result)):  # type: ignore[attr-defined]
        for metric in result.metrics:
            assert metric.name in face
            assert f"{(metric.needed[0].control or 0) + (metric.needed[0].treatment or 0):,}" in face
        assert "Detectable with 20,000" in face
    assert msgspec.json.decode(to_json(result), type=Plan) == result


def test_looks_cost_what_the_design_says_and_every_face_shows_their_boundaries(data: pd.DataFrame) -> None:
    source = UserTable(data, variant=None)
    once, often = (plan(source, METRICS, [0.1], looks=looks, spending="pocock") for looks in (1, 4))
    assert once.design is None
    assert often.design is not None
    looks = planned_looks(4, "pocock", 0.05, 0.8)
    assert often.design.inflation == looks.inflation > 1.1
    assert [look.critical for look in often.design.looks] == [look.critical for look in looks.looks]
    for plain, dearer in zip(once.metrics, often.metrics, strict=True):
        assert plain.needed[0].control is not None
        assert dearer.needed[0].control == pytest.approx(plain.needed[0].control * looks.inflation, abs=1)
        assert dearer.smallest is not None
        assert plain.smallest is not None
        assert dearer.smallest > plain.smallest
    console = Console(file=io.StringIO(), width=200)
    console.print(to_terminal(often))
    for face in (console.file.getvalue(), to_markdown(often)):  # type: ignore[attr-defined]
        assert f"{looks.looks[0].critical:.3f}" in face
        assert f"{looks.inflation - 1:.1%} more units" in " ".join(face.split())
    assert msgspec.json.decode(to_json(often), type=Plan) == often


def test_a_look_at_which_nothing_may_be_spent_has_no_critical_value(data: pd.DataFrame) -> None:
    result = plan(UserTable(data, variant=None), METRICS, [0.1], looks=60)
    assert result.design is not None
    assert result.design.looks[0].critical is None
    assert "–" in to_markdown(result).splitlines()[-60]


def test_weeks_of_history_say_what_an_experiment_of_that_length_could_find(data: pd.DataFrame) -> None:
    """Units join over 17 days; the third week is incomplete, so the plan has two weeks."""
    rng = np.random.default_rng(3)
    dated = data.assign(day=[date(2026, 5, 25) + timedelta(days=int(d)) for d in rng.integers(0, 17, len(data))])
    result = plan(UserTable(dated, variant=None, day="day"), METRICS, [0.1], share=0.4)
    for metric, planned in zip(METRICS, result.metrics, strict=True):
        assert [d.days for d in planned.durations] == [7, 14]
        for d in planned.durations:
            first = dated[dated.day < date(2026, 5, 25) + timedelta(days=d.days)]
            moments = sample_moments(metric.needs, {name: first[name] for name in data})
            assert d.units == len(first)
            assert d.smallest is not None
            chance = power(Baseline.of(metric, moments), d.smallest, 0.6 * d.units, 0.4 * d.units)
            assert chance == pytest.approx(0.8, abs=1e-6)
    console = Console(file=io.StringIO(), width=200)
    console.print(to_terminal(result))
    for face in (console.file.getvalue(), to_markdown(result)):  # type: ignore[attr-defined]
        assert f"14 days ({result.metrics[0].durations[1].units:,})" in face
    assert plan(UserTable(data, variant=None), METRICS, [0.1]).metrics[0].durations == []


def test_a_narrow_window_breaks_numbers_and_never_cuts_them_off(data: pd.DataFrame) -> None:
    result = plan(UserTable(data, variant=None), METRICS, [0.001, 0.002, 0.005, 0.01], looks=3)
    console = Console(file=io.StringIO(), width=60)
    console.print(to_terminal(result))
    assert "…" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_share_that_cannot_rise_so_far_has_no_number_of_units_and_stops_no_other_metric() -> None:
    data = pd.DataFrame({"seen": [1] * 95 + [0] * 5, "gmv": np.arange(100.0)})
    metrics = [Proportion(name="reach", column="seen"), Mean(name="gmv", column="gmv")]
    result = plan(UserTable(data, variant=None), metrics, [0.05, 0.1])
    reach, gmv = result.metrics
    assert reach.needed[0].control is not None
    assert reach.needed[1].control is None
    assert gmv.needed[1].control is not None
    assert "| – |" in to_markdown(result)


def test_what_cannot_be_planned_is_refused(data: pd.DataFrame) -> None:
    source = UserTable(data, variant=None)
    with pytest.raises(MetricError, match="no formula to plan 'q', a Quantile"):
        plan(source, [Quantile(name="q", column="gmv")], [0.1])
    with pytest.raises(ArgumentError, match="units is 2"):
        plan(source, METRICS, [0.1], units=2)
    with pytest.raises(ArgumentError, match="lift is 0"):
        plan(source, METRICS, [0.0])
