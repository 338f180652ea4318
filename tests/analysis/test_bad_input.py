"""Every fault of the data gives an error or a check that names it, and never a silent NaN."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from math import isfinite
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from analysis.columns import Cap
from analysis.errors import AnalysisError, ArmError, DataError, MetricError, MissingColumnError, MixedCurrenciesError
from analysis.metrics import Count, Declared, Mean, Proportion, Quantile, Ratio
from analysis.report import Report, analyze, analyze_arms
from analysis.sources import UserTable

GMV = Mean(name="gmv", column="gmv", role="goal")
CTR = Ratio(name="ctr", numerator="clicks", denominator="views", unit="share")
ALL: tuple[Declared, ...] = (GMV, Count(name="clicks", column="clicks"), CTR, Proportion(name="buyers", column="gmv"),
                             Quantile(name="median", column="gmv"))  # fmt: skip


NAN = [float("nan"), *[1.0] * 599]


def users() -> pd.DataFrame:
    """600 sound users in two arms."""
    rng = np.random.default_rng(0)
    views = rng.integers(5, 30, 600)
    return pd.DataFrame({
        "id": range(600), "variant": ["control", "treatment"] * 300, "views": views,
        "gmv": rng.gamma(2, 20, 600) * rng.binomial(1, 0.9, 600),
        "clicks": rng.binomial(views, 0.2), "pre": rng.gamma(2, 20, 600), "currency": "EUR",
        "day": [date(2026, 6, 1) + timedelta(days=int(d)) for d in rng.integers(0, 5, 600)],
    })  # fmt: skip


def report(data: pd.DataFrame, *metrics: Declared, control: str = "control", **given: Any) -> Report:
    split = given.pop("split", None)
    return analyze(UserTable(data, **given), metrics or ALL, control, "treatment", split)


def changed(column: str, value: object, rows: object = 3) -> pd.DataFrame:
    data = users()
    data[column] = data[column].astype(
        "float64" if isinstance(value, float) else "object" if value is None else data[column].dtype
    )
    data.loc[rows, column] = value
    return data


ERRORS: dict[str, tuple[Callable[[], object], type[AnalysisError], str]] = {
    "one arm, and no other to compare": (
        lambda: analyze_arms(UserTable(users()[lambda u: u.variant == "control"]), ALL, "control"),
        ArmError, "no arm but 'control', so there is nothing to compare it with"),
    "one arm, and the other is not in the data": (
        lambda: report(users()[lambda u: u.variant == "control"]), ArmError,
        "treatment 'treatment' is not an arm of the data. Its arms: 'control'"),
    "no users at all": (lambda: report(users().iloc[:0]), ArmError, "is not an arm of the data. Its arms: none"),
    "NaN, which pandas takes for missing": (
        lambda: report(changed("gmv", float("nan"))), DataError, "Column 'gmv' is NULL in 1 row"),
    "NaN, as Arrow and Parquet have it": (
        lambda: analyze(UserTable(pa.table({"variant": ["control", "treatment"] * 300, "gmv": NAN})), [GMV],
                        "control", "treatment"),
        DataError, "Column gmv of arm 'control' holds NaN"),
    "infinite": (
        lambda: report(changed("gmv", float("inf"))), DataError, "Column gmv of arm 'treatment' holds NaN, infinite"),
    "duplicate users": (
        lambda: report(pd.concat([users(), users().iloc[:7]]), unit="id"), DataError,
        "7 units have several rows in one arm"),
    "a user without an id": (
        lambda: report(changed("id", float("nan")), unit="id"), DataError, "Column 'id' is NULL in some rows"),
    "a user without an arm": (lambda: report(changed("variant", None)), DataError, "Every unit needs an arm"),
    "a control label that does not exist": (
        lambda: report(users(), control="Control"), ArmError,
        "control 'Control' is not an arm of the data. Its arms: 'control', 'treatment'"),
    "mixed currencies without rates": (
        lambda: report(changed("currency", "USD"), currency_column="currency", money=("gmv",)), MixedCurrenciesError,
        r"several currencies \(EUR, USD\)"),
    "cap 0": (
        lambda: report(users(), Mean(name="gmv", column="gmv", cap=Cap(upper=0))), MetricError,
        "leave nothing above 0"),
    "a quantile cap that comes to 0": (
        lambda: report(users().assign(gmv=[9.0] * 3 + [0.0] * 597),
                       Mean(name="gmv", column="gmv", cap=Cap(upper_quantile=0.99))),
        MetricError, "leave nothing above 0"),
    "a naive datetime": (
        lambda: report(users().assign(day=datetime(2026, 6, 1)), day="day"), DataError, "leaves the time zone open"),
    "a metric on a missing column": (
        lambda: report(users(), Mean(name="x", column="gmw")), MissingColumnError,
        "no column 'gmw'. Did you mean 'gmv'"),
    "a metric on words": (
        lambda: report(users(), Mean(name="x", column="currency")), DataError, "a metric needs numbers"),
    "a covariate that is the metric itself": (
        lambda: Mean(name="gmv", column="gmv", covariate="gmv"), MetricError, "its own column 'gmv' as covariate"),
    "no metrics": (
        lambda: analyze(UserTable(users()), [], "control", "treatment"), MetricError, "No metrics were given"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_an_error_that_names_it(name: str) -> None:
    attempt, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        attempt()
    assert str(caught.value).endswith((".", "?"))


def late(days: int) -> Callable[[], Report]:
    """Covariates that end some days after the first exposure (0: with it)."""

    def made() -> Report:
        data = users()
        data["until"] = [day + timedelta(days=days) for day in data.day]
        metric = Mean(name="gmv", column="gmv", covariate="pre")
        return report(data, metric, unit="id", day="day", covariate_until="until")

    return made


CHECKS: dict[str, tuple[Callable[[], Report], str, str, str]] = {
    "an arm without users": (
        lambda: report(users()[lambda u: u.variant == "control"], split={"control": 1, "treatment": 1}),
        "sample_ratio", "fail", "names treatment, but the data has no units"),
    "an arm that nobody planned": (
        lambda: report(changed("variant", "other", slice(0, 50)), split={"control": 1, "treatment": 1}),
        "sample_ratio", "fail", "units in other, which the expected split does not name"),
    "no variance": (lambda: report(users().assign(gmv=5.0)), "variance", "fail", "gmv"),
    "all zeros": (lambda: report(users().assign(gmv=0.0)), "variance", "fail", "every unit has the same value"),
    "negative counts": (
        lambda: report(changed("clicks", -1, slice(0, 8))), "impossible_values", "fail", "clicks below 0 in 9 units"),
    "clicks above impressions": (
        lambda: report(changed("clicks", 99, slice(0, 8))), "impossible_values", "fail",
        "clicks above views in 9 units"),
    "a covariate after exposure": (late(1), "covariates_before_exposure", "fail", "of 600 units extend beyond"),
    "a covariate until exposure": (late(0), "covariates_before_exposure", "ok", "end before first exposure"),
    "a covariate that was measured with the metric": (
        lambda: report(users().assign(pre=lambda u: 2 * u.gmv), Mean(name="gmv", column="gmv", covariate="pre")),
        "covariates_before_exposure", "warn", "Check that it was measured before exposure"),
    "users in two arms": (
        lambda: report(
            pd.concat([users(), users().iloc[:20].assign(variant=["treatment", "control"] * 10)]), unit="id"),
        "units_in_several_arms", "warn", "20 of 600 units"),
    "one buyer with everything": (
        lambda: report(users().assign(gmv=[1e6] + [0.0] * 599)), "few_buyers", "warn", "smallest: 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_bad_input_is_a_check_that_names_it_and_no_number_is_nan(name: str) -> None:
    attempt, check, status, sentence = CHECKS[name]
    made = attempt()
    result = made.check(check)
    assert result.status == status
    assert sentence in result.sentence
    assert (made.verdict.conclusion == "cannot trust") == any(c.status == "fail" for c in made.checks)
    assert all(isfinite(number) for number in numbers(msgspec.to_builtins(made)))
    for row in made.metrics:
        assert row.p is not None or row.note  # what has no number says why


def numbers(document: Any) -> Iterator[float]:
    if isinstance(document, float):
        yield document
    elif isinstance(document, dict | list):
        for part in document.values() if isinstance(document, dict) else document:
            yield from numbers(part)


def test_sound_users_raise_no_alarm() -> None:
    """The unspoiled data passes all checks, so the other tests find only what they spoil."""
    made = report(users(), unit="id", day="day")
    assert {check.status for check in made.checks} == {"ok"}


def test_a_naive_cut_off_of_an_experiment_is_refused() -> None:
    from sqlalchemy import create_engine

    from analysis.sources import ExperimentTables

    with pytest.raises(DataError, match="without a time zone"):
        ExperimentTables(create_engine("sqlite://"), "x", as_of=datetime(2026, 6, 1))
    assert ExperimentTables(create_engine("sqlite://"), "x", as_of=datetime(2026, 6, 1, tzinfo=UTC)).as_of is not None
