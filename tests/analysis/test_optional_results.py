"""Optional results of a report equal the library's functions on the compared values."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sqlalchemy import create_engine

from analysis.bayes import Prior
from analysis.columns import Cap, Filter
from analysis.metrics import Mean, Proportion, Quantile, Ratio
from analysis.report import Report, analyze
from analysis.resampling import bootstrap, permutation_test, ratio
from analysis.sources import ExperimentTables, SqlTable, UserTable

CAPPED = Mean(name="capped", column="gmv", cap=Cap(upper_quantile=0.9, nonzero=True))
CTR = Ratio(name="ctr", numerator="clicks", denominator="views", where=(Filter("country", "=", "de"),))


def users(n: int = 1500, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    views = rng.integers(1, 20, n)
    return pd.DataFrame(
        {
            "variant": rng.choice(["a", "b"], n),
            "gmv": np.where(rng.random(n) < 0.3, rng.lognormal(3, 1, n), 0),
            "clicks": rng.binomial(views, 0.2),
            "views": views,
            "country": rng.choice(["de", "fr"], n),
        }
    )


def asked(source: Any, *metrics: Any, **options: Any) -> Report:
    return analyze(source, list(metrics), "a", "b", **options)


def test_resampling_is_of_the_metrics_values_with_caps_filters_and_signs() -> None:
    data = users()
    buyers = Proportion(name="buyers", column="gmv")
    report = asked(UserTable(data), CAPPED, CTR, buyers, Quantile(name="q", column="gmv"), resamples=400, seed=5)
    arms = [data[data.variant == arm] for arm in "ab"]
    limit = report.metric("capped").cap
    assert limit is not None
    columns: dict[str, list[Any]] = {
        "capped": [arm.gmv.clip(upper=limit.upper).to_numpy() for arm in arms],
        "buyers": [(arm.gmv > 0).to_numpy(float) for arm in arms],
        "ctr": [arm[["clicks", "views"]].where(arm.country == "de", 0).to_numpy(float) for arm in arms],
    }
    for name, (control, treatment) in columns.items():
        result = report.metric(name).resampled
        assert result is not None
        rng = np.random.default_rng(5)
        options: Any = {"statistic": ratio} if name == "ctr" else {}
        theirs = bootstrap(control, treatment, rng, resamples=400, **options)
        assert (result.low, result.high) == pytest.approx((theirs.low, theirs.high))
        kind: Any = "ratio" if name == "ctr" else "mean"
        assert result.p == permutation_test(control, treatment, rng, kind=kind, resamples=400).p
        if name != "ctr":
            ranks = stats.mannwhitneyu(treatment, control)
            assert result.superiority == pytest.approx(ranks.statistic / (len(control) * len(treatment)))
            assert result.superiority_p == pytest.approx(ranks.pvalue)
    assert report.metric("ctr").resampled.superiority is None  # type: ignore[union-attr]
    assert report.metric("q").resampled is None
    assert asked(UserTable(data), CAPPED).metric("capped").resampled is None


def test_resampling_is_the_same_from_a_database_and_in_any_order_of_rows_and_metrics(filled_shop: Any) -> None:
    data = users(400)
    engine = create_engine("sqlite://")
    data.to_sql("users", engine, index=False)
    reports = [
        asked(UserTable(data), CAPPED, CTR, resamples=100),
        asked(UserTable(data.iloc[::-1]), CTR, CAPPED, resamples=100),
        asked(SqlTable(engine, "users"), CAPPED, CTR, resamples=100),
    ]
    for name in ("capped", "ctr"):
        first, *others = [report.metric(name).resampled for report in reports]
        assert first is not None
        for other in others:
            assert other is not None
            assert (other.low, other.high, other.p) == pytest.approx((first.low, first.high, first.p), rel=1e-9)
    engine.dispose()
    source = ExperimentTables(filled_shop.engine, "ranking")
    metric = Mean(name="clicks", column="clicks")
    result = analyze(source, [metric], "control", "treatment", resamples=2000).metric("clicks")
    assert result.resampled is not None
    assert result.low is not None
    assert result.resampled.low == pytest.approx(result.low, abs=0.03)
    assert result.resampled.p == pytest.approx(result.p, abs=0.05)


def test_equivalence_holds_exactly_when_the_reports_interval_lies_within_the_margin() -> None:
    for seed in range(6):
        for margin in (0.02, 0.05, 0.2):
            row = asked(UserTable(users(seed=seed)), CTR, equivalence=margin).metric("ctr")
            assert row.equivalence is not None
            assert row.low is not None
            assert row.high is not None
            assert row.equivalence.holds == (-margin < row.low and row.high < margin)
            assert (row.equivalence.low, row.equivalence.high) == pytest.approx((row.low, row.high))
            assert row.equivalence.holds == (row.equivalence.p < 0.025)


def test_a_posterior_states_its_prior_and_a_flat_one_is_null() -> None:
    source = UserTable(users())
    row = asked(source, CTR, prior=Prior(0.0, 0.01)).metric("ctr")
    assert row.posterior is not None
    assert row.lift is not None
    assert (row.posterior.prior_mean, row.posterior.prior_sd) == (0.0, 0.01)
    assert abs(row.posterior.lift) < abs(row.lift)
    flat = asked(source, CTR, prior=Prior(0.0, float("inf"))).metric("ctr").posterior
    assert flat is not None
    assert flat.prior_sd is None
    assert flat.lift == pytest.approx(row.lift)


def test_what_has_no_effect_has_no_posterior_and_shows_no_equivalence() -> None:
    flat = asked(
        UserTable(users().assign(gmv=0.0)),
        Mean(name="m", column="gmv"),
        equivalence=0.1,
        prior=Prior(0, 1),
        resamples=100,
    ).metric("m")
    assert (flat.posterior, flat.resampled) == (None, None)
    assert flat.equivalence is not None
    assert (flat.equivalence.holds, flat.equivalence.p) == (False, 1.0)
