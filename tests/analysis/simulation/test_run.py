"""The simulator finds the nominal rates where the method is right, and says so where it is wrong."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.columns import Cap
from analysis.errors import ArgumentError, DataError, MetricError, MissingColumnError
from analysis.inference import compare
from analysis.metrics import Mean, Metric, Proportion, Quantile, Ratio, Retention
from analysis.report import analyze
from analysis.simulation import Simulation, simulate, trials
from analysis.sources import UserTable

RETAIL = Path(__file__).parents[4] / "shared" / "data" / "online_retail.csv.gz"

GMV = Mean(name="gmv", column="gmv", covariate="pre")

CTR = Ratio(name="ctr", numerator="clicks", denominator="views")


def shop(n: int = 4000, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    taste, views = rng.normal(0, 0.8, n), rng.integers(1, 40, n)
    spend = np.exp(7 + taste)
    return {
        "gmv": spend * rng.lognormal(0, 0.5, n) * (rng.random(n) < 0.2),
        "pre": spend * rng.lognormal(0, 0.5, n) * (rng.random(n) < 0.2),
        "clicks": rng.binomial(views, rng.beta(2, 8, n)),
        "views": views,
        "length": rng.lognormal(0, 1, n),
    }


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    metrics = [GMV, CTR, Proportion(name="buyers", column="gmv"), Quantile(name="median", column="length")]
    return simulate(shop(), metrics, lifts=[0.1], runs=400, seed=1)


def test_false_positives_come_at_the_nominal_rate_and_lifts_are_covered(simulation: Simulation) -> None:
    """400 runs: four standard errors around 5 % are 0.6 to 9.4 %, around 95 % coverage 90.6 to 99.4 %."""
    for outcome in simulation.outcomes:
        assert outcome.covered is not None
        assert 0.906 <= outcome.covered <= 0.994, outcome
        assert outcome.error is not None
        assert outcome.bias is not None
        # A ratio of means is a little biased upwards, by the squared coefficient of variation of the control.
        assert abs(outcome.bias) <= 4 * outcome.error + 0.01, outcome
        if outcome.lift == 0:
            assert outcome.rejected is not None
            assert outcome.rejected <= 0.094
            assert not outcome.doubtful
    assert len(simulation.outcomes) == 7  # a proportion takes no planted lift
    assert {len(curve) for curve in simulation.p_values.values()} == {101}


def test_power_grows_with_the_lift_and_with_the_units() -> None:
    runs = [simulate(shop(), [CTR], lifts=[0.02, 0.06], runs=200, size=size) for size in (1000, 8000)]
    power = [[run.outcome("ctr", lift).rejected or 0.0 for lift in (0.02, 0.06)] for run in runs]
    assert power[0][0] < power[0][1] < power[1][1]
    assert power[1][1] > 0.8
    assert [run.units for run in runs] == [1000, 8000]


def test_a_method_that_is_wrong_is_called_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variances a quarter of what they are: the false positives must not pass."""

    def wrong(metric: Metric, c: Any, t: Any, **options: Any) -> Any:
        import dataclasses

        quarter = [
            dataclasses.replace(arm, covariances={key: value / 4 for key, value in arm.covariances.items()})
            for arm in (c, t)
        ]
        return compare(metric, *quarter, **options)

    monkeypatch.setattr(trials, "compare", wrong)
    assert simulate(shop(), [CTR], lifts=[], runs=200).outcome("ctr").doubtful


def test_the_seed_decides_and_batches_do_not() -> None:
    first = simulate(shop(300), [CTR], runs=50, seed=3)
    again = simulate(shop(300), [CTR], runs=50, seed=3, batch=300 * 7)
    assert [o.rejected for o in again.outcomes] == [o.rejected for o in first.outcomes]
    assert again.p_values["ctr"] == pytest.approx(first.p_values["ctr"], rel=1e-9)
    assert simulate(shop(300), [CTR], runs=50, seed=4).p_values != first.p_values


def test_what_cannot_be_simulated_is_refused() -> None:
    units = shop(100)
    with pytest.raises(MissingColumnError, match="no column 'gmw'"):
        simulate(units, [Mean(name="m", column="gmw")])
    with pytest.raises(DataError, match="NaN or infinite"):
        simulate({"x": np.array([1.0, np.nan] * 10)}, [Mean(name="m", column="x")])
    with pytest.raises(DataError, match="different lengths"):
        simulate({"clicks": np.ones(5), "views": np.ones(6)}, [CTR])
    with pytest.raises(DataError, match="There are 3 units"):
        simulate({"x": np.ones(3)}, [Mean(name="m", column="x")])
    with pytest.raises(MetricError, match="Apply filters and windows before"):
        simulate(units, [Retention(name="r", column="clicks")])
    with pytest.raises(ArgumentError, match="runs is 5"):
        simulate(units, [CTR], runs=5)
    with pytest.raises(ArgumentError, match="lift"):
        simulate(units, [CTR], lifts=[-1.0])
    with pytest.raises(LookupError, match="not simulated with a lift"):
        simulate(units, [CTR], runs=20).outcome("ctr", 0.7)


@pytest.mark.skipif(not RETAIL.exists(), reason=f"{RETAIL.name} is not there")
def test_real_orders_give_nominal_rates_and_a_report_finds_a_lift_planted_in_them() -> None:
    """UCI Online Retail: net value per customer in the second half of the year, the first half as covariate."""
    import duckdb

    with duckdb.connect() as connection:
        customers = connection.execute(
            f"""SELECT CustomerID::BIGINT AS customer,
                   sum(CASE WHEN day >= '2011-06-01' THEN pence ELSE 0 END)::DOUBLE AS gmv,
                   sum(CASE WHEN day < '2011-06-01' THEN pence ELSE 0 END)::DOUBLE AS pre
                FROM (SELECT CustomerID, InvoiceDate::VARCHAR AS day, round(100 * Quantity * UnitPrice) AS pence
                      FROM read_csv('{RETAIL}') WHERE CustomerID IS NOT NULL)
                GROUP BY 1 ORDER BY 1"""
        ).fetchdf()
    assert len(customers) > 4300
    capped = Mean(name="capped", column="gmv", covariate="pre", cap=Cap(upper_quantile=0.99, nonzero=True))
    units = {name: customers[name].to_numpy() for name in ("gmv", "pre")}
    simulation = simulate(units, [GMV, capped], lifts=[0.25], runs=400)
    for name in ("gmv", "capped"):
        assert 0.006 <= (simulation.outcome(name).rejected or 0) <= 0.094
        assert (simulation.outcome(name, 0.25).covered or 0) >= 0.906
    plain, less = (simulation.outcome(name).half_width or 0 for name in ("gmv", "capped"))
    assert less < plain  # what a cap is for
    # One split by hash, with a lift planted: the report's interval holds it.
    odd = [hashlib.sha256(f"salt {c}".encode()).digest()[0] % 2 == 1 for c in customers.customer]
    data = customers.assign(variant=np.where(odd, "t", "c"))
    data.loc[odd, "gmv"] *= 1.4
    result = analyze(UserTable(data), [GMV], "c", "t").metric("gmv")
    assert result.low is not None
    assert result.high is not None
    assert result.low < 0.4 < result.high
