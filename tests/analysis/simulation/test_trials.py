"""A trial compares a split exactly as a report does, and its caps and quantiles behave as in a report."""

from typing import Any

import numpy as np
import pytest

from analysis.columns import Cap
from analysis.inference import Effect, compare
from analysis.metrics import Mean, Metric, Quantile, Ratio
from analysis.report import analyze
from analysis.simulation import simulate, trials
from analysis.sources import UserTable

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


def test_a_split_is_compared_exactly_as_a_report_compares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run's effect against a report over the same split with the same lift planted in its table."""
    import pandas as pd

    units, seen = shop(500), []

    def remember(metric: Metric, c: Any, t: Any, **options: Any) -> Any:
        effect = compare(metric, c, t, **options)
        seen.append((metric.name, effect))
        return effect

    monkeypatch.setattr(trials, "compare", remember)
    capped = Mean(name="capped", column="gmv", covariate="pre", cap=Cap(upper_quantile=0.99, nonzero=True))
    simulate(units, [GMV, CTR, capped], lifts=[0.2], runs=20, seed=9)
    treated = (np.random.default_rng(9).random((20, 500)) < 0.5)[0]
    data = pd.DataFrame(units).assign(variant=np.where(treated, "t", "c"))
    data["gmv"] *= np.where(treated, 1.2, 1.0)
    report = analyze(UserTable(data), [GMV], "c", "t").metric("gmv")
    effect = seen[20][1]  # after the 20 runs of gmv without a lift
    assert seen[20][0] == "gmv"
    assert isinstance(effect, Effect)
    assert effect.difference.p == pytest.approx(report.p, rel=1e-9)
    assert effect.lift == pytest.approx(report.lift, rel=1e-9)


def test_a_cap_that_hides_a_part_of_the_lift_shows_as_bias() -> None:
    capped = Mean(name="capped", column="gmv", cap=Cap(upper_quantile=0.5, nonzero=True))
    result = simulate(shop(), [capped], lifts=[0.3], runs=200).outcome("capped", 0.3)
    assert result.bias is not None
    assert result.bias < -0.1
    assert result.covered is not None
    assert result.covered < 0.9


def test_a_quantile_among_equal_values_rejects_too_rarely_and_never_too_often() -> None:
    units = {"views": np.arange(2000) % 10, "flat": np.ones(2000)}
    metrics = [Quantile(name=name, column=name) for name in units]
    simulation = simulate(units, metrics, lifts=[0.1], runs=50)
    assert (simulation.outcome("views").rejected, simulation.outcome("views").undefined) == (0.0, 0)
    assert simulation.outcome("views", 0.1).covered == 1.0
    assert (simulation.outcome("flat").rejected, simulation.outcome("flat").undefined) == (None, 50)
    assert simulation.outcome("flat").rejected_ci is None
    assert not simulation.outcome("views").doubtful
