"""YAML declares the same metrics as Python; an unknown field is an error that names its place."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from analysis.columns import Cap, Filter, Window
from analysis.config import load_metrics, parse_metrics
from analysis.currencies import Rates
from analysis.errors import MetricError, SourceError
from analysis.metrics import Count, Mean, Proportion, Quantile, Ratio, Retention

GOOD = """
metrics:
  - kind: mean
    name: gmv_per_user
    column: gmv_net
    unit: money
    role: goal
    owner: pricing
    covariate: gmv_net_pre
    covariates: [clicks_pre/impressions_pre]
    cap: {upper_quantile: 0.99, nonzero: true}
  - {kind: count, name: clicks, column: clicks, direction: decrease}
  - kind: ratio
    name: ctr_home
    numerator: clicks
    denominator: impressions
    role: guardrail
    margin: 0.02
    where: [{column: surface, op: "=", value: home}, {column: product_id, op: in, value: [p1, p2]}]
  - {kind: proportion, name: buyers, column: orders}
  - {kind: retention, name: second_week, window: [7, 14]}
  - {kind: quantile, name: big, column: gmv_net, q: 0.9}
rates: {base: EUR, as_of: 2026-06-01, source: ECB, rates: {USD: 0.92}}
"""


def test_yaml_declares_what_python_would(tmp_path: Path) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(GOOD, encoding="utf-8")
    declared = load_metrics(path)
    where = (Filter("surface", "=", "home"), Filter("product_id", "in", ("p1", "p2")))
    assert declared.metrics == (
        Mean(name="gmv_per_user", column="gmv_net", unit="money", role="goal", owner="pricing",
             covariate="gmv_net_pre", covariates=("clicks_pre/impressions_pre",),
             cap=Cap(upper_quantile=0.99, nonzero=True)),
        Count(name="clicks", column="clicks", direction="decrease"),
        Ratio(name="ctr_home", numerator="clicks", denominator="impressions", role="guardrail", margin=0.02,
              where=where),
        Proportion(name="buyers", column="orders"),
        Retention(name="second_week", window=Window(timedelta(days=7), timedelta(days=14))),
        Quantile(name="big", column="gmv_net", q=0.9),
    )  # fmt: skip
    assert declared.rates == Rates("EUR", {"USD": 0.92}, date(2026, 6, 1), "ECB")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics: [", "is not YAML"),
        ("[1]", "has no list of metrics"),
        ("metrics: []", "No metrics were given"),
        (
            "metrics: [{kind: mean, name: a, column: x}, {kind: mean, name: a, column: y}]",
            "Two metrics have the name 'a'",
        ),
        ("metrics: [{kind: maen, name: a}]", r"metric 1 \(a\): the kind is 'maen', and must be one of mean, count"),
        ("metrics: [{kind: mean, name: a, colum: x}]", r"unknown field 'colum'\. Did you mean 'column'"),
        ("metrics: [{kind: mean, name: a}]", r"metric 1 \(a\): .*column"),
        ("metrics: [{kind: mean, name: a, column: 7}]", "Expected `str`"),
        ("metrics: [{kind: mean, name: a, column: x, role: golf}]", "Invalid enum value 'golf'"),
        ("metrics: [{kind: mean, name: a, column: x, cap: {upper: 0}}]", "would leave nothing above 0"),
        ("metrics: [{kind: mean, name: a, column: x, cap: {uper: 9}}]", "unknown field 'uper'"),
        ("metrics: [{kind: mean, name: a, column: x, where: [{column: c, opp: '='}]}]", "unknown field 'opp'"),
        ("metrics: [{kind: mean, name: a, column: x, window: 7}]", "must be two numbers of days"),
        ("metrics: [{kind: retention, name: a, window: [14, 7]}]", "A window runs from 14 days"),
        ("metrics: [7]", "metric 1 is 7"),
        ("metrics: [{kind: mean, name: a, column: x}]\nrates: {base: EUR}", "rates: .*rates"),
        ("metrics: [{kind: mean, name: a, column: x}]\nrate: {}", "unknown field 'rate'"),
    ],
)
def test_unread_and_invalid_fields_are_refused_with_their_place(text: str, message: str) -> None:
    with pytest.raises(MetricError, match=message) as caught:
        parse_metrics(text, name="shop.yaml")
    assert str(caught.value).startswith("shop.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.yaml cannot be read"):
        load_metrics(tmp_path / "nowhere.yaml")
