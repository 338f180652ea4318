"""Differences that are small against the values, and arms whose values do not vary."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import create_engine

from analysis.adjustment import post_stratify
from analysis.aggregates import Moments
from analysis.inference import Effect, Undefined, compare
from analysis.metrics import Mean, Metric, Ratio
from analysis.sample_moments import sample_moments
from analysis.sources import SqlTable, UserTable

GMV = Mean(name="gmv", column="gmv")
ADJUSTED = Mean(name="gmv", column="gmv", covariate="pre")


def read(data: pd.DataFrame, kind: str, folder: Path) -> Any:
    if kind == "frame":
        return UserTable(data)
    if kind == "parquet":
        data.to_parquet(folder / "u.parquet")
        return UserTable(folder / "u.parquet")
    engine = create_engine(f"sqlite:///{folder / 'u.db'}")
    data.to_sql("users", engine, index=False)
    return SqlTable(engine, "users")


def moments(data: pd.DataFrame, kind: str, folder: Path, metric: Metric) -> tuple[Moments, Moments]:
    aggregates = read(data, kind, folder).collect(metric.needs).aggregates
    return aggregates.moments("0"), aggregates.moments("1")


def exact_difference(data: pd.DataFrame, column: str = "gmv") -> float:
    """Treatment minus control in whole-number arithmetic."""
    sums = [(int(sum(map(int, part[column]))), len(part)) for _, part in data.groupby("variant")]
    (control, n), (treatment, m) = sums
    return (treatment * n - control * m) / (n * m)


@pytest.mark.parametrize("kind", ["frame", "parquet", "sqlite"])
def test_nanosecond_timestamps_keep_their_difference(kind: str, tmp_path: Path) -> None:
    """Doubles near 1.8e18 have steps of 256: the rounded means differ by a multiple of it."""
    rng = np.random.default_rng(3)
    start = 1_780_000_000_000_000_000
    data = pd.DataFrame({"variant": np.arange(2000) % 2, "gmv": start + rng.integers(0, 20_000, 2000)})
    expected = exact_difference(data)
    assert expected % 256 > 1
    effect = compare(GMV, *moments(data, kind, tmp_path, GMV))
    assert isinstance(effect, Effect)
    assert effect.difference.value == pytest.approx(expected, abs=1e-6)
    assert effect.difference.low < expected < effect.difference.high


@pytest.mark.parametrize("kind", ["frame", "parquet", "sqlite"])
@pytest.mark.parametrize("adjusted", [False, True])
def test_small_counts_on_a_large_constant_keep_their_difference(kind: str, adjusted: bool, tmp_path: Path) -> None:
    """Doubles near 1e15 have steps of 0.125: the rounded means are equal. CUPED gives what it gives without 1e15."""
    rng = np.random.default_rng(8)
    counts = pd.DataFrame({"variant": np.arange(20_000) % 2, "gmv": rng.poisson(0.5, 20_000)})
    counts["pre"] = counts.gmv + rng.poisson(0.5, 20_000)
    metric = ADJUSTED if adjusted else GMV
    data = counts.assign(gmv=counts.gmv + 10**15, pre=counts.pre + 10**15)
    effect = compare(metric, *moments(data, kind, tmp_path, metric))
    small = compare(metric, *moments(counts, "frame", tmp_path, metric))
    assert isinstance(effect, Effect)
    assert isinstance(small, Effect)
    assert abs(small.difference.value) < 0.02
    assert effect.difference.value == pytest.approx(small.difference.value, rel=1e-6)
    assert effect.difference.p == pytest.approx(small.difference.p, rel=1e-6)


def test_arrays_strata_and_ratios_keep_their_difference_too() -> None:
    rng = np.random.default_rng(8)
    arms = [rng.poisson(0.5, 5000) for _ in range(2)]
    plain = [sample_moments(GMV.needs, {"gmv": arm}) for arm in arms]
    large = [sample_moments(GMV.needs, {"gmv": arm + 10**15}) for arm in arms]
    expected = float(arms[1].mean() - arms[0].mean())
    for control, treatment in (tuple(large), post_stratify({"a": (large[0], large[1]), "b": (large[0], large[1])})):
        effect = compare(GMV, control, treatment)
        assert isinstance(effect, Effect)
        assert effect.difference.value == pytest.approx(expected, rel=1e-9)
    assert isinstance(compare(GMV, *plain), Effect)
    ratio = Ratio(name="r", numerator="gmv", denominator="n", unit="count")
    pairs = [sample_moments(ratio.needs, {"gmv": arm + 10**15, "n": np.ones(5000)}) for arm in arms]
    effect = compare(ratio, *pairs)
    assert isinstance(effect, Effect)
    assert effect.difference.value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("values", [(5, 6), (0.05, 0.06), (1e9 + 0.1, 1e9 + 0.3)])
@pytest.mark.parametrize("kind", ["frame", "parquet", "sqlite"])
@pytest.mark.parametrize("adjusted", [False, True])
def test_arms_that_are_each_constant_do_not_vary(
    kind: str, values: tuple[float, float], adjusted: bool, tmp_path: Path
) -> None:
    """986 users at 5 and 1,014 at 6: rounding once left a variance of 1e-17, and the report said Ship."""
    arm = np.repeat([0, 1], (986, 1014))
    data = pd.DataFrame({"variant": arm, "gmv": np.where(arm, values[1], values[0]), "pre": np.arange(2000.0) % 7})
    metric = ADJUSTED if adjusted else GMV
    result = compare(metric, *moments(data, kind, tmp_path, metric))
    assert result == Undefined("the metric does not vary in either arm")


def test_a_ratio_that_is_the_same_for_every_unit_does_not_vary(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arm = np.repeat([0, 1], (986, 1014))
    views = rng.integers(1, 50, 2000)
    data = pd.DataFrame({"variant": arm, "views": views, "clicks": views * np.where(arm, 0.3, 0.1)})
    ratio = Ratio(name="ctr", numerator="clicks", denominator="views")
    result = compare(ratio, *moments(data, "frame", tmp_path, ratio))
    assert result == Undefined("the metric does not vary in either arm")
